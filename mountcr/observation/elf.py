# SPDX-License-Identifier: Apache-2.0
"""
The build-id of an ELF file, as CRIU finds it.

CRIU looks for the note in the first MiB and compares it when it opens the file again
(criu/files-reg.c, `get_build_id_64()`), unless it was told to compare sizes only.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["build_id", "parse"]

_LOOKED_AT: Final = 1 << 20
_PT_NOTE: Final = 4
_NT_GNU_BUILD_ID: Final = 3
_NOTE: Final = struct.Struct("<III")
_LONGEST: Final = 512


class _Layout(NamedTuple):
    """Where elf(5) has things, by the class of the file: offset and size of integers."""

    phoff: tuple[int, int]
    phnum: int
    entry: int
    offset: tuple[int, int]
    size: tuple[int, int]


_LAYOUTS: Final = {
    1: _Layout((28, 4), 44, 32, (4, 4), (16, 4)),
    2: _Layout((32, 8), 56, 56, (8, 8), (32, 8)),
}


def build_id(fd: int) -> str:
    """Give the build-id of an open file in hexadecimal; empty if it has none. Raises OSError."""
    head = os.pread(fd, 5, 0)
    return parse(os.pread(fd, _LOOKED_AT, 0)) if head[:4] == b"\x7fELF" else ""


def parse(content: bytes) -> str:
    """Find the build-id in the beginning of a little-endian ELF file; empty if it has none."""
    layout = _LAYOUTS.get(content[4]) if len(content) > 64 else None  # noqa: PLR2004
    if layout is None or content[:4] != b"\x7fELF":
        return ""
    start = _integer(content, layout.phoff[0], layout.phoff[1])
    for number in range(_integer(content, layout.phnum, 2)):
        at = start + number * layout.entry
        if at + layout.entry > len(content):
            break
        if _integer(content, at, 4) == _PT_NOTE:
            offset = _integer(content, at + layout.offset[0], layout.offset[1])
            size = _integer(content, at + layout.size[0], layout.size[1])
            for kind, description in _notes(content[offset : offset + size]):
                if kind == _NT_GNU_BUILD_ID and 0 < len(description) <= _LONGEST:
                    return description.hex()
    return ""


def _integer(content: bytes, at: int, size: int) -> int:
    return int.from_bytes(content[at : at + size], "little")


def _notes(segment: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _NOTE.size <= len(segment):
        named, described, kind = _NOTE.unpack_from(segment, at)
        at += _NOTE.size + _padded(named)
        yield kind, segment[at : at + described]
        at += _padded(described)


def _padded(size: int) -> int:
    return (size + 3) & ~3
