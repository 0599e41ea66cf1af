# SPDX-License-Identifier: Apache-2.0
"""
The mount namespaces of the host, each once, with what is mounted there.

/proc shows those that a process is in. One that is kept by a descriptor, by a bind of its file in
nsfs or by a thread has mounts as well, which are in use: kernel-notes/namespace-without-process.md.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from mountcr.errors import MountcrError
from mountcr.kernel.nsfs import all_mount_namespaces
from mountcr.mountinfo import format_table

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

__all__ = ["Namespace", "mount_namespaces", "own_namespace"]


class Namespace(NamedTuple):
    """
    A mount namespace: its inode number, a process that is in it, and its table as mountinfo has it.

    `pid` is 0 where no process is in it that this one sees.
    """

    id: int
    pid: int
    table: bytes

    @property
    def name(self) -> str:
        """The namespace, for people."""
        where = f"of pid {self.pid}" if self.pid else f"mnt:[{self.id}], which no process is in"
        return f"the mount namespace {where}"


def own_namespace() -> int:
    """Give the inode number of the mount namespace of the calling thread."""
    return _identity("thread-self")


def mount_namespaces(*, but: Container[int] = ()) -> Iterator[Namespace]:
    """
    Give every mount namespace once, those that a process is in first, `but` some.

    Left out is what may not be looked at, and before Linux 6.12 what no process is in.
    """
    seen: set[int] = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            identity = _identity(name)
            if identity in seen or identity in but:
                continue
            with open(f"/proc/{name}/mountinfo", "rb") as file:
                table = file.read()
            seen.add(identity)
            yield Namespace(identity, int(name), table)
    yield from _without_process(seen, but)


def _identity(name: str) -> int:
    return os.stat(f"/proc/{name}/ns/mnt").st_ino


def _without_process(seen: Container[int], but: Container[int]) -> Iterator[Namespace]:
    for fd in all_mount_namespaces():
        identity = os.fstat(fd).st_ino
        if identity not in seen and identity not in but:
            # EPERM, of one that is not ours, and what ends meanwhile
            with contextlib.suppress(OSError, MountcrError):
                yield Namespace(identity, 0, _table(fd))


def _table(fd: int) -> bytes:
    """Read a mount table by statmount(2); where that tells less than mountinfo, inside."""
    from mountcr.kernel.mounttable import read

    try:
        return format_table(read(fd))
    except OSError:
        return _mountinfo(fd)


def _mountinfo(fd: int) -> bytes:
    """Read mountinfo from within a namespace, by a /proc that need not be mounted there."""
    from mountcr.kernel.private import in_namespace

    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def work() -> bytes:
        inside = os.open("thread-self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        with open(inside, "rb") as file:
            return file.read()

    try:
        return in_namespace(fd, work)
    finally:
        os.close(proc)
