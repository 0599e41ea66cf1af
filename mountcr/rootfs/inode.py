# SPDX-License-Identifier: Apache-2.0
"""Inodes: everything a file is besides its name and its content."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from mountcr import devices
from mountcr.model import InodeType, Record
from mountcr.observation.stats import inode_type
from mountcr.paths import KPath, encode

__all__ = ["TYPE_BITS", "Inode", "read_inode"]

TYPE_BITS: Final = {
    InodeType.DIRECTORY: stat.S_IFDIR,
    InodeType.FILE: stat.S_IFREG,
    InodeType.SYMLINK: stat.S_IFLNK,
    InodeType.FIFO: stat.S_IFIFO,
    InodeType.SOCKET: stat.S_IFSOCK,
    InodeType.CHARACTER: stat.S_IFCHR,
    InodeType.BLOCK: stat.S_IFBLK,
}
"""The bits of a mode that stand for a type, inode(7)."""

_DEVICES: Final = frozenset({InodeType.CHARACTER, InodeType.BLOCK})

_NO_XATTRS: Final = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES})


class Inode(Record, frozen=True, kw_only=True):
    """
    An inode as it is stored, or as a layer means it.

    `mode` are the permission bits without the type. Times are nanoseconds since 1970. `size` in
    bytes is that of a regular file, `rdev` (`major:minor`) that of a device, `target` that of a
    symbolic link. `xattrs` are by full name, in mountinfo spelling where it is not UTF-8.
    `identity` (device and inode number) and `nlink` tell which names are hard links of each other;
    they, and the time of access, are not compared anywhere.
    """

    type: InodeType
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    atime: int = 0
    size: int = 0
    rdev: str = "0:0"
    target: KPath | None = None
    xattrs: dict[KPath, bytes] = {}
    identity: tuple[int, int] = (0, 0)
    nlink: int = 1

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.type is InodeType.DIRECTORY

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.type is InodeType.FILE

    @property
    def is_own_device(self) -> bool:
        """Whether it is a device that other containers have not."""
        common = self.type is InodeType.CHARACTER and self.rdev in devices.COMMON.values()
        return self.type in _DEVICES and not common


def read_inode(directory: int, name: bytes) -> Inode:
    """
    Read the inode of a name in an open directory, of the directory itself for `.`.

    A symbolic link is not followed. Raises OSError. Extended attributes that the file system does
    not have or the caller may not read are left out; `system.*` is kept for the ACLs only.
    """
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    kind = inode_type(found.st_mode)
    target = None
    if kind is InodeType.SYMLINK:
        target = encode(os.readlink(name, dir_fd=directory))
    rdev = devices.of_stat(found.st_rdev) if kind in _DEVICES else "0:0"
    return Inode(
        type=kind,
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        mtime=found.st_mtime_ns,
        atime=found.st_atime_ns,
        size=found.st_size if kind is InodeType.FILE else 0,
        rdev=rdev,
        target=target,
        xattrs=_xattrs(directory, name),
        identity=(found.st_dev, found.st_ino),
        nlink=found.st_nlink,
    )


def _xattrs(directory: int, name: bytes) -> dict[KPath, bytes]:
    """Read the extended attributes; there is no call for a name in a directory before 6.13."""
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return {}
        raise
    return {
        encode(each): os.getxattr(path, each, follow_symlinks=False)
        for each in names
        if not each.startswith("system.") or each.startswith("system.posix_acl_")
    }
