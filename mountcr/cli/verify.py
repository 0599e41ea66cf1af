# SPDX-License-Identifier: Apache-2.0
"""`mountcr verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.bundle.names import is_archive
from mountcr.cli.inputs import absolute, check_of
from mountcr.cli.output import print_document, talk
from mountcr.operations.verify import verify, verify_bundle

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print what is not as it was at the dump; 5 when there is something."""
    if is_archive(arguments.images):
        check = check_of(arguments)
        result = verify_bundle(arguments.images, check=check, quick=arguments.quick)
    else:
        result = verify(absolute(arguments.images), quick=arguments.quick)
    if arguments.json:
        print_document(result)
    else:
        for difference in result.differences:
            print(f"{difference.path}: {difference.what}")
    for note in result.notes:
        talk(f"note: {note}")
    return 5 if result.differences else 0
