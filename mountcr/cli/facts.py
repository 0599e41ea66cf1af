# SPDX-License-Identifier: Apache-2.0
"""`mountcr facts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import facts_of
from mountcr.cli.output import print_document

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print the facts, which are JSON in any case."""
    print_document(facts_of(arguments, thorough=True))
    return 0
