# SPDX-License-Identifier: Apache-2.0
"""The marker that a volatile overlay leaves in its work directory: reading and removing it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mountcr.errors import StepError
from mountcr.kernel import syscalls
from mountcr.paths import decode

if TYPE_CHECKING:
    from mountcr.paths import KPath

__all__ = ["marker_identity", "remove_marker", "sync_upper"]


def marker_identity(path: KPath) -> str:
    """Give what no other marker has, its inode number and time of change; empty without one."""
    try:
        found = os.lstat(decode(path))
    except OSError:
        return ""
    return f"{found.st_ino}:{found.st_mtime_ns}"


def sync_upper(upper: KPath, marker: KPath) -> str:
    """
    Write what a volatile overlay has not to the disk, and give the identity of its marker.

    It is empty where there is none. Raises OSError for what could not be written: EIO, ENOSPC.
    """
    fd = os.open(decode(upper), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)
    return marker_identity(marker)


def remove_marker(path: KPath, identity: str) -> bool:
    """
    Remove a marker, a directory with a file in it; tell whether there was one.

    Raises StepError when it is not the one of that identity, which may be empty for any; OSError.
    """
    now = marker_identity(path)
    if not now:
        return False
    if identity and now != identity:
        msg = f"{path} is not of the mount that was dumped: the layer was mounted volatile since"
        hint = "if there was no crash since, remove that directory; else write into a copy: --upper"
        raise StepError(msg, errno=errno.EINVAL, hint=hint)
    import shutil  # loads compressors; few overlays are volatile

    shutil.rmtree(decode(path))
    return True
