# SPDX-License-Identifier: Apache-2.0
"""
The members of a tar that comes from anywhere, read with no more memory than one header may take.

`tarfile` believes what a header says of its own length, follows headers that describe headers, and
keeps all that it has read. Here it reads forward only, a limited number of bytes for each member,
and keeps none.
"""

from __future__ import annotations

import os
import tarfile
from typing import IO, TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

__all__ = ["Archive", "members"]

_GLOBAL: Final = 100
"""How many fields global headers may have, of which each member gets a copy; git writes one."""


class Refuse(Protocol):
    """Raises an error that names the archive, what is wrong with it and by which rule."""

    def __call__(self, what: str, rule: str) -> NoReturn:
        """Raise it."""
        ...


class Archive(Protocol):
    """An uncompressed archive that is read forward."""

    def read(self, size: int, /) -> bytes:
        """Give so many bytes, fewer only at the end."""
        ...

    def seek(self, position: int, /) -> object:
        """Pass over bytes."""
        ...

    def tell(self) -> int:
        """Give the position."""
        ...


def members(
    file: Archive, most: int, refuse: Refuse, *, closed: bool = True
) -> Iterator[tarfile.TarInfo]:
    """
    Give what is said of each member; `most` bytes may say it.

    The archive has to end with zeros or, unless it shall be `closed`, where the file does. What
    else is wrong is told to `refuse`, and whatever reading the file raises passes.
    """
    headers = _Headers(file, most, refuse)
    try:
        with tarfile.open(
            fileobj=cast("IO[bytes]", headers),  # as much of one as is needed
            mode="r:",
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            while (info := archive.next()) is not None:
                vars(archive)["members"].clear()  # it would keep all that there were
                if info.size < 0:
                    refuse(f"the member at byte {info.offset} has {info.size} bytes", "tar")
                if len(archive.pax_headers) > _GLOBAL:
                    refuse(f"a global header has more than {_GLOBAL} fields", "size of headers")
                yield info
                headers.begin()
    # tarfile looks beyond the end of a map of extents that is cut off: IndexError
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, IndexError) as error:
        refuse(f"it is no tar, or damaged: {error}", "tar")
    if headers.last.strip(b"\0") or (closed and not headers.last):
        refuse(f"it is damaged at byte {headers.at}, or cut off", "tar")


class _Headers:
    """
    As much of a file as `tarfile` wants, of which little may be read for one member.

    `last` is what was read last, and `at` where. It asks for its position ten times for a member,
    which is a system call of a file each time, so that is kept here.
    """

    def __init__(self, file: Archive, most: int, refuse: Refuse) -> None:
        self._file = file
        self._most = most
        self._refuse = refuse
        self.last = b""
        self.at = 0
        self.begin()

    def begin(self) -> None:
        """Let the next member have its own header, wherever the last one was read to."""
        self._left = self._most
        self._position = self._file.tell()

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        here = self._position
        if whence != os.SEEK_SET or position < here:
            self._refuse(f"what follows byte {here} is said to be at {position}", "tar")
        if position > here:
            self._file.seek(position)
            self._position = self._file.tell()
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            what = f"the header at byte {self._position} has more than {self._most} bytes"
            self._refuse(what, "size of headers")
        self._left -= size
        self.at = self._position
        self.last = self._file.read(size)
        self._position += len(self.last)
        return self.last
