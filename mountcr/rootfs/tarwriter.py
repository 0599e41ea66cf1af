# SPDX-License-Identifier: Apache-2.0
"""
Layer tars, written: PAX archives that are the same bytes for the same entries.

Owners are numbers without names, times are those of modification, to the nanosecond where there is
more than seconds; the time of access is not stored. Headers are pax(1) over ustar; extended
attributes are `SCHILY.xattr.*` and sparse files GNU sparse 1.0, as GNU tar, star, bsdtar and Go's
archive/tar have them. Names are the bytes they are, UTF-8 or not, as in GNU tar.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.model import InodeType
from mountcr.paths import decode
from mountcr.rootfs.copying import Extent, data_extents
from mountcr.rootfs.dialects.oci import Oci
from mountcr.rootfs.tarpieces import copy_extents
from mountcr.rootfs.tree import Content, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mountcr.compression import Output
    from mountcr.paths import KPath
    from mountcr.rootfs.batches import Progress
    from mountcr.rootfs.dialect import Entry, Raw
    from mountcr.rootfs.inode import Inode
    from mountcr.rootfs.tarpieces import Recording
    from mountcr.rootfs.tree import Tree

__all__ = ["Archived", "record_tar", "write_tar"]

_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK

_FLAGS: Final = {
    InodeType.FILE: b"0",
    InodeType.SYMLINK: b"2",
    InodeType.CHARACTER: b"3",
    InodeType.BLOCK: b"4",
    InodeType.DIRECTORY: b"5",
    InodeType.FIFO: b"6",
}
_HARD_LINK: Final = b"1"
_EXTENDED: Final = b"x"

_TEXT: Final = 100
"""Bytes of a name in a header."""

_NO_CHECKSUM: Final = b" " * 8

_NO_NAMES: Final = b"ustar\x0000" + bytes(64) + b"0000000\x00" * 2 + bytes(167)
"""The end of a header: no names of the owner and the group, and no device."""

_PAX: Final = (
    b"%b0000644\x000000000\x000000000\x00%011o\x0000000000000\x00"
    + _NO_CHECKSUM
    + _EXTENDED
    + bytes(_TEXT)
    + _NO_NAMES[:72]
    + bytes(183)
)
"""The header of an extended header, but for its name and its size."""

_COMMON: Final = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0"
_COMMON_END: Final = bytes(_TEXT) + _NO_NAMES
_COMMON_SUM: Final = sum(_NO_CHECKSUM) + sum(_COMMON_END)
"""What most headers begin and end with, and what does not change in their checksum."""

_SECOND: Final = 10**9


class Archived(NamedTuple):
    """What was written, and the sockets that were left out, as a tar cannot hold them."""

    files: int
    size: int
    left_out: tuple[KPath, ...]


def write_tar(
    entries: Iterable[Entry],
    file: Output,
    *,
    progress: Progress | None = None,
) -> Archived:
    """
    Write entries as an OCI layer, in the order in which they come.

    The file stays the caller's, and is not closed. Raises OSError naming the path, RefusedError as
    the dialect `oci` does. What was written until then is no archive.
    """
    return _Tar(_Copying(file, progress), progress).write(entries)


def record_tar(entries: Iterable[Entry], recording: Recording) -> Archived:
    """Tell what `write_tar` would write; contents are looked at, and not read."""
    return _Tar(recording, None).write(entries)


class _Copying:
    """Writes the pieces of a tar into a file."""

    def __init__(self, file: Output, progress: Progress | None) -> None:
        self._file = file
        self._progress = progress

    def data(self, data: bytes) -> None:
        self._file.write(data)

    def content(
        self, _source: tuple[Tree, bytes], content: Content, extents: Sequence[Extent]
    ) -> None:
        copy_extents(content, extents, self._file, self._progress)


class _Tar:
    """One archive, told piece by piece."""

    def __init__(self, pieces: _Copying | Recording, progress: Progress | None) -> None:
        self._pieces = pieces
        self._progress = progress
        self._at = 0
        self._size = 0
        self._files = 0

    def write(self, entries: Iterable[Entry]) -> Archived:
        left_out: list[KPath] = []
        dialect = Oci()
        for entry in entries:
            if entry.inode is not None and entry.inode.type is InodeType.SOCKET:
                left_out.append(shown(entry.path))
                continue
            for raw in dialect.encode(entry):
                try:
                    self._add(entry, raw)
                except OSError as error:
                    text = error.strerror or str(error)
                    raise OSError(error.errno, text, shown(raw.path)) from error
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._at % _RECORD))
        return Archived(self._files, self._size, tuple(left_out))

    def _add(self, entry: Entry, raw: Raw) -> None:
        if raw.link is not None:
            self._header(raw.path, raw.inode, _HARD_LINK, target=raw.link)
        elif raw.content and entry.source is not None and raw.inode.size:
            tree, path = entry.source
            content = tree.content(path)
            try:
                if content.size != raw.inode.size:
                    raise OSError(errno.EIO, "the file changed its size while it was read")
                self._content(raw, content, entry.source)
            finally:
                os.close(content.fd)
        else:
            target = decode(raw.inode.target) if raw.inode.target is not None else b""
            self._header(raw.path, raw.inode, _FLAGS[raw.inode.type], target=target)
        if not raw.inode.is_directory:
            self._files += 1
            if self._progress is not None:
                self._progress.add(1, 0)

    def _content(self, raw: Raw, content: Content, source: tuple[Tree, bytes]) -> None:
        """Write a file with its content, without its holes."""
        extents: tuple[Extent, ...] = (Extent(0, content.size),)
        found = os.fstat(content.fd)
        if content.offset == 0 and found.st_blocks * _BLOCK < content.size:
            extents = tuple(data_extents(content))
        if extents == (Extent(0, content.size),):
            self._header(raw.path, raw.inode, _FLAGS[InodeType.FILE], size=content.size)
        else:
            self._sparse_header(raw, extents)
        self._pieces.content(source, content, extents)
        self._at += sum(extent.size for extent in extents)
        self._write(bytes(-self._at % _BLOCK))
        holes = content.size - sum(extent.size for extent in extents)
        self._size += content.size
        if self._progress is not None:
            self._progress.add(0, holes)

    def _sparse_header(self, raw: Raw, extents: tuple[Extent, ...]) -> None:
        """Begin a sparse file, GNU sparse 1.0: its map comes before the data."""
        listed = extents
        if not listed or listed[-1].offset + listed[-1].size < raw.inode.size:
            listed = (*listed, Extent(raw.inode.size, 0))
        numbers = [len(listed), *(number for extent in listed for number in extent)]
        table = b"".join(b"%d\n" % number for number in numbers)
        table += bytes(-len(table) % _BLOCK)
        directory, _, name = raw.path.rpartition(b"/")
        more = {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": raw.path,
            b"GNU.sparse.realsize": b"%d" % raw.inode.size,
        }
        path = b"%sGNUSparseFile.0/%s" % (directory + b"/" if directory else b"", name)
        size = len(table) + sum(extent.size for extent in extents)
        self._header(path, raw.inode, _FLAGS[InodeType.FILE], size=size, more=more)
        self._write(table)

    def _header(
        self,
        path: bytes,
        inode: Inode,
        flag: bytes,
        *,
        target: bytes = b"",
        size: int = 0,
        more: dict[bytes, bytes] | None = None,
    ) -> None:
        """Write the header of a member, and before it one with what does not fit into it."""
        name = path + b"/" if inode.is_directory and path else path or b"./"
        if not target and more is None and _is_common(name, inode, size):
            self._write(_common(name, inode, flag, size))
            return
        fields = _Fields(dict(more or {}))
        sparse = more is not None
        whole = b"".join(
            (
                fields.text(b"" if sparse else b"path", name),
                fields.number(b"", inode.mode, 8),
                fields.number(b"uid", inode.uid, 8),
                fields.number(b"gid", inode.gid, 8),
                fields.number(b"size", size, 12),
                fields.time(inode.mtime),
                _NO_CHECKSUM,
                flag,
                fields.text(b"linkpath", target),
                _NO_NAMES if inode.rdev == "0:0" else _device(fields, inode.rdev),
            )
        )
        if flag != _HARD_LINK and inode.xattrs:
            fields.xattrs(inode)
        if fields.extended:
            data = b"".join(_record(*record) for record in sorted(fields.extended.items()))
            self._write(_extended(name, data) + data + bytes(-len(data) % _BLOCK) + _summed(whole))
        else:
            self._write(_summed(whole))

    def _write(self, data: bytes) -> None:
        if data:
            self._pieces.data(data)
            self._at += len(data)


def _is_common(name: bytes, inode: Inode, size: int) -> bool:
    """Tell whether every field fits into a header, but for parts of a second."""
    return (
        len(name) <= _TEXT
        and name.isascii()
        and not inode.xattrs
        and inode.rdev == "0:0"
        and inode.uid | inode.gid < 8**7
        and size < 8**11
        and 0 <= inode.mtime < 8**11 * _SECOND
    )


def _common(name: bytes, inode: Inode, flag: bytes, size: int) -> bytes:
    """Give what most members have, made at once: that takes a third of the time."""
    seconds, rest = divmod(inode.mtime, _SECOND)
    start = _COMMON % (name.ljust(_TEXT, b"\0"), inode.mode, inode.uid, inode.gid, size, seconds)
    header = b"%b%06o\0 %b%b" % (start, sum(start) + ord(flag) + _COMMON_SUM, flag, _COMMON_END)
    if not rest:
        return header
    data = _record(b"mtime", (b"%d.%09d" % (seconds, rest)).rstrip(b"0"))
    return _extended(name, data) + data.ljust(_BLOCK, b"\0") + header


def _extended(name: bytes, data: bytes) -> bytes:
    """Give the header of an extended header."""
    short = (b"PaxHeaders/" + name.rstrip(b"/")[-80:]).ljust(100, b"\0")
    return _summed(_PAX % (short, len(data)))


def _summed(header: bytes) -> bytes:
    """Give a whole header with its checksum, which is that of itself with spaces in its place."""
    checksum = sum(header)
    return b"%b%06o\0 %b" % (header[:148], checksum, header[156:])


def _device(fields: _Fields, rdev: str) -> bytes:
    numbers = b"".join(fields.number(b"", int(number), 8) for number in rdev.split(":"))
    return _NO_NAMES[:72] + numbers + bytes(167)


def _record(key: bytes, value: bytes) -> bytes:
    """Spell a record of an extended header; its length counts the digits of itself."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d%s" % (length, rest)


