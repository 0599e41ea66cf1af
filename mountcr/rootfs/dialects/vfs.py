# SPDX-License-Identifier: Apache-2.0
"""Plain trees, as the vfs driver has them: every inode is what it is, and nothing is a mark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.errors import RefusedError
from mountcr.rootfs.dialect import Listing, Marked, Raw
from mountcr.rootfs.tree import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.rootfs.dialect import Entry
    from mountcr.rootfs.tree import Tree

__all__ = ["Vfs", "VfsLayer"]


class VfsLayer:
    """A tree without marks."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def listing(self, path: bytes) -> Listing:
        """Give what is in a directory."""
        return Listing(self.tree.entries(path))

    def inode(self, path: bytes) -> Marked | None:
        """Give the inode as it is stored."""
        inode = self.tree.inode(path)
        return Marked(inode) if inode else None


class Vfs:
    """No marks at all: what removes or hides something cannot be said."""

    name = "vfs"

    def layer(self, tree: Tree) -> VfsLayer:
        """Read a tree as a layer."""
        return VfsLayer(tree)

    def begin(self) -> Iterable[Raw]:
        """Give nothing."""
        return ()

    def encode(self, entry: Entry) -> Iterable[Raw]:
        """Give the inode as it is. Raises RefusedError for what is removed or opaque."""
        if entry.inode is None or entry.opaque:
            what = "removed" if entry.inode is None else "opaque"
            msg = f"{shown(entry.path)} is {what}, which a plain tree cannot say"
            raise RefusedError(msg, hint="flatten it with the layers below: --driver vfs")
        content = entry.inode.is_file and entry.link is None
        return (Raw(entry.path, entry.inode, content=content, link=entry.link),)
