# SPDX-License-Identifier: Apache-2.0
"""
Trees: inodes by path, as they are stored in a directory or seen through a union.

Nothing ever leaves the root: a directory is opened beneath its descriptor, through no symbolic
link.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

from mountcr.errors import PrivilegeError
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.beneath import open_beneath
from mountcr.model import InodeType
from mountcr.observation.stats import inode_type
from mountcr.paths import decode, encode
from mountcr.rootfs.inode import Inode, read_inode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mountcr.paths import KPath

__all__ = [
    "MOST",
    "Content",
    "Directories",
    "DirectoryTree",
    "Tree",
    "join",
    "may_lead_to_directory",
    "open_directory",
    "shown",
]

MOST: Final = 255
"""Bytes of a name, NAME_MAX of linux/limits.h."""

_CACHED: Final = 128
"""Open directories that are kept; with 500 layers they are below the usual limit, 1024."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Content(NamedTuple):
    """The bytes of a regular file: `size` of them from `offset` of an open file."""

    fd: int
    offset: int
    size: int


class Tree(Protocol):
    """Inodes by path. Every method raises OSError for what cannot be read."""

    def entries(self, path: bytes) -> Mapping[bytes, InodeType]:
        """Give the names in a directory and what each is, sorted by name."""
        ...

    def inode(self, path: bytes) -> Inode | None:
        """Give the inode of a path, following no symbolic link; None if nothing is there."""
        ...

    def content(self, path: bytes) -> Content:
        """Open a regular file. The caller owns the descriptor."""
        ...


def join(directory: bytes, name: bytes) -> bytes:
    """Put a name beneath a directory of a tree."""
    return b"%s/%s" % (directory, name) if directory else name


def shown(path: bytes) -> KPath:
    """Spell a path of a tree for people and documents: from the root, in mountinfo spelling."""
    return encode(b"/" + path)


def may_lead_to_directory(tree: Tree, path: bytes, target: bytes) -> bool:
    """Tell whether a link at a path leads to a directory of the tree, or nobody knows where."""
    if target.startswith(b"/"):
        return True  # from the root of whoever follows it
    at = path.split(b"/")[:-1]
    for name in target.split(b"/"):
        if name == b"..":
            if not at:
                return True
            at.pop()
        elif len(name) > MOST:
            return False
        elif name not in {b"", b"."}:
            at.append(name)
        found = tree.inode(b"/".join(at))
        if found is None or not found.is_directory:
            return found is not None and found.type is InodeType.SYMLINK
    return True


def open_directory(root: int, path: bytes) -> int:
    """
    Open a directory beneath an open root, through no symbolic link. The caller owns the descriptor.

    Raises OSError; ELOOP or ENOTDIR where a component is a symbolic link, EXDEV where `..` leaves.
    """
    return open_beneath(root, path or b".", _DIRECTORY)


class Directories:
    """
    Directories that were opened beneath roots; a walk asks for the same few again and again.

    Trees that are read together share one, because a process may have only so many open.
    """

    def __init__(self, most: int = _CACHED) -> None:
        self._most = most
        self._open: OrderedDict[tuple[int, bytes], int] = OrderedDict()

    def get(self, root: int, path: bytes) -> int:
        """Give a directory beneath an open root, which is good until the next call."""
        key = root, path
        fd = self._open.get(key)
        if fd is not None:
            self._open.move_to_end(key)
            return fd
        fd = self._open[key] = open_directory(root, path)
        if len(self._open) > self._most:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def close(self, root: int) -> None:
        """Close those beneath a root."""
        for key in [each for each in self._open if each[0] == root]:
            with suppress(OSError):
                os.close(self._open.pop(key))


class DirectoryTree:
    """
    The tree in a directory of the file system, without what is mounted in it.

    `close()` gives its descriptors back; a `with` block does too.
    """

    def __init__(self, root: KPath, directories: Directories | None = None) -> None:
        self.path = root
        self._directories = Directories() if directories is None else directories
        self._root = _open_root(decode(root))

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close every descriptor."""
        self._directories.close(self._root)
        with suppress(OSError):
            os.close(self._root)
        self._root = -1

    def entries(self, path: bytes) -> Mapping[bytes, InodeType]:
        """Give the names in a directory and what each is, sorted by name."""
        # scandir() duplicates the descriptor, and rewinds it when it is done
        with os.scandir(self._directory(path)) as found:
            kinds = {os.fsencode(each.name): _type(each) for each in found}
        return dict(sorted(kinds.items()))

    def inode(self, path: bytes) -> Inode | None:
        """Give the inode of a path; None if nothing is there."""
        parent, _, name = path.rpartition(b"/")
        try:
            return read_inode(self._directory(parent), name or b".")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def content(self, path: bytes) -> Content:
        """Open a regular file. The caller owns the descriptor."""
        parent, _, name = path.rpartition(b"/")
        directory = self._directory(parent)
        try:  # reading is no access that anybody wants to know of
            fd = os.open(name, _FILE | os.O_NOATIME, dir_fd=directory)
        except PermissionError:
            fd = os.open(name, _FILE, dir_fd=directory)
        return Content(fd, 0, os.fstat(fd).st_size)

    def _directory(self, path: bytes) -> int:
        return self._directories.get(self._root, path)


def _type(entry: os.DirEntry[str]) -> InodeType:
    """Give the type of a directory entry, which for most file systems costs no further call."""
    if entry.is_symlink():
        return InodeType.SYMLINK
    if entry.is_dir(follow_symlinks=False):
        return InodeType.DIRECTORY
    if entry.is_file(follow_symlinks=False):
        return InodeType.FILE
    return inode_type(entry.stat(follow_symlinks=False).st_mode)


def _open_root(path: bytes) -> int:
    """
    Open a root directory as a clone of its mount, on which reading leaves no time.

    Without the right to mount it is the directory as it lies there.
    """
    try:
        return _cloned(path)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            with suppress(OSError, PrivilegeError):
                return _bound(path)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _cloned(path: bytes) -> int:
    """Open a detached clone; ENOSYS without open_tree(2) and mount_setattr(2) (Linux 5.12)."""
    fd = mounts.clone(encode(path))
    try:
        syscalls.mount_setattr(
            fd,
            b"",
            syscalls.AT_EMPTY_PATH,
            syscalls.MOUNT_ATTR_NOATIME | syscalls.MOUNT_ATTR_RDONLY,
            syscalls.MOUNT_ATTR__ATIME,
        )
        return os.open(b".", _DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)


def _bound(path: bytes) -> int:
    """Open a bind mount, which outlives the private namespace it was made in by its descriptor."""
    from mountcr.kernel.private import in_private_namespace  # a fork, which newer kernels spare

    place = encode(os.path.realpath(path))
    fds: list[int] = []

    def work() -> None:
        mounts.rebind(place, place)
        mounts.set_attributes(place, ("ro", "noatime"))
        fds.append(os.open(decode(place), _DIRECTORY))

    in_private_namespace(work, fds=fds)
    return fds[0]
