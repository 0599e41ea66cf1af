# SPDX-License-Identifier: Apache-2.0
"""What a layer takes on disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mountcr.paths import decode

if TYPE_CHECKING:
    from mountcr.paths import KPath

__all__ = ["size_of"]

_BLOCK: Final = 512
"""The unit of st_blocks, see inode(7)."""


def size_of(directory: KPath) -> int:
    """
    Give the bytes that everything in a directory takes on disk; -1 where it cannot be looked at.

    An inode with several names counts once. Other file systems that are mounted inside are left
    out, as is what goes away meanwhile.
    """
    try:
        top = os.stat(decode(directory), follow_symlinks=False)
    except OSError:
        return -1
    total = 0
    linked: set[int] = set()
    waiting = [decode(directory)]
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
            if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                linked.add(found.st_ino)
            total += found.st_blocks * _BLOCK
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return total
