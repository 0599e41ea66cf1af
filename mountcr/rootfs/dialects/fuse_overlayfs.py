# SPDX-License-Identifier: Apache-2.0
"""
Layers of fuse-overlayfs (main.c and utils.c of 1.10 to 1.15, src/*.rs of 1.16).

A whiteout is a character device 0:0, or a file `.wh.NAME`, which hides its name in its own layer
too. A directory is opaque by an attribute or by a file `.wh..wh..opq`; version 1.10 leaves a
device `.wh..opq` beside it, which alone means nothing. Redirects and metacopy are not followed.
With `xattr_permissions` owner and mode are in an attribute, which one the root of the layer tells.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.errors import RefusedError
from mountcr.model import InodeType
from mountcr.paths import KPath, encode
from mountcr.rootfs.dialect import Listing, Marked, Raw
from mountcr.rootfs.dialects import wh
from mountcr.rootfs.dialects.overlay import WHITEOUT, is_whiteout_device
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.tree import join, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.rootfs.dialect import Entry
    from mountcr.rootfs.tree import Tree

__all__ = ["FuseOverlayfs", "FuseOverlayfsLayer"]

_OPAQUE: Final = (
    KPath("trusted.overlay.opaque"),
    KPath("user.fuseoverlayfs.opaque"),
    KPath("user.overlay.opaque"),
)
_OVERRIDES: Final = (
    KPath("security.fuseoverlayfs.override_stat"),
    KPath("user.containers.override_stat"),
    KPath("user.fuseoverlayfs.override_stat"),
)
"""Owner and mode, in the order in which the root of a layer is asked for them (direct.c)."""

_OVERRIDE: Final = "user.containers.override_"
_PRIVATE: Final = (
    "trusted.overlay.",
    "user.overlay.",
    "user.fuseoverlayfs.",
    "security.fuseoverlayfs.",
    _OVERRIDE,
)

_STRAY: Final = b".wh..opq"
_OPAQUE_FILE: Final = Inode(type=InodeType.FILE, mode=0o700)

_STAT: Final = re.compile(rb"(\d+):(\d+):([0-7]+)(?::([a-z]+)(?:-?(\d+)[-:](\d+))?)?\0?")
_TYPES: Final = {
    b"file": InodeType.FILE,
    b"dir": InodeType.DIRECTORY,
    b"symlink": InodeType.SYMLINK,
    b"pipe": InodeType.FIFO,
    b"socket": InodeType.SOCKET,
    b"char": InodeType.CHARACTER,
    b"block": InodeType.BLOCK,
}
_DEVICES: Final = frozenset({InodeType.CHARACTER, InodeType.BLOCK})


class FuseOverlayfsLayer:
    """A tree that is a layer of a fuse-overlayfs."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._first: tuple[KPath, ...] | None = None

    def listing(self, path: bytes) -> Listing:
        """Tell names from whiteouts. Raises RefusedError for a whiteout of nothing."""
        found = wh.split(path, self._entries(path))
        removed = set(found.removed)
        for name, kind in found.names.items():
            if kind is InodeType.CHARACTER:
                stored = self.tree.inode(join(path, name))
                if stored is not None and is_whiteout_device(stored):
                    removed.add(name)
        names = {
            name: self._kind(join(path, name), kind)
            for name, kind in found.names.items()
            if name not in removed
        }
        return Listing(names, frozenset(removed))

    def _entries(self, path: bytes) -> dict[bytes, InodeType]:
        """Leave out what is beside the mark of an opaque directory."""
        entries = dict(self.tree.entries(path))
        if entries.get(_STRAY) is InodeType.CHARACTER:
            del entries[_STRAY]
        return entries

    def _kind(self, path: bytes, kind: InodeType) -> InodeType:
        """Give the type that a regular file stands for."""
        if kind is not InodeType.FILE or not self._is_overridden():
            return kind
        marked = self.inode(path)
        return marked.inode.type if marked else kind

    def inode(self, path: bytes) -> Marked | None:
        """
        Give the inode without the marks; None for a whiteout.

        Raises RefusedError, naming the path, for ownership that is not spelled as it should be.
        """
        stored = self.tree.inode(path)
        if stored is None or is_whiteout_device(stored):
            return None
        opaque = False
        if stored.is_directory:
            opaque = any(stored.xattrs.get(name) == b"y" for name in _OPAQUE) or (
                self.tree.inode(join(path, wh.OPAQUE)) is not None
            )
        if not any(name.startswith(_PRIVATE) for name in stored.xattrs):
            return Marked(stored, opaque)
        inode = msgspec.structs.replace(stored, xattrs=_public(stored))
        for name in self._overrides():
            if name in stored.xattrs:
                inode = self._overridden(path, inode, stored.xattrs[name])
                break
        return Marked(inode, opaque)

    def _is_overridden(self) -> bool:
        root = self.tree.inode(b"")
        return root is not None and any(name in root.xattrs for name in _OVERRIDES)

    def _overrides(self) -> tuple[KPath, ...]:
        """Give the attributes with ownership, that of the root of the layer first."""
        if self._first is None:
            root = self.tree.inode(b"")
            own = () if root is None else tuple(each for each in _OVERRIDES if each in root.xattrs)
            self._first = (*own[:1], *(each for each in _OVERRIDES if each not in own[:1]))
        return self._first

    def _overridden(self, path: bytes, inode: Inode, value: bytes) -> Inode:
        match = _STAT.fullmatch(value)
        kind = _TYPES.get(match[4]) if match and match[4] else inode.type
        if match is None or kind is None:
            msg = f"the owner and mode of {shown(path)} are spelled {value!r}, which nobody reads"
            raise RefusedError(msg, hint="expected uid:gid:mode[:type[-major-minor]]")
        inode = msgspec.structs.replace(
            inode, uid=int(match[1]), gid=int(match[2]), mode=stat.S_IMODE(int(match[3], 8))
        )
        if kind is inode.type:
            return inode
        target = encode(self._content(path)) if kind is InodeType.SYMLINK else None
        rdev = f"{int(match[5] or 0)}:{int(match[6] or 0)}" if kind in _DEVICES else "0:0"
        size = inode.size if kind is InodeType.FILE else 0
        return msgspec.structs.replace(inode, type=kind, rdev=rdev, target=target, size=size)

    def _content(self, path: bytes) -> bytes:
        """Read the target of a symbolic link that is stored as a file."""
        content = self.tree.content(path)
        try:
            return os.pread(content.fd, min(content.size, 4096), content.offset)
        finally:
            os.close(content.fd)


