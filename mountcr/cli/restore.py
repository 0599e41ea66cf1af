# SPDX-License-Identifier: Apache-2.0
"""`mountcr restore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import absolute, choices_of
from mountcr.cli.output import print_document, print_outline
from mountcr.cli.progress import shown_progress
from mountcr.criu.options import Kind
from mountcr.operations.refusal import refuse
from mountcr.operations.restore import plan_restore, restore
from mountcr.render.plan import outline_plan

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Restore, or only plan; 5 when the mount table is not as it was and no loss said so."""
    choices = choices_of(arguments)
    images = absolute(arguments.images)
    if arguments.dry_run:
        _, plan = plan_restore(images, choices, via=arguments.via)
        if arguments.json:
            print_document(plan)
        else:
            print_outline(outline_plan(plan, purpose=Kind.RESTORE))
        refuse(plan, "the restore")
        return 0
    with shown_progress("copying") as progress:
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