class _Fields:
    """Fields of a ustar header, and what did not fit in them, for an extended one."""

    def __init__(self, extended: dict[bytes, bytes]) -> None:
        self.extended = extended

    def text(self, key: bytes, value: bytes) -> bytes:
        if key and (len(value) > _TEXT or not value.isascii()):
            self.extended[key] = value
        return value[:_TEXT].ljust(_TEXT, b"\0")

    def number(self, key: bytes, value: int, width: int) -> bytes:
        digits = b"%0*o\0" % (width - 1, value)
        if len(digits) <= width:
            return digits
        if not key:
            raise OSError(errno.EOVERFLOW, f"a tar has no room for the number {value}")
        self.extended[key] = b"%d" % value
        return b"%0*o\0" % (width - 1, 0)

    def time(self, nanoseconds: int) -> bytes:
        seconds, rest = divmod(nanoseconds, _SECOND)
        if not rest and 0 <= seconds < 8**11:
            return self.number(b"mtime", seconds, 12)
        sign, whole = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
        text = f"{sign}{whole // _SECOND}.{whole % _SECOND:09d}".rstrip("0").rstrip(".")
        self.extended[b"mtime"] = text.encode()
        return self.number(b"mtime", min(max(seconds, 0), 8**11 - 1), 12)

    def xattrs(self, inode: Inode) -> None:
        """Add extended attributes; `%` and `=` in names as GNU tar has them, src/xheader.c."""
        for name, value in inode.xattrs.items():
            key = decode(name).replace(b"%", b"%25").replace(b"=", b"%3D")
            self.extended[b"SCHILY.xattr." + key] = value
