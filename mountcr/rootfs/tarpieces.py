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
from typing import IO, TYPE_CHECKING, Final, Self, TypeVar

import msgspec

from mountcr.rootfs.batches import Batches
from mountcr.rootfs.copying import Extent
from mountcr.rootfs.tree import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mountcr.compression import Output
    from mountcr.rootfs.batches import Count, Progress
    from mountcr.rootfs.tree import Content, Tree

__all__ = ["Pieces", "Recording", "copy_extents", "state"]

T = TypeVar("T")

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


class Recording:
    """Takes the pieces of one tar in their order; `trees` are all that contents may be in."""

    def __init__(self, trees: Sequence[Tree], file: IO[bytes]) -> None:
        self._trees = tuple(trees)
        self._file = file
        self._encoder = msgspec.msgpack.Encoder()
        self._numbers = {id(tree): number for number, tree in enumerate(self._trees)}
        self._data: list[bytes] = []

    def data(self, data: bytes) -> None:
        """Take bytes of the tar itself."""
        self._data.append(data)

    def content(
        self, source: tuple[Tree, bytes], content: Content, extents: Sequence[Extent]
    ) -> None:
        """Take what a file holds, which is open and comes behind the bytes so far."""
        tree, path = source
        number = self._numbers[id(tree)]
        self.keep(_Kept(self._taken(), number, path, list(extents), state(content.fd)))

    def end(self) -> None:
        """Keep what is behind the last content."""
        if self._data:
            self.keep(_Kept(self._taken()))

    def _taken(self) -> bytes:
        data = b"".join(self._data)
        self._data.clear()
        return data

    def keep(self, kept: _Kept) -> None:
        """Write a record."""
        record = self._encoder.encode(kept)
        self._file.write(len(record).to_bytes(_LENGTH) + record)


class Pieces(Recording):
    """
    The pieces of one tar, for a `with` block; the trees stay the caller's, and open.

    `record` has them found, `replay` writes the tar again.
    """

    def __init__(self, trees: Sequence[Tree]) -> None:
        super().__init__(trees, tempfile.TemporaryFile())  # noqa: SIM115  # __exit__ closes it
        self._decoder = msgspec.msgpack.Decoder(_Kept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def record(self, find: Callable[[Recording], T], file: Output) -> T:
        """
        Have the pieces found, and write the tar meanwhile; give what `find` gives.

        Another process finds them, if there is a processor for it and no other thread, so that
        contents are read here at the same time. Raises what `find` does, and what `replay` does.
        """
        reader, writer = os.pipe()
        with open(reader, "rb", _CHUNK) as source, open(writer, "wb", _CHUNK) as sink:

            def work(_tasks: list[None], _count: Count) -> T:
                recording = Recording(self._trees, sink)
                found = find(recording)
                recording.end()
                sink.flush()
                return found

            with Batches(work, workers=2) as batches:
                if len(os.sched_getaffinity(0)) < 2 or not batches.may_fork:  # noqa: PLR2004
                    return self._record_here(find, file)
                batches.run([None])
                sink.close()
                for kept in self._records(source):
                    self.keep(kept)
                    self._write(kept, file, None)
                (found,) = batches.finish()
        return found

    def _record_here(self, find: Callable[[Recording], T], file: Output) -> T:
        found = find(self)
        self.end()
        self.replay(file)
        return found

    def replay(self, file: Output, progress: Progress | None = None) -> None:
        """
        Write the tar once more.

        Raises OSError naming the path: as opening and reading does, and EIO for a file that was
        written into since.
        """
        self._file.seek(0)
        for kept in self._records(self._file):
            self._write(kept, file, progress)
        self._file.seek(0, os.SEEK_END)

    def _records(self, source: IO[bytes]) -> Iterator[_Kept]:
        while length := source.read(_LENGTH):
            yield self._decoder.decode(source.read(int.from_bytes(length)))

    def _write(self, kept: _Kept, file: Output, progress: Progress | None) -> None:
        file.write(kept.data)
        if kept.tree < 0:
            return
        try:
            self._content(kept, file, progress)
        except OSError as error:
            text = error.strerror or str(error)
            raise OSError(error.errno, text, shown(kept.path)) from error

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
