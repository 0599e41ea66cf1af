# SPDX-License-Identifier: Apache-2.0
"""
Views: what layers on top of each other show.

The rules are those of overlayfs, which the others share: what an upper layer has or removes hides
what lies below, directories merge until one is opaque or something else lies in between
(Documentation/filesystems/overlayfs.rst, fs/overlayfs/namei.c `ovl_lookup()`). No kernel is asked,
so that layers of file systems that this kernel does not have are read too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.errors import RefusedError
from mountcr.model import InodeType
from mountcr.paths import decode
from mountcr.rootfs.dialect import Marked
from mountcr.rootfs.tree import join, may_lead_to_directory, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mountcr.rootfs.dialect import Layer, Listing
    from mountcr.rootfs.inode import Inode
    from mountcr.rootfs.tree import Content, Tree

__all__ = ["Part", "View"]

_CACHED: Final = 512
"""Listings and directories that are remembered; a walk asks for the same few again and again."""


class Part(NamedTuple):
    """
    What one layer has of a path: the layer's number, top 0, the path there, the inode.

    `borrowed`: the layer only has marks for names in the directory; the inode is that of the
    directory below.
    """

    layer: int
    path: bytes
    marked: Marked
    borrowed: bool = False


class View:
    """
    Layers, top first, and overlay's data-only layers; a tree itself.

    It owns nothing: whoever opened the trees closes them. Without `writable` the topmost layer is
    one of those below another: only the writable one can stand for hard links of a file below it.
    """

    def __init__(
        self, layers: Sequence[Layer], data: Sequence[Tree] = (), *, writable: bool = True
    ) -> None:
        self.layers = tuple(layers)
        self.data = tuple(data)
        self._writable = writable
        self._listings: OrderedDict[tuple[int, bytes], Listing] = OrderedDict()
        self._parts: OrderedDict[tuple[int, bytes], tuple[Part, ...]] = OrderedDict()
        self._linked: dict[tuple[int, int], bytes] | None = None

    def below(self) -> View:
        """Give the view without the topmost layer."""
        return View(self.layers[1:], self.data, writable=False)

    def entries(self, path: bytes) -> Mapping[bytes, InodeType]:
        """Give the names in a directory and what each is, sorted by name."""
        found: dict[bytes, InodeType] = {}
        removed: set[bytes] = set()
        for part in self.parts(path):
            listing = self.listing(part)
            for name, kind in listing.names.items():
                if name not in removed:
                    found.setdefault(name, kind)
            removed |= listing.removed
        return dict(sorted(found.items()))

    def inode(self, path: bytes) -> Inode | None:
        """Give the inode that shows; None if nothing does. Raises RefusedError as `parts` does."""
        parts = self.parts(path)
        return parts[0].marked.inode if parts else None

    def content(self, path: bytes) -> Content:
        """Open a regular file. The caller owns the descriptor. Raises OSError, RefusedError."""
        tree, where = self.source(path)
        return tree.content(where)

    def source(self, path: bytes) -> tuple[Tree, bytes]:
        """
        Say which tree has the content of a regular file, and at which path.

        Raises RefusedError where a layer has the metadata only and no layer below the content.
        """
        parts = self.parts(path)
        last = parts[-1]
        if not last.marked.metacopy:
            return self.layers[last.layer].tree, last.path
        redirect = last.marked.redirect or b""
        for tree in self.data if redirect.startswith(b"/") else ():
            if tree.inode(redirect[1:]) is not None:
                return tree, redirect[1:]
        msg = f"no layer has the content of {shown(path)}: its metadata only"
        raise RefusedError(msg, hint="name every layer below, the data-only ones too")

    def listing(self, part: Part) -> Listing:
        """Give what a layer has in a directory."""
        key = part.layer, part.path
        found = self._listings.get(key)
        if found is None:
            found = self._listings[key] = self.layers[part.layer].listing(part.path)
            if len(self._listings) > _CACHED + len(self.layers):
                self._listings.popitem(last=False)
        else:
            self._listings.move_to_end(key)
        return found

    def parts(self, path: bytes, *, start: int = 0) -> tuple[Part, ...]:
        """
        Give what makes up a path in the layers from `start` on, top first; empty if nothing does.

        Of a directory these are the directories that merge; of anything else one inode, followed,
        as long as its content is elsewhere, by those further below. Raises RefusedError naming a
        directory that would merge with what a symbolic link leads to.
        """
        key = start, path
        found = self._parts.get(key)
        if found is None:
            if path:
                parent, _, name = path.rpartition(b"/")
                found = self._child(self.parts(parent, start=start), name, start)
            else:
                found = self._roots(start)
            self._parts[key] = found
            if len(self._parts) > _CACHED:
                self._parts.popitem(last=False)
        return found

    def _roots(self, start: int) -> tuple[Part, ...]:
        """Give the roots, down to one that is opaque to its dialect."""
        found: list[Part] = []
        for number in range(start, len(self.layers)):
            root = self.layers[number].inode(b"")
            if root is None:
                continue
            found.append(Part(number, b"", root))
            if root.opaque:
                break
        return tuple(found)

    def _child(self, parents: tuple[Part, ...], name: bytes, start: int) -> tuple[Part, ...]:
        found: list[Part] = []
        passed: list[tuple[int, bytes]] = []
        for parent in parents:
            if not parent.marked.inode.is_directory:
                break
            listing = self.listing(parent)
            path = join(parent.path, name)
            if name in listing.passed:
                passed.append((parent.layer, path))
            there = name in listing.names
            marked = self.layers[parent.layer].inode(path) if there else None
            if marked is None:
                if there or name in listing.removed:
                    break
                continue
            if found and not _continues(found[-1].marked, marked):
                if marked.blocks or name in listing.removed:
                    break
                _refuse_followed(self.layers[parent.layer].tree, path, marked)
                continue
            if marked.inode.is_directory:
                found += (Part(*at, Marked(marked.inode), borrowed=True) for at in passed)
            passed.clear()
            found.append(Part(parent.layer, path, marked))
            if not _goes_on(marked) or name in listing.removed:
                break
            if marked.redirect is not None:
                if marked.redirect.startswith(b"/"):
                    rest = self.parts(marked.redirect[1:], start=parent.layer + 1)
                    found += rest if rest and _continues(marked, rest[0].marked) else ()
                    break
                name = marked.redirect
        return self._link(tuple(found), start)

    def _link(self, parts: tuple[Part, ...], start: int) -> tuple[Part, ...]:
        """Give the parts of the name that was changed, where a name below is a hard link of it."""
        if start or not parts or parts[0].layer == 0 or parts[0].marked.inode.is_directory:
            return parts
        inode = parts[0].marked.inode
        if inode.nlink == 1 or inode.identity == (0, 0):
            return parts
        first = self.changed_links().get(inode.identity)
        return parts if first is None else self.parts(first)

    def changed_links(self) -> Mapping[tuple[int, int], bytes]:
        """
        Give the files below all of whose hard links are one file of the writable layer now.

        That is the identity of the file below, and a path of the one that stands for it. A file
        whose name there is another by now is found by the number of the inode it was copied from.
        """
        if self._linked is None:
            self._linked = {}
            root = self.layers[0].inode(b"") if self._writable and self.layers else None
            if root is not None and root.linked:
                self._find_links(self._linked)
        return self._linked

    def _find_links(self, found: dict[tuple[int, int], bytes]) -> None:
        moved: dict[int, bytes] = {}
        for path, marked in _linked_files(self.layers[0], b""):
            below = self.parts(path, start=1)
            inode = below[0].marked.inode if below else None
            if inode and inode.nlink > 1 and marked.origin in {0, inode.identity[1]}:
                found[inode.identity] = path
            elif marked.origin:
                moved[marked.origin] = path
        for inode in _files(self.below(), b"") if moved else ():
            if inode.nlink > 1 and inode.identity[1] in moved:
                found[inode.identity] = moved[inode.identity[1]]


def _linked_files(layer: Layer, directory: bytes) -> Iterator[tuple[bytes, Marked]]:
    listing = layer.listing(directory)
    for name in listing.passed:
        yield from _linked_files(layer, join(directory, name))
    for name, kind in listing.names.items():
        path = join(directory, name)
        if kind is InodeType.DIRECTORY:
            yield from _linked_files(layer, path)
        else:
            marked = layer.inode(path)
            if marked is not None and marked.linked:
                yield path, marked


def _files(tree: Tree, directory: bytes) -> Iterator[Inode]:
    """Give the inode of everything in a tree that is no directory."""
    for name, kind in tree.entries(directory).items():
        path = join(directory, name)
        if kind is InodeType.DIRECTORY:
            yield from _files(tree, path)
        else:
            inode = tree.inode(path)
            if inode is not None:
                yield inode


def _refuse_followed(tree: Tree, path: bytes, marked: Marked) -> None:
    """Refuse what only a file system that follows the link knows; it may lead out of the layers."""
    target = marked.inode.target
    if marked.follows and target and may_lead_to_directory(tree, path, decode(target)):
        link = f"a symbolic link to {target}"
        msg = f"{shown(path)} is a directory over {link}, and shows what is there"
        hint = "remove the link from the lower layer, or hide it in the upper"
        raise RefusedError(msg, hint=hint)


def _continues(upper: Marked, lower: Marked) -> bool:
    """Tell whether an inode below belongs to one above: directories merge, content is taken."""
    if upper.inode.is_directory:
        return lower.inode.is_directory
    return lower.inode.is_file


def _goes_on(marked: Marked) -> bool:
    """Tell whether there may be more of an inode in the layers below."""
    return not marked.opaque if marked.inode.is_directory else marked.metacopy
