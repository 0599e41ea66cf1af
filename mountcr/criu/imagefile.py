# SPDX-License-Identifier: Apache-2.0
"""
One image file of CRIU: entries of one type, read and rewritten.

A file is one or two magic numbers and then entries, each a length and a protobuf message; all
numbers are 32 bits, little endian. Each byte of what is not changed is kept. A file that is not
what it should be is an ImageError that names the file and the byte; a length is held against the
size of the file before anything is read. Numbers are those of CRIU 4.1 (criu/include/magic.h).
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

from mountcr import paths
from mountcr.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Generator

    from google.protobuf.message import Message

    from mountcr.paths import KPath

    M = TypeVar("M", bound=Message)

__all__ = [
    "DAMAGED",
    "LARGEST",
    "LARGEST_ENTRY",
    "Entry",
    "Image",
    "another_kind",
    "check",
    "first",
    "parse",
    "read",
    "write",
]

IMG_COMMON: Final = 0x54564319
"""The first of two magic numbers; inventory.img has only its own."""

IMG_SERVICE: Final = 0x55105940
"""The first of two of a file that is no part of the dumped state."""

INVENTORY: Final = 0x58313116
PSTREE: Final = 0x50273030
MOUNTS: Final = 0x55563928
FILES: Final = 0x56303138
REG_FILES: Final = 0x50363636
FS: Final = 0x51403912
MM: Final = 0x57492820
FDINFO: Final = 0x56213732
REMAP_FPATH: Final = 0x59133954
GHOST_FILE: Final = 0x52583605
CGROUP: Final = 0x59383330
IDS: Final = 0x54432030
STATS: Final = 0x57093306
CPUINFO: Final = 0x61404013
CORE: Final = 0x55053847
FILE_LOCKS: Final = 0x54323616

LARGEST: Final = 256 << 20
"""Bytes of a file that is read whole: some millions of open files, in what takes 100 each."""

LARGEST_ENTRY: Final = 64 << 20
"""Bytes of a message that is read: the mappings of a task that has a million."""

_WORD: Final = struct.Struct("<I")

DAMAGED: Final = "the file is damaged or none of CRIU's; copy the images again, or dump again"
"""What to try where an image is not what it should be."""


@dataclass(slots=True)
class Entry:
    """A message, and the bytes that it was read from; none for a new one."""

    message: Message
    raw: bytes = b""

    def to_bytes(self) -> bytes:
        """Give the bytes it was read from, or new ones if the message was changed."""
        if self.raw and type(self.message).FromString(self.raw) == self.message:
            return self.raw
        return self.message.SerializeToString(deterministic=True)


@dataclass(slots=True)
class Image:
    """
    A file of messages of one type. `magic` is that of the type.

    `content` is what follows the only entry of a ghost file as it stands there: the bytes of the
    file, or pieces of them with an entry before each (`dump_ghost_file()` in criu/files-reg.c).
    """

    magic: int
    entries: list[Entry] = field(default_factory=list[Entry])
    content: bytes = b""

    def messages(self, kind: type[M]) -> list[M]:
        """Give the messages of one type."""
        return [entry.message for entry in self.entries if isinstance(entry.message, kind)]

    def to_bytes(self) -> bytes:
        """Give the whole file."""
        parts = [_WORD.pack(word) for word in (_first_magic(self.magic), self.magic) if word]
        for entry in self.entries:
            raw = entry.to_bytes()
            parts += (_WORD.pack(len(raw)), raw)
        return b"".join((*parts, self.content))


class _Source:
    """A file that is read from its beginning to its end, which is known before."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.name = name
        self.size = size
        self.offset = 0
        self._file = file

    @property
    def left(self) -> int:
        return self.size - self.offset

    def take(self, count: int, start: int) -> bytes:
        """Read some bytes of the entry that begins at `start`."""
        self._require(count, start)
        data = self._file.read(count)
        if len(data) < count:
            raise _truncated(self.name, start)  # somebody cuts it meanwhile
        self.offset += count
        return data

    def skip(self, count: int, start: int) -> None:
        """Go over some bytes of the entry that begins at `start`."""
        self._require(count, start)
        self.offset += count
        self._file.seek(self.offset)

    def _require(self, count: int, start: int) -> None:
        if count > self.left:
            raise _truncated(self.name, start)

    def again(self, start: int) -> bytes:
        """Read what lies between a byte and where this is."""
        self._file.seek(start)
        return self._file.read(self.offset - start)

    def length(self) -> int:
        """
        Read the length of an entry.

        Only the last one may have no bytes, as that of seccomp.img without a filter has none: a
        hole of any size would be as many entries as it has words.
        """
        start = self.offset
        size: int = _WORD.unpack(self.take(_WORD.size, start))[0]
        self._require(size, start)
        if size == 0 and self.left:
            raise _incomplete(self.name, start)
        return size

    def entry(self, kind: type[M]) -> tuple[M, bytes]:
        """Read an entry. Raises ImageError for one of more than LARGEST_ENTRY bytes."""
        start = self.offset
        size = self.length()
        if size > LARGEST_ENTRY:
            raise ImageError(
                f"{self.name}: the entry at byte {start} has {size} bytes",
                file=self.name,
                offset=start,
                hint=f"mountcr reads entries of at most {LARGEST_ENTRY}; the file is damaged",
            )
        raw = self.take(size, start)
        return _message(kind, raw, start, self.name), raw


