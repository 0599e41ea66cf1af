# SPDX-License-Identifier: Apache-2.0
"""`mountcr rebuild`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.bundle.names import is_archive
from mountcr.cli.inputs import (
    absolute,
    archive_choices,
    check_of,
    choices_of,
    facts_of,
    roots_of,
    without_driver,
)
from mountcr.cli.output import note, print_document, talk
from mountcr.cli.progress import shown_progress
from mountcr.errors import UsageError
from mountcr.execute import Recorder, applied
from mountcr.operations.rebuild import RebuildResult, plan_rebuild, rebuild
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from mountcr.paths import KPath
    from mountcr.planning.steps import Step

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Mount the root file system, or say how."""
    at = absolute(arguments.at)
    archive = is_archive(arguments.reference)
    result = _of_archive(arguments, at) if archive else _of_container(arguments, at)
    if arguments.json:
        print_document(result)
    elif arguments.dry_run:
        print("\n".join(result.steps))
    else:
        print(result.mountpoint)
    return 0


def _of_container(arguments: argparse.Namespace, at: KPath) -> RebuildResult:
    rootfs = plan_rebuild(make_plan(facts_of(arguments), choices_of(arguments)), at)
    if arguments.dry_run:
        return _described(at, rootfs.driver, rootfs.steps)
    with shown_progress("copying") as progress:
        return rebuild(rootfs, at, report=_report, progress=progress)


def _of_archive(arguments: argparse.Namespace, at: KPath) -> RebuildResult:
    from mountcr.operations.foreign_import import as_bundle
    from mountcr.operations.rebuild_bundle import plan_rebuild_bundle, rebuild_bundle

    choices = without_driver(choices_of(arguments))
    if choices.upper is not None:
        msg = "--upper says where changes of a container of this host go"
        raise UsageError(msg, hint="a bundle has a new writable layer each time; leave it out")
    wanted, roots = archive_choices(arguments), roots_of(arguments)
    check = check_of(arguments)
    with as_bundle(arguments.reference, roots=roots, tell=note) as bundle:
        if arguments.dry_run:
            planned = plan_rebuild_bundle(bundle, wanted, choices, at, roots=roots, check=check)
            return _described(at, *planned)
        with shown_progress("importing") as progress:
            imported, result = rebuild_bundle(
                bundle,
                wanted,
                choices,
                at,
                roots=roots,
                check=check,
                report=_report,
                progress=progress,
            )
    for each in imported.notes:
        note(each)
    return result


def _described(at: KPath, driver: str, steps: Iterable[Step]) -> RebuildResult:
    steps = tuple(steps)
    with applied(steps, Recorder()):
        told = tuple(step.describe() for step in steps)
    return RebuildResult(mountpoint=at, driver=driver, steps=told)


def _report(step: Step) -> None:
    talk(f"+ {step.describe()}")
