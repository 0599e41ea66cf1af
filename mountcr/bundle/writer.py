# SPDX-License-Identifier: Apache-2.0
"""
Bundles, written: as a tar, compressed or not, or as a directory of the same members.

What a member holds is written twice by whoever has it: to be measured, because the document comes
first and has all digests, and into the bundle. So no copy is made of anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import tarfile
import threading
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

from mountcr.bundle.document import Digested
from mountcr.bundle.names import MANIFEST, SIGNATURE
from mountcr.compression import compressed, write_whole
from mountcr.errors import MountcrError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mountcr.compression import Level, Output

__all__ = [
    "DirectorySink",
    "Measured",
    "Part",
    "Sink",
    "TarSink",
    "measure",
    "write_parts",
    "write_tar_bundle",
]

_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_PIECE: Final = 4 << 20
"""Bytes that are hashed at once."""

_AHEAD: Final = 4
"""Pieces that may wait to be hashed."""


class Part(NamedTuple):
    """
    A member: `write` puts its content into a file each time that it is called.

    It is the same each time, or an error.
    """

    name: str
    write: Callable[[Output], None]


class Measured(NamedTuple):
    """A part and what was found of it."""

    part: Part
    digested: Digested


class Sink(Protocol):
    """Takes the members of a bundle, one after the other."""

    def add(self, name: str, size: int, write: Callable[[Output], None]) -> None:
        """Take a member of so many bytes."""
        ...


def measure(part: Part) -> Measured:
    """Find out how long a part is and its digests. Raises what writing it raises."""
    with _Hashing() as hashing:
        part.write(hashing)
        digest = hashing.hexdigest()
    return Measured(part, Digested(name=part.name, size=hashing.size, sha256=digest))


def write_parts(
    document: bytes, signature: bytes | None, parts: Iterable[Measured], sink: Sink
) -> None:
    """
    Write a bundle: its document, its signature and its parts.

    Raises MountcrError naming a part of another length than when it was measured, and what writing
    the parts raises.
    """
    sink.add(MANIFEST, len(document), lambda file: write_whole(file, document))
    if signature is not None:
        sink.add(SIGNATURE, len(signature), lambda file: write_whole(file, signature))
    for measured in parts:
        sink.add(measured.part.name, measured.digested.size, measured.part.write)


def write_tar_bundle(file: Output, level: Level, write: Callable[[Sink], None]) -> None:
    """Have a bundle written as a tar into a file, which stays the caller's."""
    with compressed(file, level) as packed:
        sink = TarSink(packed)
        write(sink)
        sink.end()


class TarSink:
    """A tar of members: ustar, of nobody and no time, so that the same gives the same."""

    def __init__(self, file: Output) -> None:
        self._file = file
        self._size = 0

    def add(self, name: str, size: int, write: Callable[[Output], None]) -> None:
        """Write a member. Raises MountcrError where it is not as long as it was to be."""
        info = tarfile.TarInfo(name)
        info.size = size
        info.mode = 0o600
        self.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        begun = self._size
        write(self)
        if self._size - begun != size:
            raise MountcrError(f"{name} changed its size while it was read")
        self.write(bytes(-size % _BLOCK))

    def end(self) -> None:
        """Write the end of the archive."""
        self.write(bytes(2 * _BLOCK))
        self.write(bytes(-self._size % _RECORD))

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of it."""
        write_whole(self._file, data)
        self._size += len(data)
        return len(data)


class DirectorySink:
    """A directory of members, below an open one that stays the caller's."""

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def add(self, name: str, size: int, write: Callable[[Output], None]) -> None:
        """Write a member. Raises MountcrError where it is not as long as it was to be."""
        parent, _, _ = name.rpartition("/")
        if parent:
            with contextlib.suppress(FileExistsError):
                os.mkdir(parent, 0o700, dir_fd=self._directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=self._directory), "wb") as file:
            write(file)
            if file.tell() != size:
                raise MountcrError(f"{name} changed its size while it was read")


class _Hashing:
    """
    A file that nothing is written into: it hashes, in a thread that runs while others read.

    At the end of a `with` block the thread has ended. What is written is hashed later, so it must
    not change: bytes do not. Each call of hashlib takes turns with other threads, so there are few.
    """

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        self._waiting: queue.Queue[list[bytes]] = queue.Queue(_AHEAD)
        self._batch: list[bytes] = []
        self._batched = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._waiting.put([])
            self._thread.join()

    def write(self, data: bytes | memoryview, /) -> int:
        length = len(data)
        self._batch.append(data if isinstance(data, bytes) else bytes(data))
        self._batched += length
        if self._batched >= _PIECE:
            self._hand_over()
        return length

    def hexdigest(self) -> str:
        """Give the digest of all that was written; call it once, at the end."""
        self._hand_over()
        self._waiting.put([])
        self._thread.join()
        return self._hash.hexdigest()

    def _hand_over(self) -> None:
        if not self._thread.ident:
            self._thread.start()  # not before: a process with threads forks no others
        if self._batch:
            self._waiting.put(self._batch)
            self.size += self._batched
            self._batch, self._batched = [], 0

    def _run(self) -> None:
        while batch := self._waiting.get():
            self._hash.update(b"".join(batch))
