# SPDX-License-Identifier: Apache-2.0
"""
Foreign layers: whether a layer, where it lies, is the same to another dialect.

Nothing here knows any mark: what the two dialects read is compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.rootfs.tree import join

if TYPE_CHECKING:
    from mountcr.rootfs.dialect import Dialect, Layer, Listing, Marked
    from mountcr.rootfs.view import View

__all__ = ["foreign_path"]


def foreign_path(layer: Layer, other: Dialect, below: View | None = None) -> bytes | None:
    """
    Give the first path of a layer that another dialect would not read as the layer's own does.

    `below` is what lies below it: a directory over something else is opaque, which not every
    union file system takes for granted. None when the layer can be used as it lies. Raises OSError,
    and RefusedError for marks that are damaged.
    """
    return _Comparison(layer, other.layer(layer.tree), below).find(b"")


class _Comparison:
    def __init__(self, layer: Layer, other: Layer, below: View | None) -> None:
        self._layer = layer
        self._other = other
        self._below = below

    def find(self, path: bytes) -> bytes | None:
        meant, read = self._layer.inode(path), self._other.inode(path)
        if meant is None or read is None:
            return None if meant is read else path
        if meant != read._replace(blocks=meant.blocks, follows=meant.follows):
            return path
        if not meant.inode.is_directory:
            return None
        return path if self._covers(path, meant) else self._find_in(path)

    def _covers(self, path: bytes, meant: Marked) -> bool:
        """Tell whether a directory lies on something that is none, without a mark that says so."""
        if self._below is None or meant.opaque:
            return False
        below = self._below.inode(path)
        return below is not None and not below.is_directory

    def _find_in(self, directory: bytes) -> bytes | None:
        listing, other = self._layer.listing(directory), self._other.listing(directory)
        if listing != other:
            both = listing.names.keys() | other.names.keys() | listing.removed | other.removed
            for name in sorted(both | listing.passed | other.passed):
                if _said(listing, name) != _said(other, name):
                    return join(directory, name)
        for name in listing.names:
            found = self.find(join(directory, name))
            if found is not None:
                return found
        return None


def _said(listing: Listing, name: bytes) -> tuple[object, bool, bool]:
    return listing.names.get(name), name in listing.removed, name in listing.passed
