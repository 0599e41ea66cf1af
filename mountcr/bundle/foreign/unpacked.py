# SPDX-License-Identifier: Apache-2.0
"""
An archive that was unpacked into a directory of ours: its members, opened beneath it.

No symbolic link is followed, whoever put it there, and what is read as a whole is small.
"""

from __future__ import annotations

import errno
import os
import stat
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from mountcr.errors import DocumentError
from mountcr.kernel.beneath import open_beneath
from mountcr.paths import decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mountcr.paths import KPath

__all__ = ["MOST", "Unpacked", "container_path", "plain_name"]

T = TypeVar("T")

MOST: Final = 16 << 20
"""Bytes of a member that is read as a whole."""

_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_LONGEST_NAME: Final = 255


class Unpacked:
    """
    The members of an archive below a directory; `archive` is what errors call it.

    The directory is opened for each question, so that nothing has to be closed. `left_out` are
    regular files of the archive that were not unpacked, with their sizes.
    """

    def __init__(
        self,
        directory: KPath,
        archive: KPath | None = None,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.directory = directory
        self.archive = archive or directory
        self._left_out = left_out or {}

    def has(self, member: str) -> bool:
        """Tell whether there is a regular file or directory of that name."""
        return member in self._left_out or self._type(member) is not None

    def is_directory(self, member: str) -> bool:
        """Tell whether there is a directory of that name."""
        found = self._type(member)
        return found is not None and stat.S_ISDIR(found)

    def size(self, member: str) -> int:
        """Give the bytes of a regular file. Raises DocumentError where there is none."""
        if member in self._left_out:
            return self._left_out[member]
        fd = self.open(member)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def names(self, member: str) -> list[str]:
        """Give the names in a directory, sorted; none where there is no such directory."""
        fd = self._opened(member, _DIRECTORY)
        if fd is None:
            return []
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def open(self, member: str) -> int:
        """
        Open a regular file for reading. The caller owns the descriptor.

        Raises DocumentError naming the member where there is none.
        """
        fd = self._opened(member, _READ)
        if fd is None:
            raise self.wrong(member, "is missing")
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self.wrong(member, "is no regular file")
        return fd

    def content(self, member: str, *, most: int = MOST) -> bytes:
        """Read a regular file. Raises DocumentError where there is none, or a larger one."""
        fd = self.open(member)
        with open(fd, "rb", buffering=0) as file:
            found = file.read(most + 1)
            while found and len(found) <= most:
                more = file.read(most + 1 - len(found))
                if not more:
                    break
                found += more
        if len(found) > most:
            raise self.wrong(member, f"is larger than {most} bytes")
        return found

    def json(self, member: str, kind: type[T]) -> T:
        """Read a member of JSON. Raises DocumentError naming the member and the field."""
        return self.parsed(self.content(member), member, kind)

    def list_of(self, member: str, kind: type[T]) -> tuple[T, ...]:
        """Read a member that is a list in JSON; Go writes an empty one as null."""
        found: tuple[T, ...] | None = self._decoded(
            self.content(member), member, GenericAlias(tuple, (kind, ...)) | None
        )
        return found or ()

    def parsed(self, text: bytes, where: str, kind: type[T]) -> T:
        """Parse JSON that was found somewhere in the archive. Raises DocumentError."""
        found: T = self._decoded(text, where, kind)
        return found

    def _decoded(self, text: bytes, where: str, kind: Any) -> Any:
        try:
            return msgspec.json.decode(text, type=kind)
        except RecursionError:
            raise self.wrong(where, "is nested too deep") from None
        except msgspec.ValidationError as error:
            what, _, place = str(error).partition(" - at `$")
            field = place.rstrip("`").lstrip(".")
            raise self.wrong(where, f"{field}: {what}" if field else what) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self.wrong(where, f"is no JSON: {error}") from None

    def wrong(self, where: str, what: str) -> DocumentError:
        """Give the error for a member, or a field of one, that is not as it must be."""
        return DocumentError(
            f"{self.archive}: {encode(where)}: {what} (rule: document)",
            hint="the archive is damaged, or none that this tool wrote; make the checkpoint again",
        )

    def _type(self, member: str) -> int | None:
        fd = self._opened(member, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        if fd is None:
            return None
        try:
            mode = os.fstat(fd).st_mode
        finally:
            os.close(fd)
        return mode if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else None

    def _opened(self, member: str, flags: int) -> int | None:
        root = os.open(decode(self.directory), _DIRECTORY)
        try:
            return open_beneath(root, os.fsencode(member), flags)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise self.wrong(member, error.strerror or "cannot be opened") from None
        finally:
            os.close(root)


def plain_name(name: str) -> bool:
    """
    Tell a name that is one component of a path and nothing else anywhere.

    That is what engines call containers and volumes: letters, digits, `_`, `.` and `-`, not at the
    beginning but for the first two.
    """
    return (
        0 < len(name) <= _LONGEST_NAME
        and name.isascii()
        and name[0].isalnum()
        and all(each.isalnum() or each in "_.-" for each in name)
    )


def container_path(text: str) -> KPath | None:
    """Give an absolute path in a container without `.` and `//`; None for any other text."""
    if not text.startswith("/") or "\0" in text:
        return None
    parts = [part for part in text.split("/") if part not in {"", "."}]
    if ".." in parts:
        return None
    return encode("/" + "/".join(parts))
