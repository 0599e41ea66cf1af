# SPDX-License-Identifier: Apache-2.0
"""
The names of inodes: a walk through a mount, for files whose own name is gone and what is watched.

The kernel tells one name of a file, and for a watch none at all.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING, Final

from mountcr.kernel.beneath import open_beneath, open_in_root
from mountcr.paths import KPath, decode, encode

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mountcr.model import Mount

__all__ = ["MOST", "find_names"]

MOST: Final = 50_000
"""Names that are looked at in one mount, which takes two seconds where nothing is cached."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def find_names(
    root: int, mount: Mount, inodes: Collection[int], most: int = MOST
) -> tuple[dict[int, list[KPath]], bool]:
    """
    Give the paths of inode numbers in a mount, and whether that was all of it.

    Paths are from the root of its namespace, of which `root` is an open descriptor; those with
    fewer components come first, and after `most` names no more. Other mounts on it are left out,
    and so is what cannot be looked at. Raises OSError where the mountpoint cannot be opened.
    """
    found: dict[int, list[KPath]] = {}
    prefix = decode(mount.mountpoint).rstrip(b"/")
    start = open_in_root(root, prefix.lstrip(b"/") or b".", _DIRECTORY)
    try:
        for count, (path, inode) in enumerate(_walk(start)):
            if count >= most:
                return found, False
            if inode in inodes:
                found.setdefault(inode, []).append(encode(b"%s/%s" % (prefix, path)))
    finally:
        os.close(start)
    return found, True


def _walk(start: int) -> Iterator[tuple[bytes, int]]:
    """Give path and inode number of everything below an open directory, on its device."""
    top = os.fstat(start)
    yield b"", top.st_ino
    waiting = deque([b""])
    while waiting:
        path = waiting.popleft()
        with contextlib.suppress(OSError):
            fd = open_beneath(start, path or b".", _DIRECTORY)
            try:
                if os.fstat(fd).st_dev != top.st_dev:
                    continue
                for entry in os.scandir(fd):
                    below = os.path.join(path, os.fsencode(entry.name))
                    yield below, entry.stat(follow_symlinks=False).st_ino
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(below)
            finally:
                os.close(fd)
