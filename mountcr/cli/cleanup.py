# SPDX-License-Identifier: Apache-2.0
"""`mountcr cleanup`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.output import print_document
from mountcr.errors import LeftBehindError
from mountcr.operations.cleanup import cleanup

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Remove what killed operations left behind, or say what would be removed."""
    result = cleanup(dry_run=arguments.dry_run)
    if arguments.json:
        print_document(result)
    else:
        done = "would remove" if arguments.dry_run else "removed"
        for each in result.removed:
            print(f"{done} {each}")
    if result.left:
        msg = f"could not remove: {'; '.join(result.left)}"
        raise LeftBehindError(msg, result.left, hint="see to what stands in the way, and try again")
    return 0
