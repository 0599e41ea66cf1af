# SPDX-License-Identifier: Apache-2.0
"""Trees that are stored nowhere: what a dialect has written is read back without a file system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.model import InodeType
from mountcr.paths import KPath
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.tree import Content, Tree, join

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mountcr.rootfs.dialect import Dialect, Entry, Raw

__all__ = ["DEVICE", "MemoryTree", "comparable", "directory", "everything_in", "file", "read"]

DEVICE: Final = Inode(type=InodeType.CHARACTER, mode=0)
"""The character device 0:0."""


class _Node:
    def __init__(self, inode: Inode, content: bytes) -> None:
        self.inode = inode
        self.content = content
        self.names = 0


class MemoryTree:
    """A tree of inodes and contents by path; names of one inode are hard links of each other."""

    def __init__(self, inodes: Mapping[bytes, Inode | tuple[Inode, bytes]] | None = None) -> None:
        self._nodes: dict[bytes, _Node] = {}
        self._put(b"", _Node(directory(), b""))
        for path, given in (inodes or {}).items():
            inode, content = given if isinstance(given, tuple) else (given, b"")
            self.store(path, inode, content)

    def store(self, path: bytes, inode: Inode, content: bytes = b"") -> None:
        """Put an inode at a path, with the directories above it."""
        self._put(path, _Node(inode, content))

    def link(self, path: bytes, first: bytes) -> None:
        """Give an inode another name."""
        self._put(path, self._nodes[first])

    def remove(self, path: bytes, *, inside: bool = False) -> None:
        """Remove what is at a path and in it, or in it only."""
        for each in list(self._nodes):
            if each.startswith(path + b"/") or (each == path and not inside):
                self._nodes.pop(each).names -= 1

    def _put(self, path: bytes, node: _Node) -> None:
        parent = path.rpartition(b"/")[0]
        if path and parent not in self._nodes:
            self._put(parent, _Node(directory(), b""))
        old = self._nodes.get(path)
        if old is not None:
            old.names -= 1
        self._nodes[path] = node
        node.names += 1

    def apply(self, raws: Iterable[Raw], content: bytes = b"") -> None:
        """Store what a dialect gave for an entry with a content."""
        for raw in raws:
            if raw.link is not None:
                self.link(raw.path, raw.link)
            else:
                self.store(raw.path, raw.inode, content if raw.content else b"")

    def write(self, dialect: Dialect, entries: Iterable[Entry]) -> MemoryTree:
        """Store entries in the marks of a dialect; give itself."""
        self.apply(dialect.begin())
        for entry in entries:
            self.apply(dialect.encode(entry), read(entry))
        return self

    def change(self, entries: Iterable[Entry]) -> None:
        """Do to this tree, which is without marks, what entries say."""
        for entry in entries:
            here = self._nodes.get(entry.path)
            if entry.inode is None:
                self.remove(entry.path)
                continue
            if here is not None and not (entry.inode.is_directory and here.inode.is_directory):
                self.remove(entry.path)
            if entry.opaque:
                self.remove(entry.path, inside=True)
            if entry.link is not None:
                self.link(entry.path, entry.link)
            else:
                self.store(entry.path, entry.inode, read(entry))

    def copy(self) -> MemoryTree:
        """Give a tree of its own with the same in it."""
        other = MemoryTree()
        copies = {id(node): _Node(node.inode, node.content) for node in self._nodes.values()}
        for path, node in self._nodes.items():
            other._put(path, copies[id(node)])
        return other

    @property
    def paths(self) -> list[bytes]:
        """Every path, parents first."""
        return sorted(self._nodes)

    def entries(self, path: bytes) -> Mapping[bytes, InodeType]:
        """Give the names in a directory."""
        if not self._nodes[path].inode.is_directory:
            raise NotADirectoryError(path)
        found = {
            each.rpartition(b"/")[2]: node.inode.type
            for each, node in self._nodes.items()
            if each and each.rpartition(b"/")[0] == path
        }
        return dict(sorted(found.items()))

    def inode(self, path: bytes) -> Inode | None:
        """Give the inode of a path, with its size and links."""
        node = self._nodes.get(path)
        if node is None:
            return None
        size = len(node.content) if node.inode.is_file else 0
        identity = (1, id(node))
        return msgspec.structs.replace(node.inode, size=size, identity=identity, nlink=node.names)

    def content(self, path: bytes) -> Content:
        """Give the content in a file without a name."""
        data = self._nodes[path].content
        fd = os.memfd_create("content")
        os.write(fd, data)
        return Content(fd, 0, len(data))


def file(mode: int = 0o644, **xattrs: bytes) -> Inode:
    """Give a regular file; `user__x` is the attribute `user.x`."""
    return Inode(type=InodeType.FILE, mode=mode, xattrs=_xattrs(xattrs))


def directory(mode: int = 0o755, **xattrs: bytes) -> Inode:
    """Give a directory, with attributes as `file` has them."""
    return Inode(type=InodeType.DIRECTORY, mode=mode, xattrs=_xattrs(xattrs))


def _xattrs(given: Mapping[str, bytes]) -> dict[KPath, bytes]:
    return {KPath(name.replace("__", ".")): value for name, value in given.items()}


def read(entry: Entry) -> bytes:
    """Read the content of an entry; nothing of what has none."""
    if entry.source is None:
        return b""
    tree, path = entry.source
    return _content(tree, path)


def _content(tree: Tree, path: bytes) -> bytes:
    content = tree.content(path)
    try:
        return os.pread(content.fd, content.size, content.offset)
    finally:
        os.close(content.fd)


def comparable(inode: Inode) -> Inode:
    """Leave out what differs between two copies of the same inode."""
    return msgspec.structs.replace(inode, identity=(0, 0), nlink=1, atime=0)


def everything_in(tree: Tree) -> dict[bytes, tuple[Inode, bytes]]:
    """Give every path of a tree or view, its inode and content."""
    found: dict[bytes, tuple[Inode, bytes]] = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        inode = tree.inode(path)
        if inode is None:
            raise AssertionError(f"{path!r} is listed, and is not there")
        found[path] = comparable(inode), _content(tree, path) if inode.is_file else b""
        if inode.is_directory:
            for name, kind in tree.entries(path).items():
                below = tree.inode(join(path, name))
                if below is None or below.type is not kind:
                    raise AssertionError(f"{join(path, name)!r} is listed as a {kind}")
                todo.append(join(path, name))
    return found
