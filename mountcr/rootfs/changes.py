# SPDX-License-Identifier: Apache-2.0
"""
The normal form: what a layer changes of what lies below it.

Parents come before what is in them, siblings in the order of their names. Whatever a mark says
about places elsewhere is resolved: a renamed directory comes with all that shows in it, a file
with its content, a hard link with the name it is a link of. Marks that change nothing are gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.model import InodeType
from mountcr.rootfs.dialect import Entry
from mountcr.rootfs.tree import join
from mountcr.rootfs.view import Part, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mountcr.rootfs.dialect import Layer
    from mountcr.rootfs.inode import Inode
    from mountcr.rootfs.tree import Tree

__all__ = ["changes", "everything", "hiding_sockets"]


def changes(layer: Layer, below: View | None, *, writable: bool = True) -> Iterator[Entry]:
    """
    Give what a layer has and removes, its root first.

    Without `below`, every mark is taken for one that changes something; `writable` tells that it is
    the writable one of a stack. Raises OSError, and RefusedError naming the path where a mark
    points to a layer that is not there.
    """
    if below is not None:
        below = View(below.layers, below.data, writable=False)
    layers = (layer, *(below.layers if below else ()))
    view = View(layers, below.data if below else (), writable=writable)
    walk = _Walk(view, below)
    root = view.parts(b"")[0].marked
    # with what lies below, an opaque root is spelled as all that it hides: few dialects have one
    yield Entry(b"", root.inode, opaque=root.opaque and below is None)
    yield from walk.directory(b"")
    yield from walk.aliases()


def hiding_sockets(entries: Iterable[Entry], below: Tree) -> Iterator[Entry]:
    """
    Give entries, and before each socket that hides something of `below` that this is removed.

    For what holds no sockets and leaves them out, as a tar does: nothing else comes to light there.
    Raises OSError, RefusedError as reading `below` does.
    """
    for entry in entries:
        inode = entry.inode
        if inode is not None and inode.type is InodeType.SOCKET and below.inode(entry.path):
            yield Entry(entry.path, None)
        yield entry


def everything(tree: Tree) -> Iterator[Entry]:
    """Give all of a tree, as a layer that lies on nothing."""
    links = _Links()
    root = tree.inode(b"")
    if root is not None:
        yield Entry(b"", root)
        yield from _everything(tree, b"", links)


def _everything(tree: Tree, directory: bytes, links: _Links) -> Iterator[Entry]:
    for name in tree.entries(directory):
        path = join(directory, name)
        inode = tree.inode(path)
        if inode is None:
            continue  # removed meanwhile
        yield _present(tree, path, inode, links)
        if inode.is_directory:
            yield from _everything(tree, path, links)


class _Links:
    """Which inodes have been given, and by which name first."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, int], bytes] = {}

    def first(self, path: bytes, inode: Inode) -> bytes | None:
        """Give the first name of an inode; None if this is it."""
        if inode.nlink == 1 or inode.is_directory or inode.identity == (0, 0):
            return None
        first = self._first.setdefault(inode.identity, path)
        return None if first == path else first


def _present(tree: Tree, path: bytes, inode: Inode, links: _Links) -> Entry:
    link = links.first(path, inode)
    source = None
    if inode.is_file and link is None:
        source = tree.source(path) if isinstance(tree, View) else (tree, path)
    return Entry(path, inode, link=link, source=source)


