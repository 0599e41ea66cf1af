# SPDX-License-Identifier: Apache-2.0
"""`mountcr compat`: what a container that is dumped on one host meets on another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.output import print_document, print_outline
from mountcr.operations.compat import compare_files
from mountcr.planning.records import Verdict
from mountcr.render.compat import outline_compat

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; 4 when a container of the one host is refused on the other one."""
    found = compare_files(arguments.source, arguments.target)
    if arguments.json:
        print_document(found)
    else:
        print_outline(outline_compat(found))
    return 4 if found.verdict is Verdict.REFUSED else 0
