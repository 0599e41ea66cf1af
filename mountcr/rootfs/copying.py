# SPDX-License-Identifier: Apache-2.0
"""
Copies of the content of regular files: shared extents where the file system can, holes as holes.

Extents are shared by FICLONE (ioctl_ficlone(2)), which takes two files of one superblock; before
Linux 5.18 they had to be reached through one mount too, EXDEV otherwise. Next comes
copy_file_range(2), then reading and writing. Files are never mapped into memory: one that is
truncated meanwhile would end the process with SIGBUS instead of an error.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from mountcr.rootfs.tree import Content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Copier", "Extent", "clone", "data_extents", "digest"]

_FICLONE: Final = 0x40049409
"""include/uapi/linux/fs.h; MIPS, PowerPC and SPARC number ioctls otherwise and answer ENOTTY."""

_BUFFER: Final = 256 << 10
"""Bytes that are read at once: what the caches next to a processor hold."""

_RANGE: Final = 64 << 20
"""Bytes of one copy_file_range(2), so that progress is seen and a signal comes through."""

_NEVER: Final = frozenset({errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS})
"""These two file systems cannot share extents or copy ranges at all."""

_NOT_THIS: Final = frozenset({*_NEVER, errno.EINVAL, errno.EPERM, errno.ETXTBSY})
"""Not with this file: another one may do, as one without the flag for no copy-on-write."""

_ZEROS: Final = bytes(_BUFFER)


class Extent(NamedTuple):
    """Bytes of a file that are not a hole: `size` of them from `offset` of the content."""

    offset: int
    size: int


class _Digest(Protocol):
    """The part of hashlib's objects that is used here, which have no public type."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


def _nothing(count: int) -> None:
    """Take notice of no progress."""


def data_extents(content: Content) -> Iterator[Extent]:
    """
    Give what is not a hole, in order (SEEK_DATA and SEEK_HOLE of lseek(2)).

    One extent for all of it where the file system does not tell. Moves the position of the
    descriptor. Raises OSError.
    """
    start, end = content.offset, content.offset + content.size
    while start < end:
        try:
            data = os.lseek(content.fd, start, os.SEEK_DATA)
            hole = os.lseek(content.fd, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on, or truncated
                return
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise
            data, hole = start, end
        if data >= end:
            return
        yield Extent(data - content.offset, min(hole, end) - data)
        start = hole


def clone(source: int, into: int) -> None:
    """Have an open file share all extents of another one. Raises OSError, ioctl_ficlone(2)."""
    fcntl.ioctl(into, _FICLONE, source)


def digest(content: Content) -> bytes:
    """Give the SHA-256 of a content. Raises OSError, with EIO where the file is shorter."""
    return Copier().read(content)


class Copier:
    """
    Copies contents into other files, and remembers between which devices extents are not shared.

    For one thread: it has one buffer. `progress` hears of bytes as they are done, holes included.
    """

    def __init__(self, *, progress: Callable[[int], None] = _nothing) -> None:
        self._progress = progress
        self._memory = memoryview(bytearray(_BUFFER))
        self._apart: set[int] = set()
        self._unranged: set[int] = set()

    def copy(self, content: Content, into: int, *, digests: bool = False) -> bytes | None:
        """
        Copy a content into an empty file that is open for writing, from its beginning.

        Gives the SHA-256 of the content if asked. Both descriptors stay the caller's. Raises
        OSError: what the kernel says, EIO where the source is shorter than it was. What was
        written until then stays.
        """
        if not content.size:
            return hashlib.sha256().digest() if digests else None
        found = os.fstat(content.fd)
        if content.offset == 0 and content.size == found.st_size:
            if self._clone(content.fd, into, found.st_dev):
                return self._cloned(content, into, digests=digests)
            if found.st_blocks * 512 < content.size:
                return self._sparse(content, into, found.st_dev, digests=digests)
        if digests:
            return self._through(content, into)
        self._range(content, into, Extent(0, content.size), found.st_dev)
        return None

    def copy_to(self, content: Content, into: int, offset: int) -> None:
        """Copy a content into another file at an offset. Raises OSError as `copy`."""
        part = Content(content.fd, content.offset - offset, content.size)
        self._range(part, into, Extent(offset, content.size), os.fstat(content.fd).st_dev)

    def read(self, content: Content) -> bytes:
        """Give the SHA-256 of a content. Raises OSError, with EIO where the file is shorter."""
        made = hashlib.sha256()
        self._feed(content, Extent(0, content.size), made)
        return made.digest()

    def _clone(self, source: int, into: int, device: int) -> bool:
        if device in self._apart:
            return False
        try:
            clone(source, into)
        except OSError as error:
            if error.errno in _NEVER:
                self._apart.add(device)
            if error.errno in _NOT_THIS:
                return False
            raise
        return True

    def _cloned(self, content: Content, into: int, *, digests: bool) -> bytes | None:
        if digests:
            return self.read(content)
        if os.fstat(into).st_size != content.size:
            raise _changed()
        self._progress(content.size)
        return None

    def _through(self, content: Content, into: int) -> bytes:
        """Read, hash and write."""
        made = hashlib.sha256()
        self._feed(content, Extent(0, content.size), made, into)
        return made.digest()

    def _sparse(self, content: Content, into: int, device: int, *, digests: bool) -> bytes | None:
        """Copy what is not a hole; the length makes the last hole."""
        made = hashlib.sha256() if digests else None
        done = 0
        for extent in data_extents(content):
            self._skip(extent.offset - done, made)
            if made is not None:
                self._feed(content, extent, made, into)
            else:
                self._range(content, into, extent, device)
            done = extent.offset + extent.size
        if os.fstat(content.fd).st_size < content.size:
            raise _changed()
        self._skip(content.size - done, made)
        os.ftruncate(into, content.size)
        return made.digest() if made is not None else None

    def _skip(self, size: int, made: _Digest | None) -> None:
        """Hash the zeros of a hole, and count them."""
        while made is not None and size > _BUFFER:
            made.update(_ZEROS)
            self._progress(_BUFFER)
            size -= _BUFFER
        if made is not None:
            made.update(memoryview(_ZEROS)[:size])
        self._progress(size)

    def _feed(self, content: Content, extent: Extent, made: _Digest | None, into: int = -1) -> None:
        """Read an extent piece by piece, into a digest, another file, or both."""
        position, left = extent
        while left:
            piece = self._memory[: min(left, _BUFFER)]
            count = os.preadv(content.fd, [piece], content.offset + position)
            if not count:
                raise _changed()
            piece = piece[:count]
            if made is not None:
                made.update(piece)
            if into >= 0:
                _write(into, piece, position)
            self._progress(count)
            position += count
            left -= count

    def _range(self, content: Content, into: int, extent: Extent, device: int) -> None:
        """Let the kernel copy an extent; read and write what it does not want to."""
        position, left = extent
        while left and device not in self._unranged:
            start = content.offset + position
            try:
                count = os.copy_file_range(content.fd, into, min(left, _RANGE), start, position)
            except OSError as error:
                if error.errno not in _NOT_THIS:
                    raise
                self._unranged.add(device)
                break
            if not count:  # the end, or a file whose size the kernel does not know, as in /proc
                break
            self._progress(count)
            position += count
            left -= count
        self._feed(content, Extent(position, left), None, into)


def _write(into: int, piece: memoryview, position: int) -> None:
    while piece:
        count = os.pwrite(into, piece, position)
        piece = piece[count:]
        position += count


def _changed() -> OSError:
    return OSError(errno.EIO, "the file became shorter while it was read")
