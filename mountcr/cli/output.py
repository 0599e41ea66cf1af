# SPDX-License-Identifier: Apache-2.0
"""Documents, outlines and texts on standard output or in a file; talk on standard error."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING

import msgspec

from mountcr.render.text import one_line

if TYPE_CHECKING:
    from mountcr.render.outline import Outline
    from mountcr.render.table import Table

__all__ = [
    "note",
    "print_document",
    "print_outline",
    "print_table",
    "print_text",
    "talk",
    "to_json",
    "write_file",
]


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


def print_table(table: Table) -> None:
    """Print a table: fitted to a terminal, as aligned text otherwise."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(table.rich())
    else:
        sys.stdout.write(table.plain())


def print_text(text: str) -> None:
    """Print text in UTF-8, surrogate escapes as the bytes that they stand for."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))


def write_file(path: str, text: str) -> None:
    """
    Write a file, whole or not at all; what was there before is replaced.

    A file that is no regular one, as a pipe or a device, is written into. Raises OSError naming
    the file; nothing is left beside it.
    """
    content = text.encode("utf-8", "surrogateescape")
    try:
        if _is_special(path):
            with open(path, "wb") as file:
                file.write(content)
        else:
            _replace(os.path.realpath(path), content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _replace(path: str, content: bytes) -> None:
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name[:200]}.{os.getpid()}.new")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def note(line: str) -> None:
    """Say what is to be known beside the result; it may come from an archive of anybody."""
    talk(f"note: {line}")


def talk(line: str) -> None:
    """Say something that is not the result, in one line."""
    print(one_line(line), file=sys.stderr)
