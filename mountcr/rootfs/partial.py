# SPDX-License-Identifier: Apache-2.0
"""
Directories in the making: complete under their name, or not there.

One is made under another name beside its place, `.NAME.mountcr-partial`, mode 0700, and renamed
when it is complete. Whoever makes it holds a lock on it (flock(2)), so that one whose maker was
killed can be told from one at work.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from mountcr import journal
from mountcr.kernel import syscalls
from mountcr.kernel.removal import remove_beneath
from mountcr.paths import KPath, decode, encode

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["SUFFIX", "Partial", "is_abandoned"]

SUFFIX: Final = ".mountcr-partial"
"""How the name of every unfinished directory ends; it begins with a dot."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_INHERITED: Final = ("system.posix_acl_access", "system.posix_acl_default")
"""What a new directory has from the default ACL of the one that it is made in, acl(5)."""


class Partial:
    """
    A new directory, for a `with` block: `complete()` gives it its name, leaving without removes it.

    `fd` is the directory, `path` its unfinished name. Entering raises FileExistsError where the
    target is there, or where another process is making it; what an ended one left is removed.
    """

    def __init__(self, into: KPath) -> None:
        whole = decode(into).rstrip(b"/")
        above, _, self._name = whole.rpartition(b"/")
        self._above = above or (b"/" if whole.startswith(b"/") else b".")
        self._partial = b".%s%s" % (self._name, SUFFIX.encode())
        self._parent = -1
        self._completed = False
        self.into = into
        self.path = encode(os.path.join(self._above, self._partial))
        self.fd = -1

    def __enter__(self) -> Self:
        """Make the directory."""
        self._parent = os.open(self._above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._refuse_target()
            self._make()
        except BaseException:
            os.close(self._parent)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close, and remove the directory unless it is complete."""
        try:
            if not self._completed:
                remove_beneath(self._parent, self._partial)
        finally:
            os.close(self.fd)
            os.close(self._parent)

    def complete(self, *, durable: bool = False) -> None:
        """
        Give the directory its name. Raises FileExistsError where something else has it by now.

        An empty directory that somebody made there meanwhile is replaced, see rename(2). A
        `durable` one is whole after a power failure too, if it has its name then.
        """
        if durable:
            syscalls.syncfs(self.fd)
        try:
            os.rename(self._partial, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise _exists(self.into) from error
            raise
        self._completed = True

    def _refuse_target(self) -> None:
        with suppress(FileNotFoundError):
            os.lstat(self._name, dir_fd=self._parent)
            raise _exists(self.into)

    def _make(self) -> None:
        journal.making(decode(self.path), decode(self.into))
        try:
            os.mkdir(self._partial, 0o700, dir_fd=self._parent)
        except FileExistsError:
            if not is_abandoned(self._parent, self._partial):
                raise _exists(self.path) from None
            remove_beneath(self._parent, self._partial)
            os.mkdir(self._partial, 0o700, dir_fd=self._parent)
        self.fd = os.open(self._partial, _DIRECTORY, dir_fd=self._parent)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in _INHERITED:
                with suppress(OSError):
                    os.removexattr(self.fd, name)
            os.fchmod(self.fd, 0o700)
            journal.made(decode(self.path))
        except BaseException:
            os.close(self.fd)
            with suppress(OSError):
                os.rmdir(self._partial, dir_fd=self._parent)
            raise


def _exists(path: KPath) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def is_abandoned(parent: int, name: bytes) -> bool:
    """Tell whether nobody is at work on an unfinished directory in an open one. Raises OSError."""
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
