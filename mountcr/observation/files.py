# SPDX-License-Identifier: Apache-2.0
"""
What a task holds: descriptors, mappings, working directory, root and executable.

Everything is read through /proc as the kernel shows it; nothing is put right here.
See proc_pid_fd(5), proc_pid_fdinfo(5), proc_pid_maps(5), proc_pid_map_files(5).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.model import FileKind, InodeType, Mark, OpenFile, Unseen
from mountcr.observation import fdinfo
from mountcr.observation.stats import path_stat
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.model import PathStat
    from mountcr.observation.places import Places
    from mountcr.paths import KPath

__all__ = ["task_files"]

_NAMED: Final = frozenset(InodeType) - {InodeType.SOCKET, InodeType.ANONYMOUS}
"""What CRIU opens again by its path."""


_LOOKS: Final = 5
"""How often a descriptor is looked at again."""


def _agrees(file: OpenFile) -> bool:
    """Tell whether the file is the one at the path that was shown, as far as that is known."""
    stat, there = file.stat, file.at_path
    return stat is None or there is None or (stat.dev, stat.ino) == (there.dev, there.ino)


class _Observer:
    """Looks at the files of one task."""

    def __init__(self, pid: int, places: Places) -> None:
        self.pid = pid
        self.places = places
        self.namespace = places.enter(pid)

    def link(self, kind: FileKind) -> OpenFile:
        """Look at the working directory, the root or the executable."""
        path = f"/proc/{self.pid}/{kind}"
        return self.place(_followed(OpenFile(kind=kind, shown=_shown(path)), path))

    def descriptors(self) -> Iterator[OpenFile]:
        """Give every descriptor; one that is closed meanwhile is left out."""
        for entry in sorted(os.listdir(f"/proc/{self.pid}/fd"), key=int):
            try:
                yield self._settled(int(entry))
            except FileNotFoundError:
                continue

    def _settled(self, fd: int) -> OpenFile:
        """
        Look at a descriptor; where link and file do not agree, until it is twice the same.

        A task that runs may put another file there between two looks, as a shell does for echo.
        """
        file = self._descriptor(fd)
        for _ in range(_LOOKS):
            if not file.missing and _agrees(file):
                break
            again = self._descriptor(fd)
            if (again.shown, again.stat, again.at_path) == (file.shown, file.stat, file.at_path):
                break
            file = again
        return file

    def _descriptor(self, fd: int) -> OpenFile:
        path = f"/proc/{self.pid}/fd/{fd}"
        shown = _shown(path)
        info = fdinfo.read(f"/proc/{self.pid}/fdinfo/{fd}")
        return self.place(
            OpenFile(
                kind=FileKind.FD,
                shown=shown,
                fd=fd,
                mnt_id=info.mnt_id,
                flags=info.flags,
                position=info.position,
                locked=info.locked,
                stat=_stat(path),
                marks=tuple(map(self._searched, info.marks)),
                tty_index=info.tty_index,
            )
        )

    def mappings(self) -> Iterator[OpenFile]:
        """
        Give every file mapping, through map_files where that is allowed.

        map_files asks for CAP_SYS_ADMIN or, since Linux 5.9, CAP_CHECKPOINT_RESTORE; without it
        the path column of maps stands in, which says nothing of mount or inode. A file that is
        mapped in parts, or by several tasks of a mount namespace, is looked at once.
        """
        with open(f"/proc/{self.pid}/maps", "rb") as maps:
            lines = maps.read().splitlines()
        for line in lines:
            addresses, _, offset, dev, ino, *path = line.split(maxsplit=5)
            if ino == b"0" or not path:
                continue
            span = addresses.decode()
            key = self.namespace, b" ".join((dev, ino, path[0]))
            known = self.places.files.get(key)
            if known is None:
                try:
                    known = self.place(self._mapped(span, path[0]))
                except FileNotFoundError:
                    continue  # unmapped since maps was read
                self.places.files[key] = known
            start, _, end = span.partition("-")
            yield msgspec.structs.replace(
                known, start=int(start, 16), end=int(end, 16), offset=int(offset, 16)
            )

    def _mapped(self, span: str, path: bytes) -> OpenFile:
        link = f"/proc/{self.pid}/map_files/{span}"
        try:
            return _followed(OpenFile(kind=FileKind.MAP, shown=_shown(link)), link)
        except PermissionError:
            return OpenFile(kind=FileKind.MAP, shown=encode(path.replace(rb"\012", b"\n")))

    def _searched(self, mark: Mark) -> Mark:
        """Search for what is watched as CRIU does, if it has to."""
        if not mark.ino or not mark.undecodable:
            return mark
        return msgspec.structs.replace(mark, path=self.places.search(self.namespace, mark))

    def place(self, file: OpenFile) -> OpenFile:
        """Add what lies at the path of a file, unless the kernel says that its name is gone."""
        stat, shown = file.stat, file.shown
        if stat is None or stat.type not in _NAMED or shown.endswith("\\040(deleted)"):
            return file
        found = self.places.look(self.namespace, shown, stat.type)
        if found.stat is None and not found.missing:
            return file
        return msgspec.structs.replace(file, at_path=found.stat, missing=found.missing)


def _shown(path: str) -> KPath:
    return encode(os.readlink(os.fsencode(path)))


def _stat(path: str) -> PathStat | None:
    try:
        return path_stat(os.stat(path))
    except OSError:
        return None  # ESTALE of an unlinked file on AUFS, EACCES on another user's FUSE


def _followed(file: OpenFile, path: str) -> OpenFile:
    """
    Follow a link of /proc to the very mount, which only a descriptor of our own tells.

    Raises PermissionError and FileNotFoundError as the link does.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (PermissionError, FileNotFoundError):
        raise
    except OSError:
        return file
    try:
        mnt_id = fdinfo.mount_id(fd)
        return msgspec.structs.replace(file, mnt_id=mnt_id, stat=path_stat(os.fstat(fd)))
    except OSError:
        return file
    finally:
        os.close(fd)


def task_files(pid: int, places: Places) -> tuple[tuple[OpenFile, ...], tuple[Unseen, ...]]:
    """
    Give the files of a task, and what was not allowed to be seen.

    Never raises for missing permission; FileNotFoundError or ProcessLookupError when the task
    has ended.
    """
    observer = _Observer(pid, places)
    files: list[OpenFile] = []
    unseen: list[Unseen] = []
    for kind in (FileKind.CWD, FileKind.ROOT, FileKind.EXE):
        try:
            files.append(observer.link(kind))
        except PermissionError as error:
            unseen.append(Unseen(what=f"/proc/{pid}/{kind}", why=str(error.strerror)))
        except FileNotFoundError:
            if not os.path.exists(f"/proc/{pid}"):
                raise
            # a kernel thread or a zombie has no executable
    for what, collect in (("fd", observer.descriptors), ("maps", observer.mappings)):
        try:
            files.extend(collect())
        except PermissionError as error:
            unseen.append(Unseen(what=f"/proc/{pid}/{what}", why=str(error.strerror)))
    return tuple(files), tuple(unseen)
