# SPDX-License-Identifier: Apache-2.0
"""What tells a file from every other one, and a mount, also when a number is given out again."""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple

from mountcr.kernel._libc_ffi import ffi

__all__ = ["Identity", "identify", "unique_mount_id"]

# include/uapi/linux/stat.h, include/uapi/linux/fcntl.h
_STATX_MNT_ID_UNIQUE: Final = 0x4000
_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_NO_AUTOMOUNT: Final = 0x800
_AT_EMPTY_PATH: Final = 0x1000

_HANDLE_BYTES: Final = 128
"""MAX_HANDLE_SZ of include/linux/exportfs.h."""

_libc: Final = ffi.dlopen(None)


class Identity(NamedTuple):
    """
    Device and inode number of a file, and its handle as hexadecimal digits.

    The number of an inode is given to another file when the first is gone; the handle has a
    generation in it. It is empty where the file system gives none, see name_to_handle_at(2).
    """

    dev: int
    ino: int
    handle: str


def identify(path: bytes) -> Identity:
    """Give the identity of what lies at a path, following no symbolic link. Raises OSError."""
    found = os.lstat(path)
    return Identity(found.st_dev, found.st_ino, _handle(path))


def unique_mount_id(path: bytes, dirfd: int = _AT_FDCWD) -> int:
    """
    Give the unique id of the mount that a path lies on; with an empty path, that of `dirfd`.

    No other mount gets it until reboot, attached or not (statx(2), STATX_MNT_ID_UNIQUE). 0 before
    Linux 6.8. Raises OSError.
    """
    found = ffi.new("struct statx *")
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | (0 if path else _AT_EMPTY_PATH)
    name = ffi.new("char[]", path)
    if _libc.statx(dirfd, name, flags, _STATX_MNT_ID_UNIQUE, found) < 0:
        number = ffi.errno
        if number == errno.ENOSYS:
            return 0
        raise OSError(number, os.strerror(number), os.fsdecode(path))
    return found.stx_mnt_id if found.stx_mask & _STATX_MNT_ID_UNIQUE else 0


def _handle(path: bytes) -> str:
    handle = ffi.new("struct file_handle *", {"handle_bytes": _HANDLE_BYTES})
    mount_id = ffi.new("int *")
    if _libc.name_to_handle_at(_AT_FDCWD, ffi.new("char[]", path), handle, mount_id, 0) < 0:
        return ""
    return f"{handle.handle_type:x}:{ffi.buffer(handle.f_handle, handle.handle_bytes)[:].hex()}"
