# SPDX-License-Identifier: Apache-2.0
"""
Branches of AUFS (aufs5-standalone, fs/aufs/whout.c, dentry.c, plink.c; include/linux/aufs_type.h).

A whiteout is `.wh.NAME`, an opaque directory has a `.wh..wh..opq` in it; no name in the union may
begin with `.wh.`. In the root of a writable branch are `.wh..wh.aufs`, which all whiteouts are hard
links of, and the directories `.wh..wh.plnk` and `.wh..wh.orph`. A whiteout hides its name in its
own branch too (`au_do_lookup()`); what is of another type than the first that was found is passed
over, and directories below it merge.
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

__all__ = ["Aufs", "AufsLayer"]

_BASE: Final = b".wh..wh.aufs"
_PSEUDO_LINKS: Final = b".wh..wh.plnk"
_ORPHANS: Final = b".wh..wh.orph"
_META: Final = (b".wh..wh.", b".wh..dr.")
"""Its own files, and those about to go (`AUFS_WH_PFX2`); renamed directories (dirren.h)."""

_NUMBERS: Final = b".aufs.xino"
"""Where it keeps inode numbers, in the root of the first writable branch."""

_MARK: Final = Inode(type=InodeType.FILE, mode=0o444)
"""A whiteout or its base: `WH_MASK` in fs/aufs/whout.c."""

_OWN_DIRECTORY: Final = Inode(type=InodeType.DIRECTORY, mode=0o700)


class AufsLayer:
    """A tree that is a branch of an AUFS; without `whiteouts`, one that is mounted without +wh."""

    def __init__(self, tree: Tree, *, whiteouts: bool = True) -> None:
        self.tree = tree
        self._whiteouts = whiteouts
        self._pseudo_linked: frozenset[tuple[int, int]] | None = None

    def listing(self, path: bytes) -> Listing:
        """Tell names from whiteouts. Raises RefusedError for a whiteout of nothing."""
        found = wh.split(path, self.tree.entries(path), ignored=_is_meta)
        removed = found.removed if self._whiteouts else frozenset[bytes]()
        hidden = removed if path else removed | {_NUMBERS}
        names = {name: kind for name, kind in found.names.items() if name not in hidden}
        return Listing(names, removed)

    def inode(self, path: bytes) -> Marked | None:
        """Give the inode; whether a directory is opaque is asked for in the directory."""
        stored = self.tree.inode(path)
        if stored is None:
            return None
        if not stored.is_directory:
            linked = stored.nlink > 1 and stored.identity in self._links()
            return Marked(stored, linked=linked, blocks=False)
        if not path:
            return Marked(stored, linked=bool(self._links()))
        opaque = self._whiteouts and self.tree.inode(join(path, wh.OPAQUE)) is not None
        return Marked(stored, opaque)

    def _links(self) -> frozenset[tuple[int, int]]:
        """Give the files whose other names are still in a branch below."""
        if self._pseudo_linked is None:
            directory = self.tree.inode(_PSEUDO_LINKS)
            names = self.tree.entries(_PSEUDO_LINKS) if directory else ()
            inodes = (self.tree.inode(join(_PSEUDO_LINKS, name)) for name in names)
            self._pseudo_linked = frozenset(each.identity for each in inodes if each)
        return self._pseudo_linked


def _is_meta(name: bytes) -> bool:
    return name.startswith(_META)


class Aufs:
    """Branches of AUFS; without `whiteouts`, those without +wh, under the name `aufs-nowh`."""

    def __init__(self, *, whiteouts: bool = True) -> None:
        self.name = "aufs" if whiteouts else "aufs-nowh"
        self._whiteouts = whiteouts

    def layer(self, tree: Tree) -> AufsLayer:
        """Read a tree as a branch."""
        return AufsLayer(tree, whiteouts=self._whiteouts)

    def begin(self) -> Iterable[Raw]:
        """Give what AUFS makes in the root of a writable branch (`au_wh_init()`)."""
        return (
            Raw(_BASE, _MARK),
            Raw(_PSEUDO_LINKS, _OWN_DIRECTORY),
            Raw(_ORPHANS, _OWN_DIRECTORY),
        )

    def encode(self, entry: Entry) -> Iterable[Raw]:
        """
        Spell an entry. Raises RefusedError for names that are AUFS's own.

        Whiteouts are links of one file. Where that has as many as the file system allows (EMLINK),
        AUFS makes a file of its own (`link_or_create_wh()`), and so may the writer.
        """
        wh.refuse_mark(entry.path, self.name)
        refuse_opaque_root(entry, self.name)
        if entry.path == _NUMBERS:
            msg = f"{shown(entry.path)} has the name of a file that AUFS itself keeps there"
            raise RefusedError(msg, hint="choose another driver")
        if entry.inode is None:
            mark = wh.whiteout(entry.path, self.name)
            if _is_meta(mark.rpartition(b"/")[2]):
                msg = f"{shown(entry.path)} is removed, which AUFS would not take for a whiteout"
                raise RefusedError(msg, hint="choose another driver")
            return (Raw(mark, _MARK, link=_BASE),)
        content = entry.inode.is_file and entry.link is None
        own = Raw(entry.path, entry.inode, content=content, link=entry.link)
        if not entry.opaque:
            return (own,)
        return own, Raw(join(entry.path, wh.OPAQUE), _MARK, link=_BASE)
