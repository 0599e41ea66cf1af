# SPDX-License-Identifier: Apache-2.0
"""
FUSE servers: the processes that answer for a FUSE file system, found and ended.

A server has /dev/fuse open. Since Linux 6.16 fdinfo tells the number of its connection, which is
the minor number of the device of the mount (fs/fuse/dev.c, `fuse_dev_show_fdinfo()`). What mountcr
starts mounts below `SERVERS`, in a mount namespace of its own, under a random name that is the
last word of its command line; beside it lies a symbolic link to the device number.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr import paths, procstat
from mountcr.kernel.namespaces import mount_namespaces
from mountcr.paths import KPath, decode, encode

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = [
    "SERVERS",
    "Server",
    "all_servers",
    "end",
    "find_servers",
    "is_attached",
    "stale_servers",
    "wait",
]

SERVERS: Final = KPath("/run/mountcr/servers")
"""Where servers mount at first, each in its own mount namespace: on the host it stays empty."""

_FUSE: Final = "/dev/fuse"


class Server(NamedTuple):
    """
    A FUSE server: its pid, when it started, in clock ticks since boot, and its command line.

    `dev` is `major:minor` of its superblock, empty where nothing tells.
    """

    pid: int
    start_time: int
    dev: str
    words: tuple[KPath, ...]

    @property
    def mountpoint(self) -> KPath:
        """The last word of the command line, where it made its mount."""
        return self.words[-1] if self.words else KPath("")

    @property
    def token(self) -> str:
        """The random name of a server that mountcr started; empty for one of somebody else."""
        if self.mountpoint != SERVERS and paths.is_beneath(self.mountpoint, SERVERS):
            return paths.relative_to(self.mountpoint, SERVERS)
        return ""


def all_servers() -> list[Server]:
    """Give every process that has /dev/fuse open, as far as this one may look."""
    found: list[Server] = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            descriptors = _descriptors(pid)
            if descriptors:
                found.append(_server(pid, _connection(pid, descriptors)))
    return found


def find_servers(token: str | None = None) -> list[Server]:
    """Give the servers that mountcr started as this user; those that just start are among them."""
    found: list[Server] = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            server = _server(pid, "")
            if not server.token or token not in {None, server.token}:
                continue
            if os.stat(f"/proc/{pid}").st_uid == os.geteuid():
                found.append(server._replace(dev=_connection(pid, _descriptors(pid))))
    return found


def is_attached(server: Server) -> bool:
    """
    Tell whether the superblock of a server is mounted for somebody, in any mount namespace.

    Where it only is mounted where it mounted itself, mountcr is starting it, or was killed then.
    """
    wanted = (b" %s " % server.dev.encode(), b" %s " % decode(server.mountpoint))
    return bool(server.dev) and any(
        wanted[0] in line and wanted[1] not in line
        for namespace in mount_namespaces()
        for line in namespace.table.splitlines()
    )


def stale_servers(seconds: float = 60.0) -> list[Server]:
    """
    Give the servers that mountcr started and that serve nobody, after they have run some seconds.

    There is one only where both mountcr and the guard of the server were killed, because a server
    ends with its last mount. A younger one may be just about to be attached.
    """
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    ticks = os.sysconf("SC_CLK_TCK")
    return [
        server
        for server in find_servers()
        if now - server.start_time / ticks >= seconds and not is_attached(server)
    ]


def wait(server: Server, seconds: float) -> bool:
    """Wait until a server has ended; tell whether it has."""
    with contextlib.suppress(ProcessLookupError), _opened(server) as fd:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(int(seconds * 1000)))
    return True


def end(server: Server, seconds: float = 5.0) -> bool:
    """
    Kill a server, unless its pid is another process by now, and wait; tell whether it ended.

    Needs pidfd_open(2), Linux 5.3. Who still uses its mount gets ENOTCONN.
    """
    with contextlib.suppress(ProcessLookupError), _opened(server) as fd:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    return wait(server, seconds)


@contextlib.contextmanager
def _opened(server: Server) -> Generator[int]:
    """Give a descriptor of the process. Raises ProcessLookupError when it has ended."""
    fd = os.pidfd_open(server.pid)
    try:
        status = procstat.read_stat(server.pid)
        if status.start_time != server.start_time or status.ended:
            raise ProcessLookupError
        yield fd
    finally:
        os.close(fd)


def _pids() -> Iterator[int]:
    return map(int, filter(str.isdigit, os.listdir("/proc")))


def _server(pid: int, dev: str) -> Server:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().split(b"\0")[:-1]
    return Server(pid, procstat.read_stat(pid).start_time, dev, tuple(map(encode, words)))


def _descriptors(pid: int) -> list[str]:
    """Give the descriptors of a process that are the FUSE device."""
    found: list[str] = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == _FUSE:
                found.append(fd)
    return found


def _connection(pid: int, descriptors: list[str]) -> str:
    """Give the device of the superblock, the first, that a process serves; empty if not told."""
    for fd in descriptors:
        for line in _lines(f"/proc/{pid}/fdinfo/{fd}"):
            key, _, value = line.partition(":")
            if key == "fuse_connection":
                return f"0:{int(value)}"
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/root{_note(_server(pid, ''))}")
    return ""


def _lines(path: str) -> list[str]:
    """Read a file; no lines where it is gone."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _note(server: Server) -> str:
    """Give where the device number of a server of mountcr is written, in its mount namespace."""
    return f"{server.mountpoint}.dev" if server.token else "/nothing"
