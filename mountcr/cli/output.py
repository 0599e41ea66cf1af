# SPDX-License-Identifier: Apache-2.0
"""Documents and outlines on standard output; talk on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mountcr.render.outline import Outline

__all__ = ["print_document", "print_outline", "talk", "to_json"]


def to_json(document: object) -> str:
    """Give a document as indented JSON with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def print_document(document: object) -> None:
    """Print a document as JSON."""
    sys.stdout.write(to_json(document))


def print_outline(outline: Outline) -> None:
    """Print an outline: with colours on a terminal, as plain text otherwise."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False, soft_wrap=True).print(outline.tree())
    else:
        sys.stdout.write(outline.plain())


def talk(line: str) -> None:
    """Say something that is not the result."""
    print(line, file=sys.stderr)
