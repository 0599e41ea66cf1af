# SPDX-License-Identifier: Apache-2.0
"""
What lies at the paths that files are shown with, looked up once per mount namespace.

A path that /proc shows a reader outside the namespace is from the root of the namespace, also
where the task has a root directory of its own, so it is looked up from the root of a task that
has none. A symbolic link on the way does not lead out.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, NamedTuple, Self

from mountcr.kernel.beneath import open_in_root
from mountcr.observation import irmap, sockets
from mountcr.observation.stats import path_stat
from mountcr.paths import decode

if TYPE_CHECKING:
    from mountcr.model import InodeType, Mark, OpenFile, PathStat
    from mountcr.paths import KPath

__all__ = ["Place", "Places"]


class Place(NamedTuple):
    """What lies at a path; nothing is known where it could not be asked."""

    stat: PathStat | None = None
    missing: bool = False


class Places:
    """
    A cache of lookups for one observation.

    It holds the root directory of each mount namespace by descriptor, until `close()`.
    """

    def __init__(self) -> None:
        self._files: dict[int, dict[bytes, OpenFile]] = {}
        self._sockets: dict[int, dict[int, KPath]] = {}
        self._roots: dict[int, int] = {}
        self._found: dict[tuple[int, KPath], Place] = {}
        self._hints: dict[int, dict[tuple[str, int], KPath]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the roots."""
        for fd in self._roots.values():
            os.close(fd)
        self._roots.clear()

    def enter(self, pid: int) -> int:
        """
        Make the mount namespace of a task known, and give its inode number; 0 if it is not told.

        Paths are looked up from this task's root, unless that is a directory of its own.
        """
        with contextlib.suppress(OSError):
            namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
            if namespace not in self._roots and os.readlink(f"/proc/{pid}/root") == "/":
                flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                self._roots[namespace] = os.open(f"/proc/{pid}/root", flags)
            return namespace
        return 0

    def known(self, namespace: int) -> dict[bytes, OpenFile]:
        """Give the mapped files that were looked at in a mount namespace, to be added to."""
        return self._files.setdefault(namespace, {})

    def root(self, namespace: int) -> int | None:
        """Give the descriptor of the root of a mount namespace, which stays this object's."""
        return self._roots.get(namespace)

    def sockets(self, pid: int) -> dict[int, KPath]:
        """Give the paths that unix sockets of a task's network namespace are bound to."""
        namespace = os.stat(f"/proc/{pid}/ns/net").st_ino
        if namespace not in self._sockets:
            self._sockets[namespace] = sockets.read(pid)
        return self._sockets[namespace]

    def look(self, namespace: int, path: KPath, kind: InodeType) -> Place:
        """Look up a path; a file that is itself a symbolic link is not followed."""
        root = self._roots.get(namespace, -1)
        if root < 0 or not path.startswith("/"):
            return Place()
        key = namespace, path
        if key not in self._found:
            self._found[key] = _look(root, path, follow=kind != "symlink")
        return self._found[key]

    def search(self, namespace: int, mark: Mark) -> KPath | None:
        """Give the path at which CRIU finds a watched inode by itself."""
        root = self._roots.get(namespace, -1)
        if root < 0:
            return None
        if namespace not in self._hints:
            self._hints[namespace] = irmap.scan(root)
        return self._hints[namespace].get((mark.dev, mark.ino))


def _look(root: int, path: KPath, *, follow: bool) -> Place:
    flags = os.O_PATH | (0 if follow else os.O_NOFOLLOW)
    relative = decode(path).lstrip(b"/") or b"."
    try:
        fd = open_in_root(root, relative, flags)
    except OSError as error:
        return Place(missing=error.errno == errno.ENOENT)
    try:
        return Place(stat=path_stat(os.fstat(fd)))
    except OSError:
        return Place()
    finally:
        os.close(fd)
