# SPDX-License-Identifier: Apache-2.0
"""
The members of an archive that comes from anywhere: regular files with plain names, and no others.

A bundle, and the checkpoints of other tools, are tars of files that their reader looks for by name.
Nothing in them is a link, a device or a name that leads elsewhere, so nothing of that is believed,
and nothing is written here: a reader gets names, sizes and contents, one after the other. The root
file systems are tars in them, and read by `mountcr.rootfs.tar`.
"""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Protocol

from mountcr.errors import DocumentError
from mountcr.paths import encode
from mountcr.tarmembers import members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mountcr.bundle.limits import Limits
    from mountcr.bundle.stream import Stream

__all__ = ["Content", "Member", "Members", "is_plain", "save"]

_COMPONENT: Final = 255
"""NAME_MAX of every file system that matters."""

_PLAIN: Final = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE})

_TYPES: Final = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.CONTTYPE: "a contiguous file",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class Member(NamedTuple):
    """A regular file in an archive: its name from the top, without `.` and `..`, and its size."""

    name: str
    size: int


class Content(Protocol):
    """What a member holds; read before the next one is asked for, or passed over."""

    def some(self) -> memoryview:
        """Give a piece of what is left, empty at the end."""
        ...


def save(content: Content, fd: int, told: Callable[[int], None] = lambda _count: None) -> None:
    """Write all of a content into an open file, which is closed; `told` hears of its bytes."""
    with open(fd, "wb", buffering=0) as file:
        while piece := content.some():
            told(len(piece))
            while piece:
                piece = piece[file.write(piece) :]


class Members:
    """
    The members of an archive, in their order.

    Iterating raises DocumentError for what is none, RefusedError naming the member and the rule
    that it breaks, and OSError of the file. `shown` is what errors call the archive.
    """

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self.shown = stream.shown
        self._stream = stream
        self._limits = limits
        self._names: set[str] = set()

    def __iter__(self) -> Iterator[tuple[Member, Content]]:
        """Give each file with its content; directories only hold a place and are passed over."""
        for info in members(self._stream, self._limits.header, self._refuse):
            if info.isdir():
                self._name(info)
                continue
            member = self._member(info)
            yield member, _Content(self._stream, info.offset_data, member)
        while piece := self._stream.some(1 << 20):
            if bytes(piece).strip(b"\0"):
                self._stream.refuse("something follows the end of the archive", "tar")

    def _refuse(self, what: str, rule: str) -> NoReturn:
        """Raise RefusedError, or DocumentError for what is no archive from its first byte on."""
        if rule == "tar" and not self._names:
            msg = f"{self.shown} is no archive: {what} (rule: {rule})"
            raise DocumentError(msg, hint="`mountcr export` writes bundles")
        self._stream.refuse(what, rule)

    def _member(self, info: tarfile.TarInfo) -> Member:
        name = self._name(info)
        if info.type not in _PLAIN or info.issparse() or _is_sparse(info):
            kind = _TYPES.get(info.type, f"of type {info.type!r}")
            kind = "a sparse file" if info.issparse() or _is_sparse(info) else kind
            self._stream.refuse(f"{shown(name)} is {kind}", "types of members")
        return Member(name, info.size)

    def _name(self, info: tarfile.TarInfo) -> str:
        """Give the name as a path from the top, which nothing had before."""
        name = "/".join(part for part in info.name.split("/") if part not in {"", "."})
        if info.name.startswith("/") or not is_plain(name, self._limits.name):
            if info.isdir() and not name and not info.name.startswith("/"):
                return name  # the top itself
            self._stream.refuse(f"a member is called {shown(info.name)}", "names of members")
        if name in self._names:
            self._stream.refuse(f"{shown(name)} is there twice", "duplicate members")
        self._names.add(name)
        if len(self._names) > self._limits.members:
            self._stream.refuse(f"it has more than {self._limits.members} members", "members")
        return name


def _is_sparse(info: tarfile.TarInfo) -> bool:
    return any(key.startswith("GNU.sparse") for key in info.pax_headers)


def is_plain(name: str, most: int) -> bool:
    """Tell whether a name leads from the top to a file below it, and can be shown."""
    parts = name.split("/")
    return (
        0 < len(name.encode("utf-8", "surrogateescape")) <= most
        and name.isprintable()
        and not any(part in {"", ".", ".."} for part in parts)
        and all(len(part.encode("utf-8", "surrogateescape")) <= _COMPONENT for part in parts)
    )


def shown(name: str) -> str:
    """Spell a name of an archive on one line, not too long."""
    whole = encode(name.encode("utf-8", "surrogateescape")[:120])
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in whole) or "''"


class _Content:
    """The content of one member, while the stream stands in it."""

    def __init__(self, stream: Stream, offset: int, member: Member) -> None:
        self._stream = stream
        self._member = member
        self._end = offset + member.size
        stream.seek(offset)

    def some(self) -> memoryview:
        """Give a piece of what is left, empty at the end."""
        left = self._end - self._stream.tell()
        if left <= 0:
            return memoryview(b"")
        piece = self._stream.some(left)
        if not piece:
            self._stream.refuse(f"it ends in the middle of {shown(self._member.name)}", "tar")
        return piece
