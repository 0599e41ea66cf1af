# SPDX-License-Identifier: Apache-2.0
"""
What a tar was written of, so that it can be written again: its own bytes, and where contents are.

Looking for what is in a layer takes longer than reading it, and who writes a tar whose digest comes
before it writes it twice. What is kept lies in a temporary file without a name, so it takes no
memory; contents are not in it.
"""

from __future__ import annotations

import errno
import os
import tempfile
from typing import TYPE_CHECKING, Final, Self

import msgspec

from mountcr.rootfs.copying import Extent
from mountcr.rootfs.tree import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.compression import Output
    from mountcr.rootfs.batches import Progress
    from mountcr.rootfs.tree import Content, Tree

__all__ = ["Pieces", "copy_extents", "state"]

_CHUNK: Final = 1 << 20
_LENGTH: Final = 8
"""Bytes of the number that says how long a record is."""


class _Kept(msgspec.Struct, array_like=True):
    """Bytes of the tar, and what follows them: nothing, or the content of a file."""

    data: bytes
    tree: int = -1
    path: bytes = b""
    extents: list[tuple[int, int]] = []
    was: tuple[int, int, int] = (0, 0, 0)


class Pieces:
    """
    The pieces of one tar, for a `with` block; the trees stay the caller's, and open.

    Bytes and contents are told in their order, `replay` writes them again.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # __exit__ closes it
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(_Kept)
        self._trees: list[Tree] = []
        self._numbers: dict[int, int] = {}
        self._data: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def data(self, data: bytes) -> None:
        """Take bytes of the tar itself."""
        self._data.append(data)

    def content(self, source: tuple[Tree, bytes], fd: int, extents: Sequence[Extent]) -> None:
        """Take what a file holds, open as `fd`, which comes behind the bytes so far."""
        tree, path = source
        number = self._numbers.get(id(tree))
        if number is None:
            number = self._numbers[id(tree)] = len(self._trees)
            self._trees.append(tree)
        self._keep(_Kept(self._taken(), number, path, list(extents), state(fd)))

    def _taken(self) -> bytes:
        data = b"".join(self._data)
        self._data.clear()
        return data

    def _keep(self, kept: _Kept) -> None:
        record = self._encoder.encode(kept)
        self._file.write(len(record).to_bytes(_LENGTH))
        self._file.write(record)

    def replay(self, file: Output, progress: Progress | None = None) -> None:
        """
        Write the tar once more.

        Raises OSError naming the path: as opening and reading does, and EIO for a file that was
        written into since.
        """
        if self._data:
            self._keep(_Kept(self._taken()))
        self._file.seek(0)
        while length := self._file.read(_LENGTH):
            kept = self._decoder.decode(self._file.read(int.from_bytes(length)))
            file.write(kept.data)
            if kept.tree < 0:
                continue
            try:
                self._content(kept, file, progress)
            except OSError as error:
                text = error.strerror or str(error)
                raise OSError(error.errno, text, shown(kept.path)) from error
        self._file.seek(0, os.SEEK_END)

    def _content(self, kept: _Kept, file: Output, progress: Progress | None) -> None:
        content = self._trees[kept.tree].content(kept.path)
        try:
            if state(content.fd) != kept.was:
                raise OSError(errno.EIO, "the file was written into while it was read")
            copy_extents(content, [Extent(*each) for each in kept.extents], file, progress)
        finally:
            os.close(content.fd)
        if progress is not None:
            progress.add(1, 0)


def state(fd: int) -> tuple[int, int, int]:
    """Give what is another one when somebody has written into a file: size and times."""
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def copy_extents(
    content: Content, extents: Sequence[Extent], file: Output, progress: Progress | None
) -> None:
    """Write what is not a hole of an open file. Raises OSError, EIO where it became shorter."""
    for extent in extents:
        position, left = content.offset + extent.offset, extent.size
        while left:
            data = os.pread(content.fd, min(left, _CHUNK), position)
            if not data:
                raise OSError(errno.EIO, "the file became shorter while it was read")
            file.write(data)
            position += len(data)
            left -= len(data)
            if progress is not None:
                progress.add(0, len(data))
