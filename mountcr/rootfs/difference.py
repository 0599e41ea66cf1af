# SPDX-License-Identifier: Apache-2.0
"""
What one tree has and another has not: the normal form where no layer says what it changes.

Drivers that copy, as vfs, have a whole root file system for each container; what it changed of that
of its image is found by comparing both, name by name, and contents where all else is the same.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.rootfs.changes import everything
from mountcr.rootfs.dialect import Entry
from mountcr.rootfs.tree import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.rootfs.inode import Inode
    from mountcr.rootfs.tree import Content, Tree

__all__ = ["difference"]

_PIECE: Final = 1 << 20


def difference(tree: Tree, base: Tree) -> Iterator[Entry]:
    """
    Give what has to be changed of `base` to have `tree`, parents first, the root in any case.

    Names that are hard links of one inode count as changed where they are not the same ones.
    Raises OSError.
    """
    for entry in everything(tree):
        if entry.inode is None:
            continue
        if not entry.path or not _is_same(entry, tree, base):
            yield entry
        if entry.inode.is_directory:
            yield from _removed(entry.path, tree, base)


def _removed(directory: bytes, tree: Tree, base: Tree) -> Iterator[Entry]:
    """Give the names of a directory that only the base has; a file there has none."""
    lower = base.inode(directory)
    if lower is None or not lower.is_directory:
        return
    names = tree.entries(directory)
    for name in base.entries(directory):
        if name not in names:
            yield Entry(join(directory, name), None)


def _is_same(entry: Entry, tree: Tree, base: Tree) -> bool:
    inode, lower = entry.inode, base.inode(entry.path)
    if inode is None or lower is None or _bare(inode) != _bare(lower):
        return False
    if inode.is_directory or not inode.is_file:
        return inode.is_directory or inode.nlink == 1
    if inode.nlink > 1:
        return False  # which of them are linked in the base nobody has looked at
    return _same_content(tree.content(entry.path), base.content(entry.path))


def _bare(inode: Inode) -> Inode:
    return msgspec.structs.replace(inode, atime=0, identity=(0, 0), nlink=1)


def _same_content(one: Content, other: Content) -> bool:
    """Compare two contents of the same size, and close both."""
    try:
        position = 0
        while position < one.size:
            length = min(_PIECE, one.size - position)
            mine = os.pread(one.fd, length, one.offset + position)
            if not mine or mine != os.pread(other.fd, length, other.offset + position):
                return False
            position += len(mine)
        return True
    finally:
        os.close(one.fd)
        os.close(other.fd)
