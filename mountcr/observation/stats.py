# SPDX-License-Identifier: Apache-2.0
"""What stat(2) says, in the words of the model."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from mountcr import devices
from mountcr.model import InodeType, PathStat
from mountcr.paths import ROOT, decode, parent

if TYPE_CHECKING:
    from mountcr.paths import KPath

__all__ = ["device_of", "inode_type", "look", "path_stat"]

_TYPES: Final = {
    stat.S_IFDIR: InodeType.DIRECTORY,
    stat.S_IFREG: InodeType.FILE,
    stat.S_IFLNK: InodeType.SYMLINK,
    stat.S_IFIFO: InodeType.FIFO,
    stat.S_IFSOCK: InodeType.SOCKET,
    stat.S_IFCHR: InodeType.CHARACTER,
    stat.S_IFBLK: InodeType.BLOCK,
}


def inode_type(mode: int) -> InodeType:
    """Name the type bits of a mode; anonymous inodes (epoll, eventfd, …) have none."""
    return _TYPES.get(stat.S_IFMT(mode), InodeType.ANONYMOUS)


def path_stat(result: os.stat_result) -> PathStat:
    """Keep what rules and resolvers ask for of a stat result."""
    return PathStat(
        dev=devices.of_stat(result.st_dev),
        ino=result.st_ino,
        mode=result.st_mode,
        nlink=result.st_nlink,
        size=result.st_size,
        blocks=result.st_blocks,
        rdev=devices.of_stat(result.st_rdev),
        type=inode_type(result.st_mode),
    )


def look(path: bytes, *, dir_fd: int | None = None, follow: bool = False) -> PathStat | None:
    """Stat a path; None when nothing is there. Raises OSError when it may not be looked at."""
    try:
        return path_stat(os.stat(path, dir_fd=dir_fd, follow_symlinks=follow))
    except (FileNotFoundError, NotADirectoryError):
        return None


def device_of(path: KPath) -> str:
    """Give the device of a path, or of the deepest directory above it that is there."""
    while True:
        found = look(decode(path), follow=True)
        if found is not None or path == ROOT:
            return found.dev if found else ""
        path = parent(path)