def _public(inode: Inode) -> dict[KPath, bytes]:
    """Give the attributes that the user sees."""
    found = {name: value for name, value in inode.xattrs.items() if not name.startswith(_PRIVATE)}
    for name, value in inode.xattrs.items():
        if name.startswith(_OVERRIDE) and name not in _OVERRIDES:
            found[KPath(name.removeprefix(_OVERRIDE))] = value
    return found


class FuseOverlayfs:
    """Layers of fuse-overlayfs, run by root."""

    name = "fuse-overlayfs"

    def layer(self, tree: Tree) -> FuseOverlayfsLayer:
        """Read a tree as a layer."""
        return FuseOverlayfsLayer(tree)

    def begin(self) -> Iterable[Raw]:
        """Give nothing."""
        return ()

    def encode(self, entry: Entry) -> Iterable[Raw]:
        """
        Spell an entry, as fuse-overlayfs itself does.

        Raises RefusedError for a device that is a whiteout, for names that begin with `.wh.`, and
        for attributes that it keeps to itself.
        """
        wh.refuse_mark(entry.path, self.name)
        if entry.inode is None:
            return (Raw(entry.path, WHITEOUT),)
        if is_whiteout_device(entry.inode):
            msg = f"{shown(entry.path)} is a character device 0:0, which hides a name"
            raise RefusedError(msg, hint="choose a driver without such marks, as vfs or aufs")
        private = next((name for name in entry.inode.xattrs if name.startswith(_PRIVATE)), None)
        if private is not None:
            msg = f"{shown(entry.path)} has the attribute {private}, which fuse-overlayfs hides"
            raise RefusedError(msg, hint="remove the attribute, or choose another driver")
        content = entry.inode.is_file and entry.link is None
        own = Raw(entry.path, entry.inode, content=content, link=entry.link)
        if not entry.opaque:
            return (own,)
        xattrs = {**entry.inode.xattrs, _OPAQUE[0]: b"y"}
        own = own._replace(inode=msgspec.structs.replace(entry.inode, xattrs=xattrs))
        # the file is for a daemon that may not read the attribute
        return own, Raw(join(entry.path, wh.OPAQUE), _OPAQUE_FILE)
