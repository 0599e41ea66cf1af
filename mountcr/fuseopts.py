# SPDX-License-Identifier: Apache-2.0
r"""
The command line of a FUSE server: words to options and layers, and back.

Options come after `-o`, separated by commas; a backslash takes the next character, or three octal
digits, for what they are (libfuse, lib/fuse_opt.c, `process_real_option_group()`). unionfs-fuse
takes its branches as `/up=RW:/lo1=RO:/lo2` in a word of its own or in `dirs=` (src/opts.c,
`parse_branches()`), fuse-overlayfs its lower directories as `lowerdir=/lo1:/lo2` (main.c,
`read_dirs()`). Neither has an escape for a colon, and unionfs-fuse none for an equals sign.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.paths import decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mountcr.paths import KPath

__all__ = [
    "Branch",
    "FuseCommand",
    "format_branches",
    "format_options",
    "parse_branches",
    "parse_command",
]


class FuseCommand(NamedTuple):
    """The name of the program, its options without escapes, and the words that are no options."""

    program: str
    options: tuple[bytes, ...]
    words: tuple[bytes, ...]

    def value(self, name: bytes) -> bytes | None:
        """Give the value of an option `name=value`, the last one; None where there is none."""
        found = None
        for option in self.options:
            key, equals, value = option.partition(b"=")
            if equals and key == name:
                found = value
        return found


class Branch(NamedTuple):
    """A branch of unionfs-fuse."""

    path: bytes
    writable: bool


_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2}|.)", re.DOTALL)
_OPTION: Final = re.compile(rb"((?:\\.|[^,\\]|\\$)*)(?:,|$)", re.DOTALL)


def _unescape(match: re.Match[bytes]) -> bytes:
    found = match[1]
    return found if len(found) == 1 else bytes([int(found, 8)])


def _split(text: bytes) -> list[bytes]:
    """Split the argument of -o into its options."""
    return [_ESCAPE.sub(_unescape, each) for each in _OPTION.findall(text) if each]


def parse_command(words: Sequence[KPath]) -> FuseCommand:
    """Take a command line apart; options that are a flag of one letter are left out."""
    raw = [decode(word) for word in words]
    program = encode(raw[0].rpartition(b"/")[2]) if raw else ""
    options: list[bytes] = []
    plain: list[bytes] = []
    rest = iter(raw[1:])
    for word in rest:
        if word == b"--":
            plain += rest
        elif word == b"-o":
            options += _split(next(rest, b""))
        elif word.startswith(b"-o"):
            options += _split(word[2:])
        elif not word.startswith(b"-") or word == b"-":
            plain.append(word)
    return FuseCommand(program, tuple(options), tuple(plain))


def format_options(options: Iterable[bytes]) -> KPath:
    """Give the word after -o that `parse_command` takes apart."""
    return encode(b",".join(re.sub(rb"[\\,]", rb"\\\g<0>", each) for each in options))


def parse_branches(text: bytes) -> tuple[Branch, ...]:
    """Parse the branches of unionfs-fuse, top first; what does not say RW is read-only."""
    found: list[Branch] = []
    for part in filter(None, text.split(b":")):
        path, *permission = part.split(b"=")
        found.append(Branch(path, bool(permission) and permission[0].lower() == b"rw"))
    return tuple(found)


def format_branches(branches: Iterable[Branch]) -> KPath:
    """
    Give the word that `parse_branches` took.

    Raises ValueError, with the path, for one that has a colon or an equals sign or is empty.
    """
    parts: list[bytes] = []
    for path, writable in branches:
        if not path or b":" in path or b"=" in path:
            raise ValueError(encode(path))
        parts.append(path + (b"=RW" if writable else b"=RO"))
    return encode(b":".join(parts))
