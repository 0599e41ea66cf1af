# SPDX-License-Identifier: Apache-2.0
"""`mountcr rebuild`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import absolute, choices_of, facts_of
from mountcr.cli.output import print_document, talk
from mountcr.cli.progress import shown_progress
from mountcr.execute import Recorder, applied
from mountcr.operations.rebuild import RebuildResult, plan_rebuild, rebuild
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Mount the root file system, or say how."""
    choices = choices_of(arguments)
    at = absolute(arguments.at)
    rootfs = plan_rebuild(make_plan(facts_of(arguments), choices), at)
    if arguments.dry_run:
        with applied(rootfs.steps, Recorder()):
            steps = tuple(step.describe() for step in rootfs.steps)
        result = RebuildResult(mountpoint=at, driver=rootfs.driver, steps=steps)
    else:
        with shown_progress("copying") as progress:
            result = rebuild(
                rootfs, at, report=lambda step: talk(f"+ {step.describe()}"), progress=progress
            )
    if arguments.json:
        print_document(result)
    elif arguments.dry_run:
        print("\n".join(result.steps))
    else:
        print(result.mountpoint)
    return 0