class _Walk:
    """A walk over the topmost layer of a view."""

    def __init__(self, view: View, below: View | None) -> None:
        self._view = view
        self._below = below
        self._links = _Links()
        self._lent: set[bytes] = set()
        self._brought: dict[tuple[int, int], bytes] = {}
        self._given: set[bytes] = set()

    def directory(
        self, path: bytes, part: Part | None = None, *, alone: bool = False
    ) -> Iterator[Entry]:
        """Give what the layer says of the names in a directory; `alone`, below which is nothing."""
        part = part or self._view.parts(path)[0]
        listing = self._view.listing(part)
        removed = listing.removed
        if not path and part.marked.opaque and self._below is not None:
            removed |= self._below.entries(b"").keys()
        for name in sorted(listing.names.keys() | removed | listing.passed):
            child = join(path, name)
            if name in listing.names:
                yield from self._child(child, alone=alone)
            elif alone:
                continue
            elif name in removed:
                yield from self._removed(child)
            else:
                yield from self._passed(child)

    def _removed(self, path: bytes) -> Iterator[Entry]:
        if self._below is None or self._below.parts(path):
            yield Entry(path, None)

    def _passed(self, path: bytes) -> Iterator[Entry]:
        """Give what is removed in a directory that the layer does not have, the directory first."""
        if self._below is None:
            root = self._view.parts(b"")[0]
            yield from self.directory(path, Part(0, path, root.marked))
            return
        parts = self._view.parts(path)
        if parts and parts[0].borrowed:
            removed = list(self.directory(path))
            if removed:
                yield Entry(path, parts[0].marked.inode)
                yield from removed

    def _child(self, path: bytes, *, alone: bool) -> Iterator[Entry]:
        parts = self._view.parts(path)
        if not parts:  # a mark that is an inode, and shows in the listing only
            if not alone:
                yield from self._removed(path)
            return
        top = parts[0].marked
        if not top.inode.is_directory:
            yield _present(self._view, path, top.inode, self._links)
        elif top.redirect is not None or self._reaches_further(path, parts):
            hides = self._below is None or bool(self._below.parts(path))
            yield Entry(path, top.inode, opaque=hides and not alone)
            yield from self._bring(path)
        else:
            opaque = not alone and self._is_opaque(path, parts)
            yield Entry(path, top.inode, opaque=opaque)
            yield from self.directory(path, alone=alone or opaque)

    def _bring(self, path: bytes) -> Iterator[Entry]:
        """Give all that shows in a directory, and keep in mind what has other names elsewhere."""
        for entry in _everything(self._view, path, self._links):
            inode = entry.inode
            if inode and not inode.is_directory and inode.nlink > 1:
                self._brought.setdefault(inode.identity, entry.link or entry.path)
                self._given.add(entry.path)
            yield entry

    def _reaches_further(self, path: bytes, parts: tuple[Part, ...]) -> bool:
        """Tell whether a directory merges with one that does not show without it."""
        if self._below is None or len(parts) == 1:
            return False
        below = self._below.parts(path)
        return not below or not below[0].marked.inode.is_directory

    def _is_opaque(self, path: bytes, parts: tuple[Part, ...]) -> bool:
        """Tell whether a directory hides something, by a mark or by what lies below."""
        if self._below is None:
            return parts[0].marked.opaque
        return len(parts) == 1 and bool(self._below.parts(path))

    def aliases(self) -> Iterator[Entry]:
        """
        Give the names below of files that are in the layer now, and hard links of theirs.

        A file of which another name was changed is that one now; one that came along with a
        directory that was moved still has its other names.
        """
        changed = self._view.changed_links()
        if self._below is None or not (changed or self._brought):
            return
        for entry in everything(self._below):
            first = self._first(entry, changed)
            if first is not None and entry.path != first:
                yield from self._alias(entry.path, first)

    def _first(self, entry: Entry, changed: Mapping[tuple[int, int], bytes]) -> bytes | None:
        """Give the name in the layer of the file that one below is a hard link of, if any."""
        if entry.inode is None or entry.path in self._given:
            return None
        identity = entry.inode.identity
        if identity in changed:
            return changed[identity]
        shown = self._view.inode(entry.path) if identity in self._brought else None
        return self._brought[identity] if shown and shown.identity == identity else None

    def _alias(self, path: bytes, first: bytes) -> Iterator[Entry]:
        parts = self._view.parts(path)
        inode = self._view.inode(first)
        if parts and inode and (parts[0].layer > 0 or parts[0].path != path):
            yield from self._parents(path)
            yield Entry(path, inode, link=first)

    def _parents(self, path: bytes) -> Iterator[Entry]:
        """Give the directories that a path lies in and that the layer does not have itself."""
        directory = path.rpartition(b"/")[0]
        if not directory or directory in self._lent:
            return
        top = self._view.parts(directory)[0]
        if top.layer > 0:
            self._lent.add(directory)
            yield from self._parents(directory)
            yield Entry(directory, top.marked.inode)
