# SPDX-License-Identifier: Apache-2.0
"""
What a task holds: descriptors, mappings, working directory, root and executable.

Everything is read through /proc as the kernel shows it; nothing is put right here.
See proc_pid_fd(5), proc_pid_fdinfo(5), proc_pid_maps(5), proc_pid_map_files(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.model import FileKind, InodeType, Mapping, Mark, OpenFile, Unseen
from mountcr.paths import encode
from mountcr.planning.remaps import DELETED
from mountcr.resolution.symptoms import NET_UNIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.observation.source import Source
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


def _looks(file: OpenFile) -> tuple[object, ...]:
    """Give what tells one file from another."""
    return file.shown, file.mnt_id, file.stat, file.at_path


class _Observer:
    """Looks at the files of one task."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def link(self, kind: FileKind) -> OpenFile:
        """Look at the working directory, the root or the executable."""
        found = self.source.link(kind)
        return self.place(
            OpenFile(kind=kind, shown=found.path, mnt_id=found.mnt_id, stat=found.stat)
        )

    def descriptors(self) -> Iterator[OpenFile]:
        """Give every descriptor; one that is closed meanwhile is left out."""
        for fd in self.source.numbers():
            try:
                yield self._settled(fd)
            except FileNotFoundError:
                continue

    def _settled(self, fd: int) -> OpenFile:
        """
        Look at a descriptor until all is of one file; where path and file differ, twice the same.

        A task that runs may put another file there between two looks, as a shell does for echo.
        """
        file = self._descriptor(fd)
        for _ in range(_LOOKS):
            if not file.missing and _agrees(file) and self._is_still(file, fd):
                break
            again = self._descriptor(fd)
            if _looks(again) == _looks(file):
                break
            file = again
        return file

    def _is_still(self, file: OpenFile, fd: int) -> bool:
        """Tell whether a descriptor leads where it did before the rest of it was read."""
        return self.source.descriptor(fd).path == file.shown

    def _descriptor(self, fd: int) -> OpenFile:
        shown = self.source.descriptor(fd)
        info = self.source.fdinfo(fd)
        return self.place(
            OpenFile(
                kind=FileKind.FD,
                shown=shown.path,
                fd=fd,
                mnt_id=info.mnt_id,
                flags=info.flags,
                position=info.position,
                locked=info.locked,
                stat=shown.stat,
                marks=tuple(map(self._searched, info.marks)),
                tty_index=info.tty_index,
                pidfd=info.pidfd,
            )
        )

    def mappings(self) -> Iterator[OpenFile]:
        """
        Give every file mapping, through map_files where that is allowed.

        map_files asks for CAP_SYS_ADMIN or, since Linux 5.9, CAP_CHECKPOINT_RESTORE; without it
        the path column of maps stands in, which says nothing of mount or inode. A file that is
        mapped in parts, or by several tasks of a mount namespace, is looked at once.
        """
        known = self.source.known
        for line in self.source.maps().splitlines():
            addresses, access, offset, dev, ino, *path = line.split(maxsplit=5)
            if ino == b"0" or not path:
                continue
            span = addresses.decode()
            key = b" ".join((dev, ino, path[0]))
            if key not in known:
                try:
                    known[key] = self.place(self._mapped(span, _mapping(dev, ino, path[0])))
                except FileNotFoundError:
                    continue  # unmapped since maps was read
            file = known[key]
            start, _, end = span.partition("-")
            mapping = file.mapping
            if mapping is not None:
                mapping = msgspec.structs.replace(mapping, access=access.decode())
            yield msgspec.structs.replace(
                file,
                start=int(start, 16),
                end=int(end, 16),
                offset=int(offset, 16),
                mapping=mapping,
            )

    def _mapped(self, span: str, mapping: Mapping) -> OpenFile:
        try:
            found = self.source.mapped(span)
        except PermissionError:
            mapping = msgspec.structs.replace(mapping, through="maps")
            return OpenFile(kind=FileKind.MAP, shown=mapping.path, mapping=mapping)
        return OpenFile(
            kind=FileKind.MAP,
            shown=found.path,
            mnt_id=found.mnt_id,
            stat=found.stat,
            mapping=mapping,
        )

    def _searched(self, mark: Mark) -> Mark:
        """Search for what is watched as CRIU does, if it has to."""
        if not mark.ino or not mark.undecodable:
            return mark
        return msgspec.structs.replace(mark, path=self.source.search(mark))

    def place(self, file: OpenFile) -> OpenFile:
        """Add what lies at the path of a file, unless the kernel says that its name is gone."""
        stat, shown = file.stat, file.shown
        if stat is None or stat.type not in _NAMED or shown.endswith(DELETED):
            return file
        found = self.source.look(shown, stat.type)
        if found.stat is None and not found.missing:
            return file
        return msgspec.structs.replace(file, at_path=found.stat, missing=found.missing)


def _mapping(dev: bytes, ino: bytes, path: bytes) -> Mapping:
    r"""
    Read a line of maps; its device is in hexadecimal, and of a path only `\n` is escaped.

    See fs/proc/task_mmu.c, `show_map_vma()`.
    """
    major, _, minor = dev.partition(b":")
    return Mapping(
        access="",
        dev=f"{int(major, 16)}:{int(minor, 16)}",
        ino=int(ino),
        path=encode(path.replace(rb"\012", b"\n")),
    )


def _with_addresses(files: list[OpenFile], source: Source) -> list[OpenFile]:
    """Give files, those that are sockets with the paths that they are bound to."""
    if not any(file.shown.startswith("socket:[") for file in files):
        return files
    bound = source.bound()
    return [_with_address(file, bound.get(_socket(file.shown))) for file in files]


def _with_address(file: OpenFile, path: KPath | None) -> OpenFile:
    return msgspec.structs.replace(file, bound=path) if path else file


def _socket(shown: KPath) -> int:
    """Give the inode number of a socket, -1 for what is none."""
    number = shown.removeprefix("socket:[").removesuffix("]")
    return int(number) if number.isdecimal() else -1


def task_files(source: Source) -> tuple[tuple[OpenFile, ...], tuple[Unseen, ...]]:
    """
    Give the files of a task, and what was not allowed to be seen.

    Never raises for missing permission; FileNotFoundError or ProcessLookupError when the task
    has ended.
    """
    observer = _Observer(source)
    files: list[OpenFile] = []
    unseen: list[Unseen] = []
    for kind in (FileKind.CWD, FileKind.ROOT, FileKind.EXE):
        try:
            files.append(observer.link(kind))
        except PermissionError as error:
            unseen.append(_unseen(source, f"/{kind}", error))
        except FileNotFoundError:
            if not source.is_there():
                raise
            # a kernel thread or a zombie has no executable
    for what, collect in (("fd", observer.descriptors), ("maps", observer.mappings)):
        try:
            files.extend(collect())
        except PermissionError as error:
            unseen.append(_unseen(source, f"/{what}", error))
    try:
        files = _with_addresses(files, source)
    except OSError as error:
        unseen.append(_unseen(source, NET_UNIX, error))
    return tuple(files), tuple(unseen)


def _unseen(source: Source, what: str, error: OSError) -> Unseen:
    return Unseen(what=f"/proc/{source.pid}{what}", why=str(error.strerror))
