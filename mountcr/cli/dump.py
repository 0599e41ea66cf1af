# SPDX-License-Identifier: Apache-2.0
"""`mountcr dump`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import choices_of, container_of, facts_of
from mountcr.cli.output import print_document, print_outline, talk
from mountcr.operations.dump import dump
from mountcr.operations.refusal import refuse
from mountcr.planning.planner import make_plan
from mountcr.render.plan import outline_plan
from mountcr.rootfs.fingerprint import Extent

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Dump, or only plan."""
    choices = choices_of(arguments)
    if arguments.dry_run:
        plan = make_plan(facts_of(arguments), choices)
        if arguments.json:
            print_document(plan)
        else:
            print_outline(outline_plan(plan))
        refuse(plan, "the dump")
        return 0
    extent = None if arguments.fingerprint == "none" else Extent(arguments.fingerprint)
    result = dump(container_of(arguments), choices, fingerprint=extent)
    for each in result.unseen:
        talk(f"note: no {each.what}: {each.why}")
    if arguments.json:
        print_document(result)
    else:
        seconds = result.seconds
        print(f"dumped to {result.images} in {seconds.total:.2f} s, frozen {seconds.frozen:.2f} s")
    return 0
