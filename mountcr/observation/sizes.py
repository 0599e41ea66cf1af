# SPDX-License-Identifier: Apache-2.0
"""What a layer takes on disk."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from mountcr.paths import decode

if TYPE_CHECKING:
    from mountcr.paths import KPath

__all__ = ["count_of", "size_of"]

_BLOCK: Final = 512
"""The unit of st_blocks, see inode(7)."""


def size_of(directory: KPath) -> int:
    """
    Give the bytes that everything in a directory takes on disk; -1 where it cannot be looked at.

    An inode with several names counts once. Other file systems that are mounted inside are left
    out, as is what goes away meanwhile.
    """
    return count_of(directory)[1]


def count_of(path: KPath) -> tuple[int, int]:
    """Give how many names are below a path, itself included, and the bytes as `size_of` does."""
    try:
        top = os.stat(decode(path), follow_symlinks=False)
    except OSError:
        return 0, -1
    names, total = 1, 0
    linked: set[int] = set()
    waiting = [decode(path)] if stat.S_ISDIR(top.st_mode) else []
    if not waiting:
        return 1, top.st_blocks * _BLOCK
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if found.st_dev != top.st_dev or found.st_ino in linked:
                continue
            names += 1
            if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                linked.add(found.st_ino)
            total += found.st_blocks * _BLOCK
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return names, total
