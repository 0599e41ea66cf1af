# SPDX-License-Identifier: Apache-2.0
"""
Making inodes as they are described, beneath an open directory.

The order matters: owner before mode, since chown(2) takes setuid and setgid away; extended
attributes after both, since chown(2) removes `security.capability`; times last.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from mountcr import devices
from mountcr.model import InodeType
from mountcr.paths import decode
from mountcr.rootfs.copying import Copier
from mountcr.rootfs.inode import TYPE_BITS, Inode
from mountcr.rootfs.tree import open_directory, shown

if TYPE_CHECKING:
    from collections.abc import Generator

    from mountcr.paths import KPath
    from mountcr.rootfs.batches import Count
    from mountcr.rootfs.dialect import Raw
    from mountcr.rootfs.tree import Tree

__all__ = ["Made", "Maker", "Making", "finish_directory", "naming"]

_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_DROPPED: Final = "security.selinux"
"""A label of the machine it comes from; nobody misses it where labels are not kept."""


class Making(NamedTuple):
    """An inode to be made that is no directory, and where its content comes from."""

    raw: Raw
    path: bytes
    source: tuple[Tree, bytes] | None


class Made(NamedTuple):
    """How many inodes and bytes of content were made, and digests by path if asked for."""

    files: int
    size: int
    digests: list[tuple[bytes, bytes]]


@contextmanager
def naming(path: bytes) -> Generator[None]:
    """Let an OSError name the path in the tree."""
    try:
        yield
    except OSError as error:
        raise _named(error, path) from error


def _named(error: OSError, path: bytes) -> OSError:
    return OSError(error.errno, error.strerror or str(error), shown(path))


def finish_directory(root: int, path: bytes, inode: Inode) -> None:
    """Give a directory beneath an open one its metadata. Raises OSError naming the path."""
    with naming(path):
        fd = open_directory(root, path)
        try:
            os.fchown(fd, inode.uid, inode.gid)
            os.fchmod(fd, inode.mode)
            _set_xattrs(fd, inode.xattrs)
            os.utime(fd, ns=(inode.atime, inode.mtime))
        finally:
            os.close(fd)


def _set_xattrs(where: int | bytes, xattrs: dict[KPath, bytes]) -> None:
    for name, value in xattrs.items():
        try:
            if isinstance(where, int):
                os.setxattr(where, decode(name), value)
            else:
                os.setxattr(where, decode(name), value, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP and name == _DROPPED:
                continue
            msg = f"{error.strerror}: extended attribute {name}"
            raise OSError(error.errno, msg) from error


class Maker:
    """
    Makes what is no directory, in directories that are there, for a `with` block.

    `root` stays the caller's. A maker has one directory open at a time: what comes one after the
    other mostly lies in the same.
    """

    def __init__(self, root: int, *, digests: bool, count: Count) -> None:
        self._root = root
        self._digests = digests
        self._count = count
        self._copier = Copier(progress=self._copied)
        self._path: bytes | None = None
        self._directory = -1
        self._bytes = 0
        # of a directory with setgid, and under the mount option grpid, files have its group
        found = os.fstat(root)
        self._owner = os.geteuid(), os.getegid()
        if found.st_gid != self._owner[1]:
            self._owner = -1, -1

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the directory."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def make(self, tasks: list[Making]) -> Made:
        """Make inodes. Raises OSError naming the path in the tree; what was made stays."""
        made: list[tuple[bytes, bytes]] = []
        for task in tasks:
            try:
                digest = self._make(task)
            except OSError as error:
                raise _named(error, task.raw.path) from error
            if digest is not None:
                made.append((task.path, digest))
            self._count(1, 0)
        return Made(len(tasks), self._bytes, made)

    def _copied(self, count: int) -> None:
        self._bytes += count
        self._count(0, count)

    def _make(self, task: Making) -> bytes | None:
        inode = task.raw.inode
        parent, _, name = task.raw.path.rpartition(b"/")
        if parent != self._path:
            self._change(parent)
        if inode.is_file:
            return self._file(name, task)
        if inode.type is InodeType.SYMLINK:
            os.symlink(decode(inode.target) if inode.target else b"", name, dir_fd=self._directory)
        else:
            device = devices.number_of_stat(inode.rdev)
            os.mknod(name, TYPE_BITS[inode.type] | 0o600, device, dir_fd=self._directory)
        self._finish(name, inode)
        return None

    def _change(self, directory: bytes) -> None:
        fd = open_directory(self._root, directory)
        if self._directory >= 0:
            os.close(self._directory)
        self._path, self._directory = directory, fd

    def _file(self, name: bytes, task: Making) -> bytes | None:
        inode = task.raw.inode
        digest = None
        fd = os.open(name, _FILE, 0o600, dir_fd=self._directory)
        try:
            if task.source is not None:
                digest = self._content(fd, task)
            if (inode.uid, inode.gid) != self._owner:
                os.fchown(fd, inode.uid, inode.gid)
            if inode.mode != 0o600:  # noqa: PLR2004 - as it was made
                os.fchmod(fd, inode.mode)
            if inode.xattrs:
                _set_xattrs(fd, inode.xattrs)
            os.utime(fd, ns=(inode.atime, inode.mtime))
        finally:
            os.close(fd)
        return digest

    def _content(self, fd: int, task: Making) -> bytes | None:
        if task.source is None:
            return None
        tree, path = task.source
        content = tree.content(path)
        try:
            if content.size != task.raw.inode.size:
                raise OSError(errno.EIO, "the file changed its size while it was read")
            return self._copier.copy(content, fd, digests=self._digests)
        finally:
            os.close(content.fd)

    def _finish(self, name: bytes, inode: Inode) -> None:
        """Give what cannot be opened its metadata."""
        directory = self._directory
        os.chown(name, inode.uid, inode.gid, dir_fd=directory, follow_symlinks=False)
        if inode.type is not InodeType.SYMLINK:
            os.chmod(name, inode.mode, dir_fd=directory)
        if inode.xattrs:
            _set_xattrs(b"/proc/self/fd/%d/%s" % (directory, name), inode.xattrs)
        times = inode.atime, inode.mtime
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