def read(path: KPath) -> Image:
    """
    Read a file.

    Raises ImageError if it is damaged, of an unknown type, no regular file or of more than LARGEST
    bytes, and OSError.
    """
    with _opened(path) as source:
        if source.size > LARGEST:
            raise ImageError(
                f"{path} has {source.size} bytes",
                file=path,
                hint=f"mountcr reads images of at most {LARGEST} bytes; no entries take so many",
            )
        return _image(source)


def first(path: KPath, kind: type[M]) -> M:
    """
    Read only the first entry of a file, however much follows it.

    Raises ImageError if that is damaged, missing or of another type, and OSError.
    """
    with _opened(path) as source:
        magic = _magic(source)
        if _message_type(magic) is not kind:
            raise another_kind(path, magic)
        if not source.left:
            raise ImageError(f"{path} has no entry", file=path, offset=source.offset, hint=DAMAGED)
        return source.entry(kind)[0]


def parse(data: bytes, name: str) -> Image:
    """Read the bytes of a file; `name` is for errors."""
    return _image(_Source(io.BytesIO(data), len(data), name))


def check(path: KPath) -> None:
    """
    Go through a file of any type by its lengths; nothing but one entry is in memory at a time.

    Raises ImageError if it is cut off, OSError.
    """
    with _opened(path) as source:
        kind = _message_type(_magic(source))
        while source.left:
            start = source.offset
            if kind is None:
                source.skip(source.length(), start)
                continue
            message, _ = source.entry(kind)
            _skip_content(source, message)


