# SPDX-License-Identifier: Apache-2.0
"""
Where the files of a task are read from: a live process, or what was recorded of one.

What is read is the same: links of /proc with what they lead to, fdinfo, maps, and what lies at
paths of the task's mount namespace.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mountcr.observation import fdinfo
from mountcr.observation.stats import path_stat
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mountcr.model import FileKind, InodeType, Mark, OpenFile, PathStat
    from mountcr.observation.fdinfo import FdInfo
    from mountcr.observation.places import Place, Places
    from mountcr.paths import KPath

__all__ = ["LiveSource", "Shown", "Source"]


class Shown(NamedTuple):
    """
    A link of /proc, and what it leads to.

    `stat` is None where it could not be asked: ESTALE of an unlinked file on AUFS, EACCES on
    another user's FUSE. `mnt_id` is -1 where nothing tells.
    """

    path: KPath
    stat: PathStat | None
    mnt_id: int = -1


class Source(Protocol):
    """
    The files of one task.

    Every method raises OSError as the kernel did: FileNotFoundError for what is gone,
    PermissionError for what may not be seen.
    """

    @property
    def pid(self) -> int:
        """The pid of the task."""
        ...

    @property
    def known(self) -> dict[bytes, OpenFile]:
        """Mapped files of the mount namespace that were looked at, by line of maps."""
        ...

    def is_there(self) -> bool:
        """Tell whether the task has not ended."""
        ...

    def link(self, kind: FileKind) -> Shown:
        """Look at the working directory, the root or the executable."""
        ...

    def numbers(self) -> list[int]:
        """Give the descriptors, in their order."""
        ...

    def descriptor(self, fd: int) -> Shown:
        """Look at a descriptor; the mount is in its fdinfo."""
        ...

    def fdinfo(self, fd: int) -> FdInfo:
        """Read what the kernel tells of a descriptor."""
        ...

    def maps(self) -> bytes:
        """Read the table of mappings."""
        ...

    def mapped(self, span: str) -> Shown:
        """Look at a mapping by its addresses, through map_files."""
        ...

    def look(self, path: KPath, kind: InodeType) -> Place:
        """Look at a path of the mount namespace."""
        ...

    def search(self, mark: Mark) -> KPath | None:
        """Give the path at which CRIU finds a watched inode by itself."""
        ...

    def bound(self) -> Mapping[int, KPath]:
        """Give the paths that unix sockets are bound to, by inode number."""
        ...


class LiveSource:
    """A process of this host. `places` is shared by the tasks of one observation."""

    def __init__(self, pid: int, places: Places) -> None:
        self.pid = pid
        self.namespace = places.enter(pid)
        self.known = places.known(self.namespace)
        self._places = places

    def is_there(self) -> bool:
        """Tell whether the task has not ended."""
        return os.path.exists(f"/proc/{self.pid}")

    def link(self, kind: FileKind) -> Shown:
        """Look at the working directory, the root or the executable."""
        return _followed(f"/proc/{self.pid}/{kind}")

    def numbers(self) -> list[int]:
        """Give the descriptors, in their order."""
        return sorted(map(int, os.listdir(f"/proc/{self.pid}/fd")))

    def descriptor(self, fd: int) -> Shown:
        """Look at a descriptor."""
        path = f"/proc/{self.pid}/fd/{fd}"
        return Shown(_read_link(path), _stat(path))

    def fdinfo(self, fd: int) -> FdInfo:
        """Read what the kernel tells of a descriptor."""
        return fdinfo.read(f"/proc/{self.pid}/fdinfo/{fd}")

    def maps(self) -> bytes:
        """Read the table of mappings."""
        with open(f"/proc/{self.pid}/maps", "rb") as file:
            return file.read()

    def mapped(self, span: str) -> Shown:
        """Look at a mapping by its addresses."""
        return _followed(f"/proc/{self.pid}/map_files/{span}")

    def look(self, path: KPath, kind: InodeType) -> Place:
        """Look at a path of the mount namespace."""
        return self._places.look(self.namespace, path, kind)

    def search(self, mark: Mark) -> KPath | None:
        """Give the path at which CRIU finds a watched inode by itself."""
        return self._places.search(self.namespace, mark)

    def bound(self) -> Mapping[int, KPath]:
        """Give the paths that unix sockets are bound to in the network namespace of the task."""
        return self._places.sockets(self.pid)


def _read_link(path: str) -> KPath:
    return encode(os.readlink(os.fsencode(path)))


def _stat(path: str) -> PathStat | None:
    try:
        return path_stat(os.stat(path))
    except OSError:
        return None


def _followed(path: str) -> Shown:
    """Follow a link of /proc to the very mount, which only a descriptor of our own tells."""
    shown = _read_link(path)
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (PermissionError, FileNotFoundError):
        raise
    except OSError:
        return Shown(shown, None)
    try:
        return Shown(shown, path_stat(os.fstat(fd)), fdinfo.mount_id(fd))
    except OSError:
        return Shown(shown, None)
    finally:
        os.close(fd)
