# SPDX-License-Identifier: Apache-2.0
"""
Layers of OCI and Docker images, most often in a tar (OCI image-spec, layer.md).

A removed name is an empty file `.wh.NAME`, which says nothing of a NAME in the same layer; an
opaque directory has a `.wh..wh..opq` in it, before or after what else is there. Docker on AUFS left
names of AUFS itself behind, `.wh..wh.*`, which mean nothing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.model import InodeType
from mountcr.rootfs.dialect import Listing, Marked, Raw
from mountcr.rootfs.dialects import wh
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.tree import join

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.rootfs.dialect import Entry
    from mountcr.rootfs.tree import Tree

__all__ = ["Oci", "OciLayer"]

_AUFS: Final = b".wh..wh."
"""What the names of AUFS itself begin with."""

_MARK: Final = Inode(type=InodeType.FILE, mode=0o600)
"""A whiteout has no owner and no time that anybody looks at; the same each time."""


class OciLayer:
    """A tree with the marks of OCI layers."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def listing(self, path: bytes) -> Listing:
        """Tell names from whiteouts. Raises RefusedError for a whiteout of nothing."""
        found = self._names(path)
        return Listing(found.names, found.removed)

    def inode(self, path: bytes) -> Marked | None:
        """Give the inode as it is stored, and whether the directory is opaque."""
        inode = self.tree.inode(path)
        if inode is None:
            return None
        return Marked(inode, opaque=inode.is_directory and self._names(path).opaque)

    def _names(self, path: bytes) -> wh.Names:
        return wh.split(path, self.tree.entries(path), ignored=lambda name: name.startswith(_AUFS))


class Oci:
    """The marks of OCI image layers."""

    name = "oci"

    def layer(self, tree: Tree) -> OciLayer:
        """Read a tree as a layer."""
        return OciLayer(tree)

    def begin(self) -> Iterable[Raw]:
        """Give nothing."""
        return ()

    def encode(self, entry: Entry) -> Iterable[Raw]:
        """Spell an entry. Raises RefusedError for a name that would be a mark."""
        wh.refuse_mark(entry.path, "OCI layers")
        if entry.inode is None:
            return (Raw(wh.whiteout(entry.path, "OCI layers"), _MARK),)
        content = entry.inode.is_file and entry.link is None
        raw = Raw(entry.path, entry.inode, content=content, link=entry.link)
        if entry.opaque:
            return (raw, Raw(join(entry.path, wh.OPAQUE), _MARK))
        return (raw,)
