# SPDX-License-Identifier: Apache-2.0
"""
Branches of unionfs-fuse (src/general.c, cow.c, readdir.c, rmdir.c of 0.25 to 3.x).

A whiteout of DIR/NAME is DIR/NAME_HIDDEN~, a file or a directory, below a directory in the root of
the branch: `.unionfs`, or `.unionfs-fuse` in version 1.0. It hides what is in the branches below
its own, so that a directory that is in its own branch too is opaque. DIR need not be in the branch.
What is no directory is passed over where a directory lies above it, and directories below merge; a
symbolic link is followed there, out of the branch if it leads out (readdir.c, `opendir()`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.errors import RefusedError
from mountcr.model import InodeType
from mountcr.rootfs.dialect import Listing, Marked, Raw, refuse_opaque_root
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.tree import MOST, join, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.rootfs.dialect import Entry
    from mountcr.rootfs.tree import Tree

__all__ = ["UnionfsFuse", "UnionfsFuseLayer"]

_SUFFIX: Final = b"_HIDDEN~"
"""`HIDETAG` of src/unionfs.h."""

_NEW: Final = b".unionfs"
_OLD: Final = b".unionfs-fuse"
_META: Final = (_NEW, _OLD)
"""`METANAME` of src/unionfs.h, by version."""

_HIDDEN_NAME: Final = Inode(type=InodeType.FILE, mode=0o600)
_HIDDEN_DIRECTORY: Final = Inode(type=InodeType.DIRECTORY, mode=0o700)
"""What `hide_file()` and `hide_dir()` make."""


class UnionfsFuseLayer:
    """
    A tree that is a branch of a unionfs-fuse with copy-on-write.

    `meta` is where its version puts whiteouts, and shows nothing even if it is no directory. With
    the newer one, which stands for a version that nobody knows too, both places count.
    """

    def __init__(self, tree: Tree, meta: bytes = _NEW) -> None:
        self.tree = tree
        self._own = meta
        self._roots: tuple[bytes, ...] | None = None

    def listing(self, path: bytes) -> Listing:
        """
        Tell what is there, hidden below, and in directories that are not there.

        Raises RefusedError for what lies in a directory for whiteouts and is none: it would be
        lost, and may be somebody's file.
        """
        stored = self.tree.inode(path)
        names: dict[bytes, InodeType] = {}
        if stored is not None and stored.is_directory:
            names.update(self.tree.entries(path))
            if not path and names.get(self._own) is not InodeType.DIRECTORY:
                names.pop(self._own, None)
        removed: set[bytes] = set()
        passed: set[bytes] = set()
        for root in self._meta():
            if not path:
                del names[root]
            where = join(root, path) if path else root
            meta = self.tree.inode(where)
            if meta is not None and meta.is_directory:
                for name, kind in self.tree.entries(where).items():
                    is_mark = name.endswith(_SUFFIX) and name != _SUFFIX
                    if is_mark:
                        removed.add(name.removesuffix(_SUFFIX))
                    if kind is InodeType.DIRECTORY:  # also of what is called like a mark
                        passed.add(name)
                    elif not is_mark:
                        _refuse_stray(join(where, name))
        there = {name for name, kind in names.items() if kind is InodeType.DIRECTORY}
        return Listing(names, frozenset(removed), frozenset(passed - removed - there))

    def inode(self, path: bytes) -> Marked | None:
        """Give the inode; a directory is opaque that is there and hidden."""
        stored = self.tree.inode(path)
        if stored is None:
            return None
        if not stored.is_directory:
            return Marked(stored, blocks=False, follows=stored.type is InodeType.SYMLINK)
        return Marked(stored, self._is_hidden(path))

    def _is_hidden(self, path: bytes) -> bool:
        """Tell whether there is a whiteout for a path; a name without room for one has none."""
        if not path or len(path.rpartition(b"/")[2] + _SUFFIX) > MOST:
            return False
        return any(self.tree.inode(join(root, path + _SUFFIX)) is not None for root in self._meta())

    def _meta(self) -> tuple[bytes, ...]:
        if self._roots is None:
            entries = self.tree.entries(b"")
            places = _META if self._own == _NEW else (self._own,)
            self._roots = tuple(each for each in places if entries.get(each) is InodeType.DIRECTORY)
        return self._roots


def _refuse_stray(path: bytes) -> None:
    msg = f"{shown(path)} is no whiteout, but lies where unionfs-fuse has them"
    raise RefusedError(msg, hint="move it elsewhere")


class UnionfsFuse:
    """Branches of unionfs-fuse; `meta` is where this version puts whiteouts."""

    def __init__(self, meta: bytes = _NEW) -> None:
        self.name = "unionfs" if meta == _NEW else "unionfs-1.0"
        self._meta = meta

    def layer(self, tree: Tree) -> UnionfsFuseLayer:
        """Read a tree as a branch."""
        return UnionfsFuseLayer(tree, self._meta)

    def begin(self) -> Iterable[Raw]:
        """Give nothing: the directory of whiteouts comes with the first."""
        return ()

    def encode(self, entry: Entry) -> Iterable[Raw]:
        """
        Spell an entry.

        Raises RefusedError for a name that is or was a whiteout (before 0.25 they lay beside what
        they hid), and for a directory of whiteouts.
        """
        name = entry.path.rpartition(b"/")[2]
        if name.endswith(_SUFFIX) or entry.path in _META:
            msg = f"{shown(entry.path)} would be a mark of unionfs-fuse"
            raise RefusedError(msg, hint="choose a driver without such marks, as overlay or vfs")
        refuse_opaque_root(entry, self.name)
        if entry.inode is None:
            return (Raw(self._mark(entry.path), _HIDDEN_NAME),)
        content = entry.inode.is_file and entry.link is None
        own = Raw(entry.path, entry.inode, content=content, link=entry.link)
        if not entry.opaque:
            return (own,)
        return own, Raw(self._mark(entry.path), _HIDDEN_DIRECTORY)

    def _mark(self, path: bytes) -> bytes:
        if len(path.rpartition(b"/")[2] + _SUFFIX) > MOST:
            msg = f"{shown(path)} has a name that is too long for a whiteout of unionfs-fuse"
            raise RefusedError(
                msg, hint=f"names of more than {MOST - len(_SUFFIX)} bytes have none"
            )
        return join(self._meta, path + _SUFFIX)
