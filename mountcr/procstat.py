# SPDX-License-Identifier: Apache-2.0
"""
Process status: `/proc/<pid>/stat` and the few lines of `/proc/<pid>/status` that name a process.

The `parse_` functions are pure; the `read_` functions open one file each and decide nothing.
Both files may be read without the permission that namespace links ask for.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Final, NamedTuple

__all__ = [
    "PF_KTHREAD",
    "ProcessStat",
    "ProcessStatus",
    "is_same_process",
    "parse_stat",
    "parse_status",
    "printable",
    "read_stat",
    "read_status",
]

_PF_EXITING: Final = 0x00000004
_KILL: Final = 1 << (signal.SIGKILL - 1)

PF_KTHREAD: Final = 0x00200000
"""The bit of `ProcessStat.flags` that kernel threads have (include/linux/sched.h)."""

# Fields of proc_pid_stat(5) that follow the command, which is field 2.
_STATE: Final = 0
_PARENT: Final = 1
_SESSION: Final = 3
_FLAGS: Final = 6
_START_TIME: Final = 19


class ProcessStat(NamedTuple):
    """
    What `/proc/<pid>/stat` says, see proc_pid_stat(5).

    `command` is at most 15 bytes, spelled by `printable`. `state` is one letter. `start_time` is
    in clock ticks since boot: together with the pid it names a process until the next boot.
    """

    pid: int
    command: str
    state: str
    parent: int
    session: int
    flags: int
    start_time: int

    @property
    def ended(self) -> bool:
        """Whether nothing is left of the process but its exit status."""
        return self.state in {"Z", "X", "x"}

    @property
    def exiting(self) -> bool:
        """Whether the process gives back what it has (include/linux/sched.h, PF_EXITING)."""
        return self.ended or bool(self.flags & _PF_EXITING)

    @property
    def kernel_thread(self) -> bool:
        """Whether the process is one of the kernel's own."""
        return bool(self.flags & PF_KTHREAD)


class ProcessStatus(NamedTuple):
    """
    What `/proc/<pid>/status` says, see proc_pid_status(5).

    `thread_group` is the pid of the process that a thread belongs to. `inner_pids` are the pids of
    the process in the nested pid namespaces it is in, outermost first; the first belongs to the
    namespace of the /proc that was read. One number where the kernel tells none (before Linux 4.1).
    `tracer` is the pid of who traces it, 0 if nobody does. `seccomp` is the mode: 1 is strict, 2
    that of filters. `huge` are the bytes of huge pages that it has mapped (Linux 4.4). `killed`
    tells that SIGKILL waits for it.
    """

    thread_group: int
    inner_pids: tuple[int, ...]
    tracer: int = 0
    seccomp: int = 0
    huge: int = 0
    killed: bool = False

    @property
    def namespaced(self) -> bool:
        """Whether the process is in a pid namespace below the one of the /proc that was read."""
        return len(self.inner_pids) > 1


def printable(raw: bytes) -> str:
    r"""
    Spell bytes that somebody else chose, so that they go into one line and onto a terminal.

    Bytes that are not UTF-8 and characters that do not print become escapes as in Python.

    >>> printable(b"sh\n\xff")
    'sh\\n\\xff'
    """
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def parse_stat(line: bytes) -> ProcessStat:
    r"""
    Take one line of `/proc/<pid>/stat` apart.

    The command may hold spaces, newlines and parentheses, and no kernel escapes them here; only
    numbers follow it, so that the last parenthesis ends it. Raises ValueError for another line.

    >>> parse_stat(b"7 (a) R 1) S 1 7 7 0 -1 64 0 0 0 0 0 0 0 0 20 0 1 0 4711 0\n").start_time
    4711
    """
    start, end = line.find(b"("), line.rfind(b")")
    rest = line[end + 1 :].split()
    if start < 0 or end < start or len(rest) <= _START_TIME:
        msg = f"not a line of /proc/<pid>/stat: {line[:80]!r}"
        raise ValueError(msg)
    return ProcessStat(
        pid=int(line[:start]),
        command=printable(line[start + 1 : end]),
        state=rest[_STATE].decode("ascii"),
        parent=int(rest[_PARENT]),
        session=int(rest[_SESSION]),
        flags=int(rest[_FLAGS]),
        start_time=int(rest[_START_TIME]),
    )


def parse_status(text: bytes) -> ProcessStatus:
    """
    Take the lines that name a process, and what it uses, out of `/proc/<pid>/status`.

    Raises ValueError if Tgid is missing, and ProcessLookupError if it is 0: the process was let go
    of while the kernel wrote this (`task_state()` in fs/proc/array.c).

    The kernel escapes newlines in the Name line, so that no process can forge a line.
    """
    lines = (line.partition(b":") for line in text.splitlines())
    found = {key: value for key, _, value in lines}
    if b"Tgid" not in found:
        msg = f"not a /proc/<pid>/status: {text[:80]!r}"
        raise ValueError(msg)
    group = int(found[b"Tgid"])
    if not group:
        raise _gone(int(found.get(b"Pid", 0)))
    inner = found.get(b"NSpid") or found.get(b"Pid", b"")
    huge = found.get(b"HugetlbPages", b"0 kB").split()
    return ProcessStatus(
        thread_group=group,
        inner_pids=tuple(map(int, inner.split())),
        tracer=int(found.get(b"TracerPid", 0)),
        seccomp=int(found.get(b"Seccomp", 0)),
        huge=int(huge[0]) << 10,
        killed=any(int(found.get(each, b"0"), 16) & _KILL for each in (b"SigPnd", b"ShdPnd")),
    )


def read_stat(pid: int, proc: str = "/proc") -> ProcessStat:
    """Read `/proc/<pid>/stat`. Raises ProcessLookupError when there is no such process."""
    return parse_stat(_read(pid, f"{proc}/{pid}/stat"))


def read_status(pid: int, proc: str = "/proc") -> ProcessStatus:
    """Read `/proc/<pid>/status`. Raises ProcessLookupError when there is no such process."""
    return parse_status(_read(pid, f"{proc}/{pid}/status"))


def _read(pid: int, path: str) -> bytes:
    """Read a file of a process; the process may end before it is opened, or after."""
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read()
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        content = b""
    if not content:
        raise _gone(pid)
    return content


def _gone(pid: int) -> ProcessLookupError:
    return ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(pid))


def is_same_process(pid: int, start_time: int) -> bool:
    """
    Tell whether a process still runs that started then, in clock ticks since boot.

    A start time of 0 is not compared. Raises PermissionError where /proc hides it.
    """
    try:
        found = read_stat(pid)
    except ProcessLookupError:
        return False
    return not found.ended and start_time in {0, found.start_time}
