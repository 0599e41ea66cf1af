# SPDX-License-Identifier: Apache-2.0
"""
Layer tars as trees: an index of the members, and their content from the open file.

An archive comes from anywhere, so nothing in it is believed: names stay beneath the root, each is
there once and below directories only, and extended attributes are those that belong to the user. A
compressed archive, told by its first bytes and never by its name, is decompressed once into a
temporary file without a name.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
import tempfile
from decimal import Decimal, DecimalException
from typing import IO, TYPE_CHECKING, Final, NamedTuple, NoReturn, Self, cast

from mountcr.compression import (
    MAGIC,
    Compression,
    DamagedStreamError,
    compression_of,
    decompressed,
)
from mountcr.errors import RefusedError
from mountcr.model import InodeType
from mountcr.paths import KPath, decode, encode
from mountcr.rootfs.copying import Copier
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.tree import MOST, Content, join, shown
from mountcr.tarmembers import members

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mountcr.rootfs.tree import Tree

__all__ = ["Findings", "Limits", "TarTree"]

_SAME: Final = "surrogateescape"

_XATTR: Final = "SCHILY.xattr."
"""What GNU tar, star and Go put before the name of an extended attribute in a PAX header."""

_STRIPPED: Final = ("user.overlay.", "user.fuseoverlayfs.", "user.containers.override_")
"""Marks of union file systems, which would mean something to the next one."""

_CAPABILITY: Final = KPath("security.capability")

_KEPT: Final = frozenset({_CAPABILITY, "system.posix_acl_access", "system.posix_acl_default"})

_INODE: Final = 64
"""Bytes that a directory counts for beside its name."""

_NAMED: Final = 100
"""How many names of extended attributes that are left out are counted by themselves."""

_TYPES: Final = {
    tarfile.REGTYPE: InodeType.FILE,
    tarfile.AREGTYPE: InodeType.FILE,
    tarfile.CONTTYPE: InodeType.FILE,
    tarfile.GNUTYPE_SPARSE: InodeType.FILE,
    tarfile.DIRTYPE: InodeType.DIRECTORY,
    tarfile.SYMTYPE: InodeType.SYMLINK,
    tarfile.FIFOTYPE: InodeType.FIFO,
    tarfile.CHRTYPE: InodeType.CHARACTER,
    tarfile.BLKTYPE: InodeType.BLOCK,
}

_NO_XATTRS: Final[dict[KPath, bytes]] = {}
"""What most members have: one for all, since there may be millions."""

_IMPLIED: Final = Inode(type=InodeType.DIRECTORY, mode=0o755)
"""A directory that has members and is none, where nothing below tells more of it."""


class Limits(NamedTuple):
    """
    What an archive may have at most.

    `members` is the number of names and `implied` the bytes that those of directories take which
    are no members; `ratio` is that of the size to the compressed one; `header` are bytes that
    describe one member, with the extents of a sparse file.
    """

    members: int = 2_000_000
    size: int = 1 << 40
    ratio: int = 2000
    implied: int = 1 << 26
    header: int = 1 << 22
    path: int = 4095
    xattr: int = 1 << 16


class Findings(NamedTuple):
    """
    What is worth knowing of an archive: extended attributes that were `stripped`, by name how
    often; and what lets a file do more than who runs it, `setuid`, `setgid` or
    `security.capability`, with the paths that have it.
    """

    stripped: dict[str, int]
    privileged: dict[str, list[KPath]]


class TarTree:
    """
    The tree in a tar.

    `below` is what lies below the layer: a hard link to a path that is not in the archive means a
    file there, which then is in this tree by both names, and a directory that is only implied is as
    it is there. `found` is what is worth knowing of it. Devices are refused but for those that
    every container has. `close()` gives the file back; a `with` block does too.
    """

    def __init__(
        self,
        path: KPath,
        below: Tree | None = None,
        *,
        limits: Limits = Limits(),  # noqa: B008 - it cannot be changed
    ) -> None:
        self.path = path
        self.found = Findings({}, {})
        self._below = below
        self._limits = limits
        self._inodes: dict[bytes, Inode] = {}
        self._names: dict[bytes, dict[bytes, InodeType]] = {b"": {}}
        # where the content of a file begins, by its number, and where a sparse one has its extents
        self._offsets: dict[int, int] = {}
        self._sparse: dict[int, tuple[tuple[int, int], ...]] = {}
        self._targets: dict[int, bytes] = {}
        self._links: dict[bytes, bytes] = {}
        self._number = 0
        self._size = 0
        self._implying = 0
        self._file = self._opened()
        try:
            self._device = os.fstat(self._file.fileno()).st_dev
            self._read()
            self._connect()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def entries(self, path: bytes) -> Mapping[bytes, InodeType]:
        """Give the names in a directory and what each is, sorted by name."""
        if path not in self._names:
            number = errno.ENOTDIR if path in self._inodes else errno.ENOENT
            raise OSError(number, os.strerror(number), shown(path))
        return dict(sorted(self._names[path].items()))

    def inode(self, path: bytes) -> Inode | None:
        """Give the inode of a path; None if nothing is there."""
        return self._inodes.get(path)

    def content(self, path: bytes) -> Content:
        """Open a regular file. The caller owns the descriptor."""
        inode = self._inodes[path]
        number = inode.identity[1]
        if number in self._targets and self._below is not None:
            return self._below.content(self._targets[number])
        offset, sparse = self._offsets[number], self._sparse.get(number)
        if sparse is None:
            return Content(os.dup(self._file.fileno()), offset, inode.size)
        return Content(self._expanded(offset, sparse, inode.size), 0, inode.size)

    def _count(self) -> None:
        """See that there are not too many names."""
        if len(self._inodes) + len(self._links) > self._limits.members:
            self._refuse(f"it has more than {self._limits.members} members", "members")

    # --- The archive ------------------------------------------------------------------------------

    def _opened(self) -> IO[bytes]:
        """Open the archive, decompressed."""
        file = open(decode(self.path), "rb")  # noqa: SIM115 - close() does
        try:
            compression = compression_of(file.read(MAGIC))
            file.seek(0)
            if compression is Compression.NONE:
                return file
            return self._unpacked(file, decompressed(file, compression))
        except BaseException:
            file.close()
            raise

    def _unpacked(self, packed: IO[bytes], chunks: Iterator[bytes]) -> IO[bytes]:
        most = min(self._limits.size, os.fstat(packed.fileno()).st_size * self._limits.ratio)
        whole = self._temporary()
        size = 0
        try:
            for chunk in chunks:
                size += len(chunk)
                if size > most:
                    self._refuse(f"it unpacks to more than {most} bytes", "ratio")
                whole.write(chunk)
            whole.flush()
            whole.seek(0)
        except DamagedStreamError as error:
            whole.close()
            self._refuse(f"it is damaged: {error.message}", "compressed stream")
        except BaseException:
            whole.close()
            raise
        packed.close()
        return whole

    def _temporary(self) -> IO[bytes]:
        """Give a file without a name, where the archive lies if one may write there."""
        directory = os.path.dirname(decode(self.path)) or b"."
        return tempfile.TemporaryFile(dir=directory if os.access(directory, os.W_OK) else None)

    def _read(self) -> None:
        """Take every member, and see that the archive ends where it says so."""
        for member in members(self._file, self._limits.header, self._refuse, closed=False):
            self._take(member)
            self._count()

    def _take(self, member: tarfile.TarInfo) -> None:
        name = member.pax_headers.get("GNU.sparse.name", member.name)
        path = self._path(name.encode("utf-8", _SAME), "the name")
        if not path and not member.isdir():
            self._refuse("its root is no directory", "types of members")
        if path in self._inodes or path in self._links:
            self._refuse(f"{shown(path)} is there twice", "duplicate members")
        if member.type == tarfile.LNKTYPE:
            self._links[path] = self._path(member.linkname.encode("utf-8", _SAME), "the target")
            return
        self._number = number = self._number + 1
        inode = self._inode(path, member, number)
        self._inodes[path] = inode
        if inode.is_file:
            for each in _privileges(inode):
                self.found.privileged.setdefault(each, []).append(shown(path))
            self._size += inode.size
            if self._size > self._limits.size:
                self._refuse(f"its files have more than {self._limits.size} bytes", "size")
            self._offsets[number] = member.offset_data
            sparse = cast("list[tuple[int, int]] | None", member.sparse)
            if sparse is not None:
                self._sparse[number] = self._extents(path, member, sparse)

    def _extents(
        self, path: bytes, member: tarfile.TarInfo, sparse: list[tuple[int, int]]
    ) -> tuple[tuple[int, int], ...]:
        """Give the extents of a sparse member."""
        extents = tuple((start, length) for start, length in sparse if length)  # (0, 0) is unused
        end = 0
        for start, length in extents:
            if length < 0 or start < end:
                self._refuse(f"{shown(path)} has extents in no order", "sparse files")
            end = start + length
        if end > member.size:
            self._refuse(f"{shown(path)} has extents beyond its end", "sparse files")
        return extents

    def _inode(self, path: bytes, member: tarfile.TarInfo, number: int) -> Inode:
        kind = _TYPES.get(member.type)
        if kind is None:
            self._refuse(
                f"{shown(path)} is of a type that no layer has, {member.type!r}", "types of members"
            )
        rdev = "0:0"
        if kind in {InodeType.CHARACTER, InodeType.BLOCK}:
            rdev = f"{member.devmajor}:{member.devminor}"
        target = None
        if kind is InodeType.SYMLINK:
            text = member.linkname.encode("utf-8", _SAME)
            if not text or b"\0" in text or len(text) > self._limits.path:
                self._refuse(f"{shown(path)} is a symbolic link to no path", "symbolic links")
            target = encode(text)
        for owner in (member.uid, member.gid):
            if not 0 <= owner < (1 << 32) - 1:
                self._refuse(f"{shown(path)} has the owner {owner}", "owners")
        mtime = self._time(path, member, "mtime", int(member.mtime) * 10**9)
        inode = Inode(
            type=kind,
            mode=member.mode & 0o7777,
            uid=member.uid,
            gid=member.gid,
            mtime=mtime,
            atime=self._time(path, member, "atime", mtime),
            size=member.size if kind is InodeType.FILE else 0,
            rdev=rdev,
            target=target,
            xattrs=self._xattrs(path, member.pax_headers),
            identity=(self._device, number),
        )
        if inode.is_own_device:
            self._refuse(f"{shown(path)} is the {kind} device {rdev}", "devices")
        return inode

    def _path(self, name: bytes, what: str) -> bytes:
        """Give a path beneath the root."""
        parts = name.split(b"/")
        if name.startswith(b"/") or b".." in parts or b"\0" in name or not name:
            self._refuse(
                f"{what} {encode(name) or 'of nothing'} leaves the root, or is none",
                "names of members",
            )
        path = b"/".join(part for part in parts if part not in {b"", b"."})
        longest = max(map(len, parts))
        if len(path) > self._limits.path or longest > MOST:
            what = f"{what} {encode(path[:64])}… has {max(len(path), longest)} bytes"
            self._refuse(what, "names of members")
        return path

    def _time(self, path: bytes, member: tarfile.TarInfo, key: str, otherwise: int) -> int:
        text = member.pax_headers.get(key)
        if text is None:
            return otherwise
        try:
            time = int(Decimal(text).scaleb(9).to_integral_value("ROUND_FLOOR"))
        except (DecimalException, ValueError, OverflowError):
            time = 1 << 63
        if not -(1 << 63) <= time < 1 << 63:
            self._refuse(f"{shown(path)} has the {key} {text!a}", "times")
        return time

    def _xattrs(self, path: bytes, headers: Mapping[str, str]) -> dict[KPath, bytes]:
        found: dict[KPath, bytes] = {}
        for key, value in headers.items():
            if not key.startswith(_XATTR):
                continue
            # GNU tar, src/xheader.c `xattr_decode_keyword()`
            name = key[len(_XATTR) :].replace("%3D", "=").replace("%25", "%")
            data = value.encode("utf-8", _SAME)
            if len(data) > self._limits.xattr or len(name) > 255:  # noqa: PLR2004 - XATTR_NAME_MAX
                self._refuse(
                    f"{shown(path)} has an extended attribute of {len(data)} bytes",
                    "extended attributes",
                )
            if (name.startswith("user.") and not name.startswith(_STRIPPED)) or name in _KEPT:
                found[encode(name)] = data
            else:
                stripped = self.found.stripped
                name = name if name in stripped or len(stripped) < _NAMED else "others"
                stripped[name] = stripped.get(name, 0) + 1
        return found or _NO_XATTRS

    # --- The tree ---------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Resolve hard links, make what is implied, and list every directory."""
        for path in tuple(self._links):
            self._resolve(path)
        self._count_links()
        if b"" not in self._inodes:
            self._inodes[b""] = self._implied(b"")
        for path in tuple(self._inodes):
            self._place(path)

    def _resolve(self, path: bytes) -> None:
        seen = {path: None}  # in their order
        target = self._links[path]
        while target in self._links:
            if target in seen:
                self._refuse(f"{shown(path)} is a hard link to itself", "hard links")
            seen[target] = None
            target = self._links[target]
        inode = self._inodes.get(target) or self._from_below(path, target)
        if inode.is_directory:
            self._refuse(
                f"{shown(path)} is a hard link to the directory {shown(target)}", "hard links"
            )
        for each in seen:
            self._inodes[each] = inode
            self._links[each] = target

    def _from_below(self, path: bytes, target: bytes) -> Inode:
        """Take a file of the layers below into this one, as overlayfs does when it gets a link."""
        inode = self._below.inode(target) if self._below else None
        if inode is None:
            what = f"{shown(path)} is a hard link to {shown(target)}, which is not there"
            msg = f"{self.path}: {what} (rule: hard links)"
            raise RefusedError(msg, hint="name the layers below, which may have it")
        self._number = number = self._number + 1
        self._targets[number] = target
        parent, _, name = target.rpartition(b"/")
        made = _with(inode, identity=(self._device, number))
        if join(parent, b".wh." + name) not in self._inodes:
            self._inodes[target] = made
        return made

    def _count_links(self) -> None:
        names: dict[int, set[bytes]] = {}
        for path, target in self._links.items():
            inode = self._inodes[path]
            same = names.setdefault(inode.identity[1], set())
            same.add(path)
            if self._inodes.get(target) is inode:  # a whiteout may have taken that name away
                same.add(target)
        for same in names.values():
            for path in same:
                self._inodes[path] = _with(self._inodes[path], nlink=len(same))

    def _implied(self, path: bytes) -> Inode:
        below = self._below.inode(path) if self._below else None
        return below if below is not None and below.is_directory else _IMPLIED

    def _place(self, path: bytes) -> None:
        """List a path in its directory, and that in its own."""
        inode = self._inodes[path]
        if inode.is_directory:
            self._names.setdefault(path, {})
        while path:
            parent, _, name = path.rpartition(b"/")
            above = self._inodes.get(parent)
            if above is None:
                above = self._inodes[parent] = self._implied(parent)
                self._implying += len(parent) + _INODE
                if self._implying > self._limits.implied:
                    what = f"{shown(path)} lies in one directory too many that is no member"
                    self._refuse(what, "members")
            if not above.is_directory:
                self._refuse(
                    f"{shown(path)} lies below {shown(parent)}, which is no directory",
                    "types of members",
                )
            names = self._names.setdefault(parent, {})
            if name in names:
                return
            names[name] = self._inodes[path].type
            path = parent

    def _expanded(self, offset: int, sparse: tuple[tuple[int, int], ...], size: int) -> int:
        """Put a sparse member into a file of its own, with its holes."""
        with self._temporary() as file:
            copier = Copier()
            for start, length in sparse:
                content = Content(self._file.fileno(), offset, length)
                copier.copy_to(content, file.fileno(), start)
                offset += length
            os.ftruncate(file.fileno(), size)
            return os.dup(file.fileno())

    def _refuse(self, what: str, rule: str) -> NoReturn:
        msg = f"{self.path}: {what} (rule: {rule})"
        raise RefusedError(msg, hint="make the archive anew; nothing was unpacked")


def _privileges(inode: Inode) -> Iterator[str]:
    if inode.mode & stat.S_ISUID:
        yield "setuid"
    if inode.mode & stat.S_ISGID and inode.mode & stat.S_IXGRP:
        yield "setgid"
    if _CAPABILITY in inode.xattrs:
        yield _CAPABILITY


def _with(inode: Inode, **fields: object) -> Inode:
    import msgspec

    return msgspec.structs.replace(inode, **fields)
