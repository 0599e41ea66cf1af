# SPDX-License-Identifier: Apache-2.0
"""
One image file of CRIU: entries of one type, read and rewritten.

A file is one or two magic numbers and then entries, each a length and a protobuf message; all
numbers are 32 bits, little endian. Each byte of what is not changed is kept. A file that is not
what it should be is an ImageError that names the file and the byte. Numbers are those of CRIU 4.1.
"""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from mountcr import paths
from mountcr.errors import ImageError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from mountcr.paths import KPath

    M = TypeVar("M", bound=Message)

__all__ = ["Entry", "Image", "check", "parse", "read", "write"]

IMG_COMMON: Final = 0x54564319
"""The first of two magic numbers; inventory.img has only its own."""

IMG_SERVICE: Final = 0x55105940
"""The first of two of a file that is no part of the dumped state."""

INVENTORY: Final = 0x58313116
PSTREE: Final = 0x50273030
MOUNTS: Final = 0x55563928
FILES: Final = 0x56303138
FS: Final = 0x51403912
MM: Final = 0x57492820
REMAP_FPATH: Final = 0x59133954
CGROUP: Final = 0x59383330
IDS: Final = 0x54432030
STATS: Final = 0x57093306

_WORD: Final = struct.Struct("<I")


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
    """A file of messages of one type. `magic` is that of the type."""

    magic: int
    entries: list[Entry] = field(default_factory=list[Entry])

    def messages(self, kind: type[M]) -> list[M]:
        """Give the messages of one type."""
        return [entry.message for entry in self.entries if isinstance(entry.message, kind)]

    def to_bytes(self) -> bytes:
        """Give the whole file."""
        parts = [_WORD.pack(word) for word in (_first_magic(self.magic), self.magic) if word]
        for entry in self.entries:
            raw = entry.to_bytes()
            parts += (_WORD.pack(len(raw)), raw)
        return b"".join(parts)


def read(path: KPath) -> Image:
    """Read a file. Raises ImageError if it is damaged or of an unknown type, and OSError."""
    with open(paths.decode(path), "rb") as file:
        return parse(file.read(), path)


def parse(data: bytes, name: str) -> Image:
    """Read the bytes of a file; `name` is for errors."""
    magic, offset = _magic(data, name)
    kind = _message_type(magic)
    if kind is None:
        raise ImageError(
            f"{name}: {magic:#x} is the magic number of no image that mountcr reads",
            file=name,
            offset=offset - _WORD.size,
        )
    image = Image(magic)
    while offset < len(data):
        raw = _payload(data, offset, name)
        image.entries.append(Entry(_message(kind, raw, offset, name), raw))
        offset += _WORD.size + len(raw)
    return image


def check(path: KPath) -> None:
    """Go through a file of any type by its lengths. Raises ImageError if it is cut off, OSError."""
    with open(paths.decode(path), "rb") as file:
        data = file.read()
    magic, offset = _magic(data, path)
    kind = _message_type(magic)
    while offset < len(data):
        raw = _payload(data, offset, path)
        if kind:
            _message(kind, raw, offset, path)
        offset += _WORD.size + len(raw)


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


def _magic(data: bytes, name: str) -> tuple[int, int]:
    """Give the magic number of the type and the offset of the first entry."""
    words: list[int] = []
    for offset in (0, _WORD.size):
        if len(data) < offset + _WORD.size:
            raise _truncated(name, len(data))
        words.append(_WORD.unpack_from(data, offset)[0])
        if words[0] == INVENTORY:
            return INVENTORY, _WORD.size
        if words[0] not in {IMG_COMMON, IMG_SERVICE}:
            raise ImageError(
                f"{name} is not a CRIU image: it begins with {words[0]:#x}",
                file=name,
                hint="images of CRIU before 1.6 and raw files such as pages-1.img have no entries",
            )
    if words[0] != _first_magic(words[1]):
        raise ImageError(
            f"{name}: {words[1]:#x} does not go with {words[0]:#x}", file=name, offset=_WORD.size
        )
    return words[1], 2 * _WORD.size


def _first_magic(magic: int) -> int:
    """Give the number before that of the type, 0 if there is none."""
    return {INVENTORY: 0, STATS: IMG_SERVICE}.get(magic, IMG_COMMON)


def _payload(data: bytes, offset: int, name: str) -> bytes:
    if len(data) < offset + _WORD.size:
        raise _truncated(name, offset)
    (size,) = _WORD.unpack_from(data, offset)
    raw = data[offset + _WORD.size : offset + _WORD.size + size]
    if len(raw) < size:
        raise _truncated(name, offset)
    return raw


def _truncated(name: str, offset: int) -> ImageError:
    return ImageError(
        f"{name} ends within the entry at byte {offset}",
        file=name,
        offset=offset,
        hint="the dump or the copy of the images was cut off; copy them again",
    )


def _message(kind: type[Message], raw: bytes, offset: int, name: str) -> Message:
    from google.protobuf.message import DecodeError

    try:
        message = kind.FromString(raw)
    except DecodeError as error:
        raise ImageError(
            f"{name}: the entry at byte {offset} is not a {kind.DESCRIPTOR.name}",
            file=name,
            offset=offset,
        ) from error
    if not message.IsInitialized():
        raise ImageError(
            f"{name}: the entry at byte {offset} lacks a field that CRIU always writes",
            file=name,
            offset=offset,
        )
    return message


def _message_type(magic: int) -> type[Message] | None:
    from mountcr.criu import images_pb2 as pb

    kinds: dict[int, type[Message]] = {
        INVENTORY: pb.Inventory,
        PSTREE: pb.PstreeEntry,
        MOUNTS: pb.MountEntry,
        FILES: pb.FileEntry,
        FS: pb.FsEntry,
        MM: pb.MmEntry,
        REMAP_FPATH: pb.RemapEntry,
        CGROUP: pb.CgroupEntry,
        IDS: pb.NamespaceIds,
        STATS: pb.Statistics,
    }
    return kinds.get(magic)
