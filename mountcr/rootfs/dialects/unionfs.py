# SPDX-License-Identifier: Apache-2.0
"""
Branches of the unionfs that was a patch to Linux 2.6 (fs/unionfs/whiteout.c, unionfs 2.6).

A whiteout is `.wh.NAME`, an opaque directory has a `.wh.__dir_opaque` in it. A whiteout is looked
for first, so that it hides its name in its own branch too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.errors import RefusedError
from mountcr.model import InodeType
from mountcr.rootfs.dialect import Listing, Marked, Raw, refuse_opaque_root
from mountcr.rootfs.dialects import wh
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.tree import join, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.rootfs.dialect import Entry
    from mountcr.rootfs.tree import Tree

__all__ = ["ClassicUnionfs", "ClassicUnionfsLayer"]

_OPAQUE: Final = b".wh.__dir_opaque"
_MARK: Final = Inode(type=InodeType.FILE, mode=0o444)


class ClassicUnionfsLayer:
    """A tree that is a branch of a unionfs."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def listing(self, path: bytes) -> Listing:
        """Tell names from whiteouts. Raises RefusedError for a whiteout of nothing."""
        found = wh.split(path, self.tree.entries(path), _OPAQUE)
        names = {name: kind for name, kind in found.names.items() if name not in found.removed}
        return Listing(names, found.removed)

    def inode(self, path: bytes) -> Marked | None:
        """Give the inode; whether a directory is opaque is asked for in the directory."""
        stored = self.tree.inode(path)
        if stored is None:
            return None
        is_below = bool(path) and stored.is_directory
        return Marked(stored, is_below and self.tree.inode(join(path, _OPAQUE)) is not None)


class ClassicUnionfs:
    """Branches of the unionfs of old kernels."""

    name = "unionfs-classic"

    def layer(self, tree: Tree) -> ClassicUnionfsLayer:
        """Read a tree as a branch."""
        return ClassicUnionfsLayer(tree)

    def begin(self) -> Iterable[Raw]:
        """Give nothing."""
        return ()

    def encode(self, entry: Entry) -> Iterable[Raw]:
        """Spell an entry. Raises RefusedError for names that would be marks."""
        wh.refuse_mark(entry.path, self.name)
        refuse_opaque_root(entry, self.name)
        if entry.inode is None:
            mark = wh.whiteout(entry.path, self.name)
            if mark.rpartition(b"/")[2] == _OPAQUE:
                msg = f"{shown(entry.path)} is removed; its whiteout would make a directory opaque"
                raise RefusedError(msg, hint="choose another driver")
            return (Raw(mark, _MARK),)
        content = entry.inode.is_file and entry.link is None
        own = Raw(entry.path, entry.inode, content=content, link=entry.link)
        return (own, Raw(join(entry.path, _OPAQUE), _MARK)) if entry.opaque else (own,)
