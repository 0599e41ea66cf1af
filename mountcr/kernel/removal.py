# SPDX-License-Identifier: Apache-2.0
"""Removing a directory with everything in it, and nothing that is mounted there."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from mountcr import mountinfo, paths
from mountcr.paths import decode, encode

if TYPE_CHECKING:
    from mountcr.paths import KPath

__all__ = ["remove_any", "remove_beneath", "remove_tree"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_any(path: KPath) -> None:
    """Remove a file, or a directory as `remove_tree` does. Raises OSError."""
    if stat.S_ISDIR(os.lstat(decode(path)).st_mode):
        remove_tree(path)
    else:
        os.unlink(decode(path))


def remove_tree(path: KPath) -> None:
    """
    Remove a directory with everything in it.

    With a mount inside it fails with EBUSY, and nothing was removed. Raises OSError; fine if it is
    gone.
    """
    above, name = os.path.split(decode(path))
    parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        real = encode(os.path.join(os.path.realpath(above), name))
        for mount in mountinfo.read():
            if paths.is_beneath(mount.mountpoint, real):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), mount.mountpoint)
        remove_beneath(parent, name)
    finally:
        os.close(parent)


def remove_beneath(parent: int, name: bytes) -> None:
    """
    Remove a directory in an open one with all that is in it, at any depth; fine if it is gone.

    Follows no symbolic link, enters no other file system. Raises OSError, EBUSY at a mountpoint.
    """
    try:
        top = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return
    device = os.fstat(top).st_dev
    stack: list[tuple[int, list[tuple[bytes, bool]], bytes]] = [(top, _listed(top), name)]
    try:
        while stack:
            fd, left, called = stack[-1]
            if not left:
                stack.pop()
                os.close(fd)
                os.rmdir(called, dir_fd=stack[-1][0] if stack else parent)
                continue
            child, is_directory = left.pop()
            if not is_directory:
                os.unlink(child, dir_fd=fd)
                continue
            below = os.open(child, _DIRECTORY, dir_fd=fd)
            if os.fstat(below).st_dev != device:
                os.close(below)
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), os.fsdecode(child))
            stack.append((below, _listed(below), child))
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def _listed(fd: int) -> list[tuple[bytes, bool]]:
    """Give what is in a directory, and whether it is one, after making it one's own."""
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o700 != 0o700:  # noqa: PLR2004 - rwx
        os.fchmod(fd, 0o700)
    with os.scandir(fd) as found:
        return [(os.fsencode(each.name), each.is_dir(follow_symlinks=False)) for each in found]
