# SPDX-License-Identifier: Apache-2.0
"""
The tasks of a container: the root task and its descendants, with namespaces, cgroups and files.

CRIU dumps a process and its children, so a process that merely entered the container's
namespaces (`nsenter`, `exec`) is not among them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

from mountcr import procstat
from mountcr.kernel.pagemap import has_guards
from mountcr.model import CgroupMember, Task, Unseen
from mountcr.observation.files import task_files
from mountcr.observation.source import LiveSource
from mountcr.paths import encode

if TYPE_CHECKING:
    from mountcr.observation.places import Places
    from mountcr.observation.rseq import Programs

__all__ = ["cgroups", "descendants", "namespaces", "owners", "task"]

_NS_GET_USERNS: Final = 0xB701
"""ioctl_ns(2), include/uapi/linux/nsfs.h."""


def _children(pid: int) -> list[int]:
    """Give the children of all threads; needs CONFIG_PROC_CHILDREN, as CRIU does."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found.extend(map(int, file.read().split()))
    return sorted(found)


def descendants(pid: int) -> list[int]:
    """Give the pid and those of everything below it, parents before children."""
    found = [pid]
    for child in _children(pid):
        found.extend(descendants(child))
    return found


def namespaces(pid: int | str) -> dict[str, int]:
    """Give the inode number of each namespace of a task by its kind."""
    found: dict[str, int] = {}
    try:
        kinds = sorted(os.listdir(f"/proc/{pid}/ns"))
    except PermissionError:
        return found
    for kind in kinds:
        with contextlib.suppress(PermissionError, FileNotFoundError):
            link = os.readlink(f"/proc/{pid}/ns/{kind}")
            found[kind] = int(link.partition("[")[2].rstrip("]"))
    return found


def owners(pid: int) -> dict[str, int]:
    """
    Give the inode number of the user namespace that owns each namespace of a task, by kind.

    What may not be asked, because the owner is none of ours, is left out.
    """
    found: dict[str, int] = {}
    for kind in namespaces(pid):
        with contextlib.suppress(OSError):
            fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                owner = fcntl.ioctl(fd, _NS_GET_USERNS)
            finally:
                os.close(fd)
            found[kind] = os.fstat(owner).st_ino
            os.close(owner)
    return found


def cgroups(pid: int | str) -> tuple[CgroupMember, ...]:
    """Read which control group of each hierarchy a task is in."""
    with open(f"/proc/{pid}/cgroup", "rb") as file:
        lines = file.read().splitlines()
    members: list[CgroupMember] = []
    for line in lines:
        hierarchy, controllers, path = line.split(b":", 2)
        members.append(
            CgroupMember(
                hierarchy=int(hierarchy), controllers=controllers.decode(), path=encode(path)
            )
        )
    return tuple(members)


def _is_ours(tracer: int) -> bool:
    """Tell whether a tracer was started by us: CRIU, which asks us while tasks are frozen."""
    while tracer > 1:
        if tracer == os.getpid():
            return True
        try:
            tracer = procstat.read_stat(tracer).parent
        except ProcessLookupError:
            return False
    return False


def task(
    pid: int, places: Places, *, user: int = 0, programs: Programs | None = None
) -> tuple[Task, tuple[Unseen, ...]]:
    """
    Observe one task, and say what was not allowed to be seen of it.

    `user` is the inode number of the observer's user namespace, 0 if it is not known. With
    `programs` it is looked whether its C library registers restartable sequences. Raises
    FileNotFoundError or ProcessLookupError when it has ended.
    """
    stat = procstat.read_stat(pid)
    status = procstat.read_status(pid)
    files, unseen = task_files(LiveSource(pid, places))
    inside = namespaces(pid)
    found = Task(
        pid=pid,
        parent=stat.parent,
        start_time=stat.start_time,
        command=stat.command,
        namespaces=inside,
        owners=owners(pid) if user and inside.get("user", user) != user else {},
        inner_pid=status.inner_pids[-1],
        session=stat.session,
        files=files,
        cgroups=cgroups(pid),
        tracer=0 if _is_ours(status.tracer) else status.tracer,
        seccomp=status.seccomp,
        huge=status.huge,
        rseq=programs is not None and programs.register(pid, files),
        guarded=has_guards(pid),
    )
    return found, unseen
