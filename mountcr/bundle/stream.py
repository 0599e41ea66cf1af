# SPDX-License-Identifier: Apache-2.0
"""
A file that is read forward only, of which nobody knows how long it is.

It keeps no more than one piece, and gives an uncompressed archive to `mountcr.tarmembers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from mountcr.compression import (
    MAGIC,
    Compression,
    DamagedStreamError,
    Input,
    compression_of,
    decompressed,
)
from mountcr.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.bundle.limits import Limits

__all__ = ["Stream"]


class Stream:
    """
    What a file holds, decompressed; told by its first bytes, never by its name.

    `shown` names it in errors. The file stays the caller's.
    """

    def __init__(self, file: Input, shown: str, limits: Limits) -> None:
        magic = _exactly(file, MAGIC)
        self.shown = shown
        self.compression = compression_of(magic)
        self._limits = limits
        self._source = _Counted(file, magic)
        self._chunks: Iterator[bytes] = decompressed(self._source, self.compression)
        self._piece = memoryview(b"")
        self._position = 0

    def tell(self) -> int:
        """Give how many bytes were read or passed over."""
        return self._position

    def seek(self, position: int) -> int:
        """Pass over bytes. Raises RefusedError where that would be a way back."""
        if position < self._position:
            self.refuse(f"what follows byte {self._position} is said to be at {position}", "tar")
        while self._position < position:
            if not self.some(position - self._position):
                break
        return self._position

    def read(self, size: int) -> bytes:
        """
        Give so many bytes, fewer only at the end.

        Raises RefusedError where the stream is damaged, or longer than its compressed bytes can
        stand for.
        """
        parts: list[bytes] = []
        while size:
            part = self.some(size)
            if not part:
                break
            parts.append(bytes(part))
            size -= len(part)
        return b"".join(parts)

    def some(self, size: int) -> memoryview:
        """Give up to so many bytes, at least one unless it is the end; raises as `read` does."""
        while not self._piece:
            try:
                piece = next(self._chunks, None)
            except DamagedStreamError as error:
                self.refuse(f"it is damaged: {error.message}", "compressed stream")
            if piece is None:
                return self._piece
            self._piece = memoryview(piece)
        given, self._piece = self._piece[:size], self._piece[size:]
        self._position += len(given)
        self._check()
        return given

    def _check(self) -> None:
        if self._position > self._limits.size:
            self.refuse(f"it has more than {self._limits.size} bytes", "size")
        most = max(self._limits.small, self._source.count * self._limits.ratio)
        if self.compression is not Compression.NONE and self._position > most:
            self.refuse(f"{self._source.count} bytes unpack to more than {most}", "ratio")

    def refuse(self, what: str, rule: str) -> NoReturn:
        """Raise RefusedError naming the archive and the rule."""
        msg = f"{self.shown}: {what} (rule: {rule})"
        raise RefusedError(msg, hint="make the archive anew; nothing of it was kept")


def _exactly(file: Input, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data


class _Counted:
    """A file of which some bytes were read already, and how many were read of it."""

    def __init__(self, file: Input, begun: bytes) -> None:
        self._file = file
        self._begun = begun
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        if self._begun:
            data, self._begun = self._begun[:size], self._begun[size:]
        else:
            data = self._file.read(size)
        self.count += len(data)
        return data
