# SPDX-License-Identifier: Apache-2.0
"""
Descriptors that lead out of the container: pipes of a runtime, files and terminals of the host.

CRIU takes them from us at restore (`--inherit-fd`). Keys are its own: `pipe:[INO]`, and, with
numbers in hexadecimal, `file[MNT_ID:INO]` and `tty[RDEV:DEV]` (criu/files-reg.c, criu/tty.c).
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.devices import major_of, number_of_stat
from mountcr.model import FileKind, InodeType
from mountcr.planning.records import Inherited
from mountcr.planning.remaps import KERNEL_ONLY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountcr.model import Facts, OpenFile, Task
    from mountcr.planning.misreported import Misreported

__all__ = [
    "STANDARD_STREAMS",
    "external_file_keys",
    "file_key",
    "inherited",
    "is_terminal",
    "lonely_pipes",
]

STANDARD_STREAMS: Final = range(3)

_PTY_MAJORS: Final = range(136, 144)
_TTY_MAJORS: Final = frozenset({4, 5, *_PTY_MAJORS})


def inherited(facts: Facts, known: Iterable[Misreported] = ()) -> tuple[Inherited, ...]:
    """
    Give each descriptor that leads out of the container and can be given back, one per file.

    Of pipes that is only a standard stream: nobody knows what stood at the end of another one.
    `known` are files that do not lead out although they look so: of these only what has to be
    opened in a layer is given back, mapped files too.
    """
    lonely = lonely_pipes(facts)
    mount_ids = {int(mount.id) for namespace in facts.namespaces for mount in namespace.mounts}
    known = tuple(known)
    ordinary = {key for each in known if each.ordinary for key in each.keys}
    found = {each.key: each for each in _of_layers(known)}
    for task, file in _descriptors(facts):
        each = _pipe(task, file, lonely) or _outside(task, file, mount_ids)
        if each and each.key not in ordinary:
            found.setdefault(each.key, each)
    return tuple(_numbered(found.values()))


def _of_layers(known: Iterable[Misreported]) -> Iterator[Inherited]:
    """Give the files that are opened in their layer, because no path leads to their content."""
    for each in known:
        stat = each.file.stat
        if each.ordinary or each.source is None or stat is None:
            continue
        for key in each.keys:
            yield Inherited(
                number=max(each.file.fd, 0),
                fd=each.file.fd,
                pid=each.pid,
                key=key,
                type=stat.type,
                shown=each.file.shown,
                flags=each.file.flags,
                position=max(each.file.position, 0),
                source=each.source,
                because=f"{each.found.path} is {each.found.state}; {each.found.evidence[-1]}",
            )


def _numbered(descriptors: Iterable[Inherited]) -> Iterator[Inherited]:
    """Give each a number of its own, because two tasks may have two files by one number."""
    taken: set[int] = set()
    for each in descriptors:
        free = next(number for number in itertools.count(each.number) if number not in taken)
        taken.add(free)
        yield msgspec.structs.replace(each, number=free)


def external_file_keys(descriptors: tuple[Inherited, ...]) -> tuple[str, ...]:
    """Give those that CRIU must be told of at dump; pipes it finds by itself."""
    return tuple(each.key for each in descriptors if not each.key.startswith("pipe:"))


def _descriptors(facts: Facts) -> Iterator[tuple[Task, OpenFile]]:
    for task in facts.tasks:
        for file in task.files:
            if file.kind is FileKind.FD:
                yield task, file


def lonely_pipes(facts: Facts) -> frozenset[str]:
    """Give the pipes of which the container holds one end only."""
    ends: dict[str, set[bool]] = {}
    for _, file in _descriptors(facts):
        if file.shown.startswith("pipe:["):
            access = file.flags & os.O_ACCMODE
            held = {False, True} if access == os.O_RDWR else {access == os.O_WRONLY}
            ends.setdefault(file.shown, set()).update(held)
    return frozenset(pipe for pipe, held in ends.items() if len(held) == 1)


def _pipe(task: Task, file: OpenFile, lonely: frozenset[str]) -> Inherited | None:
    if file.shown not in lonely or file.fd not in STANDARD_STREAMS:
        return None
    end = "reads" if file.flags & os.O_ACCMODE == os.O_RDONLY else "writes"
    because = f"the container only {end} this pipe, the other end is outside"
    return Inherited(
        number=file.fd,
        fd=file.fd,
        pid=task.pid,
        key=file.shown,
        type=InodeType.FIFO,
        shown=file.shown,
        flags=file.flags,
        because=because,
    )


def _outside(task: Task, file: OpenFile, mount_ids: set[int]) -> Inherited | None:
    """Recognise a file on a mount that is in no table of the container."""
    if file.mnt_id in mount_ids or file.mnt_id < 0 or file.stat is None:
        return None
    if not file.shown.startswith("/") or file.shown.startswith(KERNEL_ONLY):
        return None
    if file.stat.nlink == 0 or (file.not_on_host and not is_terminal(file)):
        return None  # nobody could open it again
    return Inherited(
        number=file.fd,
        fd=file.fd,
        pid=task.pid,
        key=file_key(file),
        type=file.stat.type,
        shown=file.shown,
        flags=file.flags,
        position=max(file.position, 0),
        because=f"mount {file.mnt_id} of {file.shown} is not in the container",
    )


def is_terminal(file: OpenFile) -> bool:
    """Tell whether a file is a terminal, which CRIU dumps as such."""
    stat = file.stat
    character = stat is not None and stat.type is InodeType.CHARACTER
    return bool(stat and character and major_of(stat.rdev) in _TTY_MAJORS)


def file_key(file: OpenFile) -> str:
    """Give what CRIU calls a file that it is told is external."""
    stat = file.stat
    if stat and is_terminal(file):
        return f"tty[{number_of_stat(stat.rdev):x}:{number_of_stat(stat.dev):x}]"
    return f"file[{file.mnt_id:x}:{stat.ino if stat else 0:x}]"
