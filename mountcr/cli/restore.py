# SPDX-License-Identifier: Apache-2.0
"""`mountcr restore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.bundle.names import is_archive
from mountcr.cli.inputs import (
    absolute,
    archive_choices,
    check_of,
    choices_of,
    without_driver,
)
from mountcr.cli.output import note, print_document, print_outline
from mountcr.cli.progress import shown_progress
from mountcr.criu.options import Kind
from mountcr.operations.foreign_import import as_bundle
from mountcr.operations.importing import plan_bundle
from mountcr.operations.refusal import refuse
from mountcr.operations.restore import plan_restore, restore
from mountcr.operations.restore_bundle import restore_bundle
from mountcr.render.plan import outline_plan

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Restore, or only plan; 5 when the mount table is not as it was and no loss said so."""
    choices = choices_of(arguments)
    archive = is_archive(arguments.images)
    if archive:
        choices = without_driver(choices)
    images = absolute(arguments.images)
    if arguments.dry_run:
        if archive:
            with as_bundle(arguments.images, tell=note) as bundle:
                plan = plan_bundle(
                    bundle, archive_choices(arguments), choices, check=check_of(arguments)
                )
        else:
            _, plan = plan_restore(images, choices, via=arguments.via)
        if arguments.json:
            print_document(plan)
        else:
            print_outline(outline_plan(plan, purpose=Kind.RESTORE))
        refuse(plan, "the restore")
        return 0
    with shown_progress("copying") as progress:
        if archive:
            with as_bundle(arguments.images, tell=note) as bundle:
                imported, result = restore_bundle(
                    bundle,
                    archive_choices(arguments),
                    choices,
                    check=check_of(arguments),
                    stdio=arguments.stdio,
                    via=arguments.via,
                    progress=progress,
                )
            for each in imported.notes:
                note(each)
        else:
            result = restore(
                images, choices, stdio=arguments.stdio, via=arguments.via, progress=progress
            )
    if arguments.json:
        print_document(result)
    else:
        for difference in result.differences:
            print(f"differs: {difference}")
        print(f"restored as pid {result.pid} in {result.seconds.total:.2f} s")
    return 0 if result.announced else 5
