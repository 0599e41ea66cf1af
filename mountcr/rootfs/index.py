# SPDX-License-Identifier: Apache-2.0
"""
The index of an overlay: changed files of which no name is left in the writable layer.

With `index=on` all hard links of a file below are one file when one of them is changed. It is kept
in `index` beside the work directory as well, under its file handle (fs/overlayfs/namei.c,
`ovl_get_index_name()`), so that the other names show it although the changed one was removed. The
layer is read here as if the first name that shows such a file had been changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.model import InodeType
from mountcr.rootfs.changes import everything
from mountcr.rootfs.dialect import Listing
from mountcr.rootfs.tree import join
from mountcr.rootfs.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mountcr.rootfs.dialect import Layer, Marked
    from mountcr.rootfs.inode import Inode
    from mountcr.rootfs.tree import Content, Tree

__all__ = ["Indexed", "with_index"]


def with_index(view: View, index: Layer) -> View:
    """
    Give a view whose writable layer has the files that only its index has a name for.

    Raises OSError.
    """
    nameless = _nameless(index)
    named = _named(view, nameless) if nameless else {}
    if not named:
        return view
    return View((Indexed(view.layers[0], index, named), *view.layers[1:]), view.data)


def _nameless(index: Layer) -> dict[int, bytes]:
    """Give the entries that nothing else is a hard link of, by the inode they were copied from."""
    found: dict[int, bytes] = {}
    for name, kind in index.listing(b"").names.items():
        stored = index.tree.inode(name) if kind is not InodeType.DIRECTORY else None
        marked = index.inode(name) if stored is not None and stored.nlink == 1 else None
        if marked is not None and marked.origin:
            found[marked.origin] = name
    return found


def _named(view: View, nameless: Mapping[int, bytes]) -> dict[bytes, bytes]:
    """Give the first path that shows each of the files, and its entry in the index."""
    found: dict[bytes, bytes] = {}
    left = dict(nameless)
    for entry in everything(view):
        inode = entry.inode
        if inode is None or inode.is_directory or inode.nlink == 1:
            continue
        if inode.identity[1] in left and view.parts(entry.path)[0].layer > 0:
            found[entry.path] = left.pop(inode.identity[1])
    return found


class Indexed:
    """A layer with files of the index at some paths, whose directories it need not have."""

    def __init__(self, layer: Layer, index: Layer, named: Mapping[bytes, bytes]) -> None:
        self.tree: Tree = _IndexedTree(layer.tree, index.tree, named)
        self._layer = layer
        self._index = index
        self._named = named
        self._inside: dict[bytes, set[bytes]] = {}
        for path in named:
            while path:
                path, _, name = path.rpartition(b"/")  # noqa: PLW2901  # up to the root
                self._inside.setdefault(path, set()).add(name)

    def listing(self, path: bytes) -> Listing:
        """Say what the layer has and removes in a directory, files of the index included."""
        own = self._layer.inode(path)
        is_there = own is not None and own.inode.is_directory
        found = self._layer.listing(path) if is_there else Listing({})
        if path not in self._inside:
            return found
        names, passed = dict(found.names), set(found.passed)
        for name in self._inside[path]:
            entry = self._named.get(join(path, name))
            marked = self._index.inode(entry) if entry is not None else None
            if marked is not None:
                names[name] = marked.inode.type
            elif name not in names:
                passed.add(name)
        return Listing(names, found.removed, frozenset(passed))

    def inode(self, path: bytes) -> Marked | None:
        """Give the inode of the index, or else of the layer; the root tells that there are some."""
        entry = self._named.get(path)
        found = self._layer.inode(path) if entry is None else self._index.inode(entry)
        return found if path or found is None else found._replace(linked=True)


class _IndexedTree:
    """A tree with files of another one at some paths."""

    def __init__(self, tree: Tree, index: Tree, named: Mapping[bytes, bytes]) -> None:
        self._tree = tree
        self._index = index
        self._named = named

    def entries(self, path: bytes) -> Mapping[bytes, InodeType]:
        """Give the names in a directory of the tree, without those of the index."""
        return self._tree.entries(path)

    def inode(self, path: bytes) -> Inode | None:
        """Give the inode of a path; None if nothing is there."""
        entry = self._named.get(path)
        return self._tree.inode(path) if entry is None else self._index.inode(entry)

    def content(self, path: bytes) -> Content:
        """Open a regular file. The caller owns the descriptor."""
        entry = self._named.get(path)
        return self._tree.content(path) if entry is None else self._index.content(entry)
