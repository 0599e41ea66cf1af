# SPDX-License-Identifier: Apache-2.0
"""`mountcr import`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import archive_choices, check_of, roots_of
from mountcr.cli.output import note, print_document
from mountcr.cli.progress import shown_progress
from mountcr.operations.foreign_import import as_bundle
from mountcr.operations.importing import import_bundle

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Put a bundle on this host and say where its images are."""
    roots = roots_of(arguments)
    with (
        as_bundle(arguments.bundle, roots=roots, tell=note) as bundle,
        shown_progress("importing") as progress,
    ):
        result = import_bundle(
            bundle,
            archive_choices(arguments),
            roots=roots,
            check=check_of(arguments),
            progress=progress,
        )
    for each in result.notes:
        note(each)
    if arguments.json:
        print_document(result)
    else:
        print(result.images)
    return 0
