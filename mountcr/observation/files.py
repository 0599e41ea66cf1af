# SPDX-License-Identifier: Apache-2.0
"""
What a task holds: descriptors, mappings, working directory, root and executable.

Everything is read through /proc as the kernel shows it; nothing is put right here.
See proc_pid_fd(5), proc_pid_fdinfo(5), proc_pid_maps(5), proc_pid_map_files(5).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from mountcr.model import FileKind, InodeType, OpenFile, PathStat, Unseen
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["inode_type", "look", "mount_id", "path_stat", "task_files"]

_TYPES: Final = {
    stat.S_IFDIR: InodeType.DIRECTORY,
    stat.S_IFREG: InodeType.FILE,
    stat.S_IFLNK: InodeType.SYMLINK,
    stat.S_IFIFO: InodeType.FIFO,
    stat.S_IFSOCK: InodeType.SOCKET,
    stat.S_IFCHR: InodeType.CHARACTER,
    stat.S_IFBLK: InodeType.BLOCK,
}


def inode_type(mode: int) -> InodeType:
    """Name the type bits of a mode; anonymous inodes (epoll, eventfd, …) have none."""
    return _TYPES.get(stat.S_IFMT(mode), InodeType.ANONYMOUS)


def _dev(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}"


def path_stat(result: os.stat_result) -> PathStat:
    """Keep what rules and resolvers ask for of a stat result."""
    return PathStat(
        dev=_dev(result.st_dev),
        ino=result.st_ino,
        mode=result.st_mode,
        nlink=result.st_nlink,
        size=result.st_size,
        rdev=_dev(result.st_rdev),
        type=inode_type(result.st_mode),
    )


def look(path: bytes, *, dir_fd: int | None = None, follow: bool = False) -> PathStat | None:
    """Stat a path; None when nothing is there. Raises OSError when it may not be looked at."""
    try:
        return path_stat(os.stat(path, dir_fd=dir_fd, follow_symlinks=follow))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _fdinfo(path: str) -> dict[str, str]:
    """Read the `key: value` lines of a fdinfo file; a key that repeats (marks, locks) once."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        pairs = (line.partition(":") for line in file)
        return {key: value.strip() for key, _, value in pairs}


def mount_id(fd: int) -> int:
    """Give the id of the mount that an open descriptor of ours is on; -1 before Linux 3.15."""
    return int(_fdinfo(f"/proc/thread-self/fdinfo/{fd}").get("mnt_id", "-1"))


def _link(kind: FileKind, path: str, *, fd: int = -1) -> OpenFile:
    """Look at one of the links of /proc/<pid> that lead to an open file."""
    shown = encode(os.readlink(os.fsencode(path)))
    try:
        found = path_stat(os.stat(path))
    except OSError:
        found = None  # ESTALE of an unlinked file on AUFS, EACCES on another user's FUSE
    return OpenFile(kind=kind, shown=shown, fd=fd, stat=found)


def _descriptors(pid: int) -> Iterator[OpenFile]:
    for entry in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
        try:
            file = _link(FileKind.FD, f"/proc/{pid}/fd/{entry}", fd=int(entry))
            info = _fdinfo(f"/proc/{pid}/fdinfo/{entry}")
        except FileNotFoundError:
            continue  # closed since the directory was read
        yield OpenFile(
            kind=FileKind.FD,
            shown=file.shown,
            fd=file.fd,
            mnt_id=int(info.get("mnt_id", "-1")),
            flags=int(info.get("flags", "0"), 8),
            position=int(info.get("pos", "-1")),
            locked="lock" in info,
            stat=file.stat,
        )


def _mappings(pid: int) -> Iterator[OpenFile]:
    """
    Give every file mapping, through map_files where that is allowed.

    map_files asks for CAP_SYS_ADMIN or, since Linux 5.9, CAP_CHECKPOINT_RESTORE; without it the
    path column of maps stands in, which says nothing of mount or inode.
    """
    with open(f"/proc/{pid}/maps", "rb") as maps:
        lines = maps.read().splitlines()
    for line in lines:
        addresses, _, offset, _, ino, *path = line.split(maxsplit=5)
        if ino == b"0" or not path:
            continue
        span = addresses.decode()
        start, _, end = span.partition("-")
        try:
            linked = _link(FileKind.MAP, f"/proc/{pid}/map_files/{span}")
        except FileNotFoundError:
            continue  # unmapped since maps was read
        except PermissionError:
            shown = encode(path[0].replace(rb"\012", b"\n"))
            linked = OpenFile(kind=FileKind.MAP, shown=shown)
        yield OpenFile(
            kind=FileKind.MAP,
            shown=linked.shown,
            start=int(start, 16),
            end=int(end, 16),
            offset=int(offset, 16),
            stat=linked.stat,
        )


def task_files(pid: int) -> tuple[tuple[OpenFile, ...], tuple[Unseen, ...]]:
    """
    Give the files of a task, and what was not allowed to be seen.

    Never raises for missing permission; FileNotFoundError or ProcessLookupError when the task
    has ended.
    """
    files: list[OpenFile] = []
    unseen: list[Unseen] = []
    for kind in (FileKind.CWD, FileKind.ROOT, FileKind.EXE):
        try:
            files.append(_link(kind, f"/proc/{pid}/{kind}"))
        except PermissionError as error:
            unseen.append(Unseen(what=f"/proc/{pid}/{kind}", why=str(error.strerror)))
        except FileNotFoundError:
            if not os.path.exists(f"/proc/{pid}"):
                raise
            # a kernel thread or a zombie has no executable
    for what, collect in (("fd", _descriptors), ("maps", _mappings)):
        try:
            files.extend(collect(pid))
        except PermissionError as error:
            unseen.append(Unseen(what=f"/proc/{pid}/{what}", why=str(error.strerror)))
    return tuple(files), tuple(unseen)