def write(path: KPath, image: Image) -> None:
    """
    Write a file in place of the one that is there, which stays as it is if this fails.

    The new file has the mode of the old one, 0600 if there was none. Raises OSError.
    """
    target = paths.decode(path)
    temporary = target + b".mountcr"
    mode = 0o600
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode & 0o777
        os.unlink(temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(image.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def _opened(path: KPath) -> Generator[_Source]:
    """Open a regular file; one that is none is not waited for."""
    fd = os.open(paths.decode(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            msg = f"{path} is no CRIU image: it is no regular file"
            raise ImageError(msg, file=path, hint=DAMAGED)
        file = stack.enter_context(os.fdopen(fd, "rb", closefd=False))
        yield _Source(file, status.st_size, path)


def _image(source: _Source) -> Image:
    magic = _magic(source)
    kind = _message_type(magic)
    if kind is None:
        raise ImageError(
            f"{source.name}: {magic:#x} is the magic number of no image that mountcr reads",
            file=source.name,
            offset=source.offset - _WORD.size,
            hint=DAMAGED,
        )
    image = Image(magic)
    while source.left:
        entry = Entry(*source.entry(kind))
        image.entries.append(entry)
        start = source.offset
        _skip_content(source, entry.message)
        if source.offset > start:
            image.content = source.again(start)
    return image


def _skip_content(source: _Source, message: Message) -> None:
    """Go over what follows the entry of a ghost file, to the end; its pieces have to be whole."""
    from mountcr.criu import images_pb2 as pb

    if not isinstance(message, pb.GhostFile):
        return
    while message.chunks and source.left:
        start = source.offset
        piece, _ = source.entry(pb.GhostChunk)
        source.skip(piece.length, start)
    source.skip(source.left, source.offset)


def _magic(source: _Source) -> int:
    """Read the magic numbers and give that of the type."""
    words: list[int] = []
    for start in (0, _WORD.size):
        if source.left < _WORD.size:
            raise _truncated(source.name, source.size)
        words.append(_WORD.unpack(source.take(_WORD.size, start))[0])
        if words[0] == INVENTORY:
            return INVENTORY
        if words[0] not in {IMG_COMMON, IMG_SERVICE}:
            raise ImageError(
                f"{source.name} is not a CRIU image: it begins with {words[0]:#x}",
                file=source.name,
                hint="images of CRIU before 1.6 and raw files such as pages-1.img have no entries",
            )
    if words[0] != _first_magic(words[1]):
        raise ImageError(
            f"{source.name}: {words[1]:#x} does not go with {words[0]:#x}",
            file=source.name,
            offset=_WORD.size,
            hint=DAMAGED,
        )
    return words[1]


def _first_magic(magic: int) -> int:
    """Give the number before that of the type, 0 if there is none."""
    return {INVENTORY: 0, STATS: IMG_SERVICE}.get(magic, IMG_COMMON)


def _truncated(name: str, offset: int) -> ImageError:
    return ImageError(
        f"{name} ends within the entry at byte {offset}",
        file=name,
        offset=offset,
        hint="the dump or the copy of the images was cut off; copy them again",
    )


def _incomplete(name: str, offset: int) -> ImageError:
    return ImageError(
        f"{name}: the entry at byte {offset} lacks a field that CRIU always writes",
        file=name,
        offset=offset,
        hint=DAMAGED,
    )


def another_kind(name: str, magic: int) -> ImageError:
    """Give the error for a file that is another one than its name says."""
    return ImageError(
        f"{name} holds messages of another kind: its magic number is {magic:#x}",
        file=name,
        hint=DAMAGED,
    )


def _message(kind: type[M], raw: bytes, offset: int, name: str) -> M:
    from google.protobuf.message import DecodeError

    try:
        message = kind.FromString(raw)
    except DecodeError as error:
        raise ImageError(
            f"{name}: the entry at byte {offset} is not a {kind.DESCRIPTOR.name}",
            file=name,
            offset=offset,
            hint=DAMAGED,
        ) from error
    if not message.IsInitialized():
        raise _incomplete(name, offset)
    return message


def _message_type(magic: int) -> type[Message] | None:
    from mountcr.criu import images_pb2 as pb

    kinds: dict[int, type[Message]] = {
        INVENTORY: pb.Inventory,
        PSTREE: pb.PstreeEntry,
        MOUNTS: pb.MountEntry,
        FILES: pb.FileEntry,
        REG_FILES: pb.RegularFile,
        FS: pb.FsEntry,
        MM: pb.MmEntry,
        FDINFO: pb.DescriptorEntry,
        REMAP_FPATH: pb.RemapEntry,
        GHOST_FILE: pb.GhostFile,
        CGROUP: pb.CgroupEntry,
        IDS: pb.NamespaceIds,
        STATS: pb.Statistics,
        CPUINFO: pb.ProcessorEntry,
        CORE: pb.CoreEntry,
        FILE_LOCKS: pb.FileLock,
    }
    return kinds.get(magic)
