# SPDX-License-Identifier: Apache-2.0
"""`mountcr umount`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import absolute
from mountcr.cli.output import print_document
from mountcr.operations.rebuild import unmount

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Unmount what a rebuild mounted."""
    at = absolute(arguments.at)
    unmount(at)
    if arguments.json:
        print_document({"schema": "mountcr/umount/1", "mountpoint": at})
    return 0
