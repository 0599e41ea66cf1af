# SPDX-License-Identifier: Apache-2.0
"""
Layers of overlayfs, as the kernel writes and reads them.

A whiteout is a character device 0:0, or (Linux 6.7) an empty regular file with the attribute
`overlay.whiteout`; everything else is in attributes too, which begin with `trusted.overlay.`, or
with `user.overlay.` for mounts with `userxattr`. An attribute of the user that would begin so is
stored with one more `overlay.` (Linux 6.7, fs/overlayfs/xattrs.c); all others of that prefix are
the kernel's own notes and no part of the file.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from mountcr.errors import RefusedError
from mountcr.model import InodeType
from mountcr.paths import KPath, decode
from mountcr.rootfs.dialect import Listing, Marked, Raw, refuse_opaque_root
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.tree import join, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.rootfs.dialect import Entry
    from mountcr.rootfs.tree import Tree

__all__ = ["WHITEOUT", "Overlay", "OverlayLayer", "is_whiteout_device"]

WHITEOUT: Final = Inode(type=InodeType.CHARACTER, mode=0)
"""The device 0:0 that hides a name, `WHITEOUT_DEV` and `WHITEOUT_MODE` of linux/fs.h."""

_LONGEST: Final = 255
"""Bytes of the name of an attribute, XATTR_NAME_MAX of linux/limits.h."""

_ABSOLUTE: Final = re.compile(rb"(/(?!\.{1,2}(/|$))[^/]+)+", re.DOTALL)
_RELATIVE: Final = re.compile(rb"(?!\.{1,2}$)[^/]+", re.DOTALL)


def is_whiteout_device(inode: Inode) -> bool:
    """Tell the character device 0:0, whatever its mode (`IS_WHITEOUT` of linux/fs.h)."""
    return inode.type is InodeType.CHARACTER and inode.rdev == "0:0"


class OverlayLayer:
    """A tree that is a layer of an overlay."""

    def __init__(self, tree: Tree, prefix: str) -> None:
        self.tree = tree
        self._own = f"{prefix}.overlay."
        self._escaped = f"{prefix}.overlay.overlay."

    def listing(self, path: bytes) -> Listing:
        """
        Tell names from whiteouts.

        Whiteouts that are files are looked for where the directory says so with an opaque mark of
        `x`, as readdir(2) does; elsewhere they are hidden, but listed (fs/overlayfs/readdir.c).
        """
        names = dict(self.tree.entries(path))
        directory = self.tree.inode(path)
        doubtful = {InodeType.CHARACTER}
        if directory is not None and self._mark(directory, "opaque") == b"x":
            doubtful.add(InodeType.FILE)
        removed = {
            name
            for name, kind in names.items()
            if kind in doubtful and self._is_whiteout(self.tree.inode(join(path, name)))
        }
        for name in removed:
            del names[name]
        return Listing(names, frozenset(removed))

    def inode(self, path: bytes) -> Marked | None:
        """
        Give the inode without the marks; None for a whiteout.

        Raises RefusedError for a redirect that leads nowhere, on which the kernel fails too
        (`ovl_check_redirect()` in fs/overlayfs/namei.c).
        """
        stored = self.tree.inode(path)
        if stored is None or self._is_whiteout(stored):
            return None
        if not any(name.startswith(self._own) for name in stored.xattrs):
            return Marked(stored)
        # nobody looks at a mark of the root
        opaque = bool(path) and stored.is_directory and self._mark(stored, "opaque") == b"y"
        metacopy = stored.is_file and self._mark(stored, "metacopy") is not None
        # `origin` of the root is what index=on leaves: there may be files with `nlink`
        linked = self._mark(stored, "nlink" if path else "origin") is not None
        inode = msgspec.structs.replace(stored, xattrs=self._public(stored))
        if linked and not inode.is_directory:
            # the other link is in the index, which need not have come along
            inode = msgspec.structs.replace(inode, nlink=max(inode.nlink, 2))
        redirect = None
        if metacopy or (stored.is_directory and not opaque):
            redirect = self._redirect(path, stored)
        origin = _origin(self._mark(stored, "origin")) if linked and path else 0
        return Marked(inode, opaque, redirect, metacopy=metacopy, linked=linked, origin=origin)

    def _mark(self, inode: Inode, name: str) -> bytes | None:
        return inode.xattrs.get(KPath(self._own + name))

    def _is_whiteout(self, inode: Inode | None) -> bool:
        if inode is None:
            return False
        if inode.is_file and inode.size == 0:
            return self._mark(inode, "whiteout") is not None
        return is_whiteout_device(inode)

    def _redirect(self, path: bytes, inode: Inode) -> bytes | None:
        found = self._mark(inode, "redirect")
        if found is None:
            return None
        if not (_ABSOLUTE if found.startswith(b"/") else _RELATIVE).fullmatch(found):
            msg = f"{shown(path)} is marked as moved from {found!r}, which is no path"
            raise RefusedError(msg, hint="the layer is damaged: overlayfs does not read it either")
        return found

    def _public(self, inode: Inode) -> dict[KPath, bytes]:
        """Give the attributes that the user sees."""
        return {
            KPath(self._own + name[len(self._escaped) :]) if name.startswith(self._own) else name: (
                value
            )
            for name, value in inode.xattrs.items()
            if not name.startswith(self._own) or name.startswith(self._escaped)
        }


_MAGIC: Final = 0xFB
_FILE_HANDLE: Final = 21
"""Where the file handle begins: behind a header and the UUID of the file system."""

_INODE_NUMBERS: Final = {
    (0x01, 8): ("<I", 0),  # FILEID_INO32_GEN: ext4, xfs
    (0x01, 12): ("<Q", 4),  # tmpfs (mm/shmem.c, `shmem_encode_fh()`)
    (0x81, 12): ("<Q", 0),  # FILEID_INO64_GEN: xfs
    (0x4D, 20): ("<Q", 0),  # FILEID_BTRFS_WITHOUT_PARENT
}
"""Where a file handle has the inode number, by type and length (include/linux/exportfs.h)."""


def _origin(mark: bytes | None) -> int:
    """
    Give the number of the inode that a file was copied up from; 0 where that cannot be told.

    The mark is a `struct ovl_fb` (fs/overlayfs/overlayfs.h).
    """
    if mark is None or len(mark) < _FILE_HANDLE or mark[1] != _MAGIC:
        return 0
    layout = _INODE_NUMBERS.get((mark[4], len(mark) - _FILE_HANDLE))
    if layout is None:
        return 0
    number: int = struct.unpack_from(layout[0], mark, _FILE_HANDLE + layout[1])[0]
    return number


class Overlay:
    """Layers of overlayfs, with marks in `trusted.` or `user.` attributes."""

    def __init__(self, prefix: Literal["trusted", "user"] = "trusted") -> None:
        self.name = "overlay" if prefix == "trusted" else f"overlay-{prefix}"
        self._prefix = prefix
        self._own = f"{prefix}.overlay."

    def layer(self, tree: Tree) -> OverlayLayer:
        """Read a tree as a layer."""
        return OverlayLayer(tree, self._prefix)

    def begin(self) -> Iterable[Raw]:
        """Give nothing: the kernel marks the root when it mounts it."""
        return ()

    def encode(self, entry: Entry) -> Iterable[Raw]:
        """
        Spell an entry.

        Raises RefusedError for a device that is a whiteout, for an opaque root, and for what is an
        attribute that cannot be escaped: its name gets too long, or its inode can have no `user.`
        attributes (xattr(7)).
        """
        refuse_opaque_root(entry, self.name)
        if entry.inode is None:
            return (Raw(entry.path, WHITEOUT),)
        if is_whiteout_device(entry.inode):
            msg = f"{shown(entry.path)} is a character device 0:0, which hides a name in an overlay"
            raise RefusedError(msg, hint="choose a driver without such marks, as vfs or aufs")
        if entry.link is not None:
            return (Raw(entry.path, entry.inode, link=entry.link),)
        xattrs = {self._escape(entry, name): value for name, value in entry.inode.xattrs.items()}
        if entry.opaque:
            xattrs[KPath(f"{self._own}opaque")] = b"y"
        inode = entry.inode
        if xattrs != inode.xattrs:
            inode = msgspec.structs.replace(inode, xattrs=xattrs)
        return (Raw(entry.path, inode, content=inode.is_file),)

    def _escape(self, entry: Entry, name: KPath) -> KPath:
        if not name.startswith(self._own) or entry.inode is None:
            return name
        escaped = KPath(f"{self._own}overlay.{name[len(self._own) :]}")
        if len(decode(escaped)) > _LONGEST:
            why = "is too long to be escaped"
        elif self._prefix == "user" and not (entry.inode.is_file or entry.inode.is_directory):
            why = f"cannot be escaped on a {entry.inode.type.value}"
        else:
            return escaped
        msg = f"{shown(entry.path)} has the attribute {name}, which {why} in an overlay"
        raise RefusedError(msg, hint="remove the attribute, or choose another driver")
