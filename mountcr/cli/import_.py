# SPDX-License-Identifier: Apache-2.0
"""`mountcr import`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import archive_choices, check_of, roots_of
from mountcr.cli.output import print_document
from mountcr.cli.progress import shown_progress
from mountcr.operations.importing import import_bundle

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Put a bundle on this host and say where its images are."""
    with shown_progress("importing") as progress:
        result = import_bundle(
            arguments.bundle,
            archive_choices(arguments),
            roots=roots_of(arguments),
            check=check_of(arguments),
            progress=progress,
        )
    if arguments.json:
        print_document(result)
    else:
        print(result.images)
    return 0
