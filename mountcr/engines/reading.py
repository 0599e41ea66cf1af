# SPDX-License-Identifier: Apache-2.0
"""
Reading the state of an engine: what is damaged is remembered and named, and the rest is read.

Nothing locks, waits for a writer, or writes. A file that ends early is read once more after 10 ms,
for engines truncate before they write. What a symbolic link leads to outside of the root of the
engine is not read: an engine puts none there, and what a container or a thief of its root put
there may be anything.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from mountcr.container import Damage
from mountcr.paths import encode, fsdecode

if TYPE_CHECKING:
    from mountcr.paths import KPath

__all__ = ["Reader", "is_rootless", "names_in"]

T = TypeVar("T")

_SIZE_LIMIT: Final = 256 << 20
_WRITER_NEEDS_SECONDS: Final = 0.01


def names_in(directory: str) -> list[str]:
    """Give the names in a directory, in order; none where it cannot be listed."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def is_rootless(directory: str) -> bool:
    """
    Tell whether an engine without privilege has a directory, as its owner is not root.

    What it keeps was written in a user namespace: files have mapped owners, and what privilege is
    needed for is spelled otherwise.
    """
    try:
        return os.stat(directory).st_uid != 0
    except OSError:
        return False


class Reader:
    """
    Reads files below the root of an engine.

    `damages` are what could not be read so far, `told` which file and field told which fact, in
    the order in which they were asked.
    """

    def __init__(self, *roots: KPath) -> None:
        self.damages: list[Damage] = []
        self.told: list[str] = []
        real = (os.path.realpath(fsdecode(root)) for root in roots)
        self._roots = tuple(f"{root.rstrip('/')}/" for root in real)

    def fresh(self) -> Reader:
        """Give a reader below the same roots that has met nothing yet; they are not looked up."""
        found = Reader()
        found._roots = self._roots
        return found

    def json(self, path: str, kind: type[T], *, optional: bool = False) -> T | None:
        """
        Read a file of JSON; None if it is of no use, which is a damage.

        With `optional` it is none that the file is missing.
        """
        for patience in (_WRITER_NEEDS_SECONDS, 0):
            content = self.content(path, optional=optional)
            if content is None:
                return None
            try:
                return msgspec.json.decode(content, type=kind)
            except msgspec.ValidationError as error:
                self._invalid(path, str(error))
                return None
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                if patience:
                    time.sleep(patience)
                    continue
                self.damaged(path, "", f"no JSON: {error}")
        return None

    def text(self, path: str, *, optional: bool = False) -> str | None:
        """Read a file of one word, as layer ids are, without space around it."""
        content = self.content(path, optional=optional)
        return None if content is None else os.fsdecode(content).strip()

    def content(self, path: str, *, optional: bool = False) -> bytes | None:
        """Read a regular file of at most 256 MiB; None if that cannot be, which is a damage."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (FileNotFoundError, NotADirectoryError):
            if not optional:
                self.damaged(path, "", self._missing(path))
            return None
        except OSError as error:
            self.damaged(path, "", error.strerror or "cannot be opened")
            return None
        try:
            return self._checked(path, fd)
        finally:
            os.close(fd)

    def _checked(self, path: str, fd: int) -> bytes | None:
        where = os.readlink(f"/proc/self/fd/{fd}")
        if not where.startswith(self._roots):
            self.damaged(path, "", f"a symbolic link leads out of the root, to {where}")
            return None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            self.damaged(path, "", "not a regular file")
            return None
        if found.st_size > _SIZE_LIMIT:
            self.damaged(path, "", f"larger than {_SIZE_LIMIT} bytes")
            return None
        try:
            with open(fd, "rb", buffering=0, closefd=False) as file:
                return file.readall()
        except OSError as error:
            self.damaged(path, "", error.strerror or "cannot be read")
            return None

    def inside(self, path: str) -> bool:
        """Tell whether a path leads, by all its links, to what is below a root."""
        return os.path.realpath(path).startswith(self._roots)

    def damaged(self, path: str, field: str, what: str) -> None:
        """Remember that something is not as it must be."""
        damage = Damage(file=encode(path), field=field, what=what)
        if damage not in self.damages:
            self.damages.append(damage)

    def tell(self, fact: str, path: str, field: str = "") -> None:
        """Remember which file and field told a fact."""
        where = encode(path)
        self.told.append(f"{fact}: {where}: {field}" if field else f"{fact}: {where}")

    def _missing(self, path: str) -> str:
        return "a symbolic link that leads nowhere" if os.path.islink(path) else "is missing"

    def _invalid(self, path: str, complaint: str) -> None:
        """Take msgspec's words apart: `Expected `int`, got `str` - at `$.State.Pid``."""
        what, _, place = complaint.partition(" - at `$")
        self.damaged(path, place.rstrip("`").lstrip("."), what)
