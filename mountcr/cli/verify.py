# SPDX-License-Identifier: Apache-2.0
"""`mountcr verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.bundle.names import is_archive
from mountcr.cli.inputs import absolute, check_of, is_foreign, roots_of
from mountcr.cli.output import note, print_document
from mountcr.operations.foreign_verify import verify_foreign
from mountcr.operations.verify import verify, verify_bundle

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print what is not as it was at the dump; 5 when there is something."""
    if is_foreign(arguments.images):
        result = verify_foreign(arguments.images, roots=roots_of(arguments), quick=arguments.quick)
    elif is_archive(arguments.images):
        check = check_of(arguments)
        result = verify_bundle(arguments.images, check=check, quick=arguments.quick)
    else:
        result = verify(absolute(arguments.images), quick=arguments.quick)
    if arguments.json:
        print_document(result)
    else:
        for difference in result.differences:
            print(f"{difference.path}: {difference.what}")
    for line in result.notes:
        note(line)
    return 5 if result.differences else 0
