# SPDX-License-Identifier: Apache-2.0
"""Locks of directories, which keep two processes of mountcr from working with the same one."""

from __future__ import annotations

import errno
import fcntl

__all__ = ["is_held_by_others"]


def is_held_by_others(fd: int) -> bool:
    """
    Lock an open directory until it is closed; True where somebody else has locked it (flock(2)).

    Where the file system has no locks nothing is locked. The descriptor stays the caller's.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    return False
