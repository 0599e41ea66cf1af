# SPDX-License-Identifier: Apache-2.0
"""
Compressed streams: told by their first bytes, read and written from beginning to end.

What is read may come from anywhere: it is given in pieces of limited size, and not more of it than
the compressed bytes can reasonably stand for.
"""

from __future__ import annotations

import contextlib
import sys
import zlib
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from mountcr.errors import CapabilityError, MountcrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import ModuleType

__all__ = [
    "MAGIC",
    "Compression",
    "DamagedStreamError",
    "Input",
    "Level",
    "Output",
    "compressed",
    "compression_of",
    "decompressed",
    "parse_level",
    "write_whole",
]

CHUNK: Final = 1 << 20
"""Bytes that are read, and given, at once at most."""

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
MAGIC: Final = 4
"""Bytes that tell how a stream is compressed."""

_LARGEST_WINDOW: Final = 27
"""Log2 of the bytes that a zstd frame may make a reader keep: 128 MiB, as zstd(1) has it."""

_WORKERS: Final = 2
"""More make nothing faster where hashing takes as long; with any number the bytes are the same."""


class Input(Protocol):
    """A file that is read from its beginning to its end."""

    def read(self, size: int, /) -> bytes:
        """Give up to so many bytes; none at the end."""
        ...


class Output(Protocol):
    """A file that is written from its beginning to its end."""

    def write(self, data: bytes | memoryview, /) -> int | None:
        """Write all of it."""
        ...


class Compression(StrEnum):
    """How a stream is compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class Level(NamedTuple):
    """A compression and its level, 0 for the usual one."""

    compression: Compression
    number: int = 0


class DamagedStreamError(MountcrError):
    """A compressed stream is cut off or not what its format says; `message` says which."""


_LEVELS: Final = {Compression.GZIP: (1, 9, 6), Compression.ZSTD: (1, 19, 3)}
"""Lowest and highest level, and the usual one."""


def parse_level(word: str) -> Level:
    """Read `zstd`, `gzip:9`, `none`. Raises UsageError naming what there is."""
    name, colon, number = word.partition(":")
    try:
        compression = Compression(name)
    except ValueError:
        msg = f"--compress {word}: no such compression"
        raise UsageError(msg, hint=f"there are {', '.join(Compression)}") from None
    if not colon:
        return Level(compression)
    lowest, highest, _ = _LEVELS.get(compression, (0, 0, 0))
    if not number.isascii() or not number.isdigit() or not lowest <= int(number) <= highest:
        msg = f"--compress {word}: no level of {compression}"
        hint = f"levels are {lowest} to {highest}" if highest else "it has no levels"
        raise UsageError(msg, hint=hint)
    return Level(compression, int(number))


def compression_of(magic: bytes) -> Compression:
    """Tell by the first bytes of a stream how it is compressed."""
    if magic.startswith(_GZIP):
        return Compression.GZIP
    return Compression.ZSTD if magic.startswith(_ZSTD) else Compression.NONE


# --- Reading --------------------------------------------------------------------------------------


def decompressed(file: Input, compression: Compression) -> Iterator[bytes]:
    """
    Give what a stream holds, piece by piece; the file stays the caller's.

    Raises DamagedStreamError where it is cut off or damaged, CapabilityError where this Python
    cannot read it, and what reading the file raises.
    """
    if compression is Compression.GZIP:
        return _gunzip(file)
    if compression is Compression.ZSTD:
        return _unzstd(file)
    return iter(lambda: file.read(CHUNK), b"")


def _gunzip(file: Input) -> Iterator[bytes]:
    """Decompress gzip, whose members may come one after the other (RFC 1952, 2.2)."""
    stream = zlib.decompressobj(wbits=31)
    try:
        while data := file.read(CHUNK):
            while data:
                if stream.eof:
                    if not data.strip(b"\0"):
                        break
                    stream = zlib.decompressobj(wbits=31)
                yield stream.decompress(data, CHUNK)
                data = stream.unconsumed_tail or stream.unused_data
    except zlib.error as error:
        raise DamagedStreamError(str(error)) from None
    if not stream.eof:
        raise DamagedStreamError("the compressed data end too early")


def _unzstd(file: Input) -> Iterator[bytes]:
    """Decompress zstd, whose frames may come one after the other (RFC 8878, 3)."""
    zstd = _zstd()
    options = {zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW}
    try:
        with zstd.ZstdFile(file, options=options) as stream:
            while data := stream.read(CHUNK):
                yield data
    except (zstd.ZstdError, EOFError) as error:
        raise DamagedStreamError(str(error)) from None


def _zstd() -> ModuleType:
    try:
        # PY314: always compression.zstd once 3.13 is dropped.
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        msg = "this is compressed with zstd, which this Python cannot read or write"
        hint = "install backports.zstd, or use gzip or no compression"
        raise CapabilityError(msg, probe="import compression.zstd", hint=hint) from None
    return zstd


# --- Writing --------------------------------------------------------------------------------------


@contextlib.contextmanager
def compressed(file: Output, level: Level) -> Generator[Output]:
    """
    Give what compresses into a file for a block; at its end all is written, the file stays open.

    The same bytes give the same bytes. When the block fails, what was written is cut off. Raises
    CapabilityError where this Python cannot write it, and what writing raises.
    """
    compression, number = level
    if compression is Compression.NONE:
        yield file
        return
    number = number or _LEVELS[compression][2]
    compressor: Any
    if compression is Compression.GZIP:
        # RFC 1952: without name and time, so that the same gives the same
        compressor = zlib.compressobj(number, wbits=31)
    else:
        zstd = _zstd()
        parameter = zstd.CompressionParameter
        options = {
            parameter.compression_level: number,
            parameter.nb_workers: _WORKERS,
            parameter.checksum_flag: 1,
        }
        compressor = zstd.ZstdCompressor(options=options)
    sink = _Compressing(file, compressor)
    yield sink
    sink.end()


class _Compressing:
    """What is written, compressed into a file."""

    def __init__(self, file: Output, compressor: Any) -> None:
        self._file = file
        self._compressor = compressor

    def write(self, data: bytes | memoryview, /) -> int:
        """Compress it."""
        write_whole(self._file, self._compressor.compress(data))
        return len(data)

    def end(self) -> None:
        """Write the rest."""
        write_whole(self._file, self._compressor.flush())


def write_whole(file: Output, data: bytes | memoryview) -> None:
    """Write all of it, however much a file takes at once."""
    view = memoryview(data)
    while view:
        count = file.write(view)
        view = view[len(view) if count is None else count :]
