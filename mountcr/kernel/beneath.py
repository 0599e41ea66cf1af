# SPDX-License-Identifier: Apache-2.0
"""
Opening paths that somebody else chose, without ever leaving a directory.

openat2(2) (Linux 5.6) does it; before, or when it could not be sure because something was renamed
meanwhile (EAGAIN), the path is walked name by name, each opened without following it. `..` goes
back to the directory that the walk came from, so that a directory which is moved out meanwhile
takes nobody along.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import TYPE_CHECKING, Final, NoReturn, Self

from mountcr.kernel import syscalls

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["NO_LINKS", "Walk", "open_beneath", "open_in_root"]

_LINKS: Final = 40
"""How many symbolic links one path may lead through: MAXSYMLINKS of include/linux/namei.h."""

_PATH_MAX: Final = 4096

NO_LINKS: Final = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
"""How openat2(2) refuses links, and what leaves the root."""

_UNSURE: Final = frozenset({errno.ENOSYS, errno.EAGAIN})


def open_in_root(root: int, path: bytes, flags: int) -> int:
    """
    Open a path as a process sees it whose root directory is the descriptor `root`.

    Symbolic links are followed inside of it, the last one unless O_NOFOLLOW says otherwise; `..`
    of the root is the root. Links that are no text, as those of /proc/self/fd, are refused with
    openat2(2), and without taken for their text. Nothing is created. The caller owns the
    descriptor, which is close-on-exec. Raises OSError.
    """
    return _open(root, path, flags, syscalls.RESOLVE_IN_ROOT)


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """
    Open a relative path beneath the descriptor `root`, through no symbolic link.

    Raises OSError: EXDEV for an absolute path and for `..` that leaves the root, ELOOP where a
    component is a symbolic link, unless it is the last one and the flags are O_PATH | O_NOFOLLOW.
    Everything else is as in `open_in_root`.
    """
    return _open(root, path, flags, NO_LINKS)


def _open(root: int, path: bytes, flags: int, resolve: int) -> int:
    flags = (flags | os.O_CLOEXEC) & ~os.O_CREAT
    try:
        return syscalls.openat2(root, path, flags, 0, resolve)
    except OSError as error:
        if error.errno not in _UNSURE:
            raise
    with Walk(root, path, flags, follows=resolve == syscalls.RESOLVE_IN_ROOT) as walk:
        return walk.open()


class Walk:
    """
    One path on its way; it holds the directories that it went through, for a `with` block.

    It `follows` symbolic links and takes the root for `/`, or is refused where there is one.
    """

    def __init__(self, root: int, path: bytes, flags: int, *, follows: bool) -> None:
        self._path = path
        self._flags = flags
        self._follows = follows
        self._below: list[int] = []
        self._root = root
        self._names: deque[bytes] = deque()
        self._links = 0
        self._directory = False

    def __enter__(self) -> Self:
        """Hold nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of the directories."""
        self._return_to_root()

    def open(self) -> int:
        """Walk, and give the descriptor of what is at the end."""
        if not self._path:
            self._fail(errno.ENOENT)
        if len(self._path) >= _PATH_MAX:
            self._fail(errno.ENAMETOOLONG)
        self._take(self._path)
        while self._names:
            name = self._names.popleft()
            if name == b"..":
                self._up()
            elif self._names:
                self._enter(name)
            else:
                found = self._last(name)
                if found is not None:
                    return found
        return os.open(b".", self._flags, dir_fd=self._here)

    @property
    def _here(self) -> int:
        return self._below[-1] if self._below else self._root

    def _take(self, path: bytes) -> None:
        """Put a path before what is left of the way; an absolute one begins at the root."""
        if path.startswith(b"/"):
            if not self._follows:
                self._fail(errno.EXDEV)
            self._return_to_root()
        if not self._names and path.endswith((b"/", b"/.")):
            self._directory = True
        self._names.extendleft(
            name for name in reversed(path.split(b"/")) if name not in {b"", b"."}
        )

    def _up(self) -> None:
        if self._below:
            os.close(self._below.pop())
        elif not self._follows:
            self._fail(errno.EXDEV)

    def _enter(self, name: bytes) -> None:
        """Go into a directory, or on where a symbolic link leads."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._here)
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            self._below.append(fd)
            return
        try:
            if not stat.S_ISLNK(mode):
                self._fail(errno.ENOTDIR)
            self._follow(fd)
        finally:
            os.close(fd)

    def _last(self, name: bytes) -> int | None:
        """Open the last name; None where it is a symbolic link, and the way goes on."""
        if self._directory or not self._flags & os.O_NOFOLLOW:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._here)
            try:
                if stat.S_ISLNK(os.fstat(fd).st_mode):
                    self._follow(fd)
                    return None
            finally:
                os.close(fd)
        flags = self._flags | os.O_NOFOLLOW | (os.O_DIRECTORY if self._directory else 0)
        return os.open(name, flags, dir_fd=self._here)

    def _follow(self, link: int) -> None:
        self._links += 1
        if not self._follows or self._links > _LINKS:
            self._fail(errno.ELOOP)
        self._take(os.readlink(b"", dir_fd=link))

    def _return_to_root(self) -> None:
        for fd in self._below:
            os.close(fd)
        self._below.clear()

    def _fail(self, number: int) -> NoReturn:
        raise OSError(number, os.strerror(number), os.fsdecode(self._path))
