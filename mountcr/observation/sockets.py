# SPDX-License-Identifier: Apache-2.0
"""
What unix sockets are bound to: /proc/<pid>/net/unix, of the network namespace of a task.

A line ends with the inode number of the socket and, if it is bound, its path, which may hold
spaces (net/unix/af_unix.c, `unix_seq_show()`). `@` begins a name that is no path.
"""

from __future__ import annotations

from typing import Final

from mountcr.paths import KPath, encode

__all__ = ["parse", "read"]

_FIELDS: Final = 7
"""Fields before the path: Num, RefCount, Protocol, Flags, Type, St, Inode."""


def read(pid: int) -> dict[int, KPath]:
    """Read the table that a task sees. Raises OSError."""
    with open(f"/proc/{pid}/net/unix", "rb") as file:
        return parse(file.read())


def parse(text: bytes) -> dict[int, KPath]:
    """Give the paths that sockets are bound to by inode number; others are left out."""
    found: dict[int, KPath] = {}
    for line in text.split(b"\n")[1:]:
        fields = line.split(maxsplit=_FIELDS)
        if len(fields) > _FIELDS and fields[_FIELDS].startswith(b"/"):
            found[int(fields[_FIELDS - 1])] = encode(fields[_FIELDS])
    return found
