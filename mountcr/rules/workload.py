# SPDX-License-Identifier: Apache-2.0
"""
Predicates about what tasks use of the kernel, against what kernel and CRIU can do.

What CRIU refuses of a task, other than its files by their paths, is found here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mountcr.model import FileKind, InodeType, Severity
from mountcr.rules import Found
from mountcr.rules.versions import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mountcr.model import Host, OpenFile, Task
    from mountcr.paths import KPath
    from mountcr.rules import Context

__all__ = ["PREDICATES"]


def _who(tasks: Iterable[Task]) -> str:
    """Name tasks by their pids, the first of many."""
    pids = [str(task.pid) for task in tasks]
    return f"pid {pids[0]}" + (f" and {len(pids) - 1} more" if pids[1:] else "")


def _tasks(where: str, uses: Callable[[Task], object]) -> Callable[[Context], Iterator[Found]]:
    """Make a predicate that finds once what some tasks use."""

    def predicate(context: Context) -> Iterator[Found]:
        found = [task for task in context.facts.tasks if uses(task)]
        if found:
            yield Found(where, _who(found))

    return predicate


def _has(host: Host, feature: str) -> bool | None:
    """Tell whether a host has something; None where nobody looked."""
    return host.capabilities.features.get(feature) if host.capabilities else None


# --- Memory ---------------------------------------------------------------------------------------

_AIO: Final = "/[aio]"
_SHARED: Final = re.compile(r"/SYSV[0-9a-f]{8}")
_NO_FILE: Final = ("anon_inode:", "/secretmem")
"""What CRIU can neither open through map_files nor make again (criu/proc_parse.c)."""


def _maps(task: Task) -> Iterator[OpenFile]:
    return (file for file in task.files if file.kind is FileKind.MAP)


def _unmappable(context: Context) -> Iterator[Found]:
    """W2."""
    found: dict[KPath, list[Task]] = {}
    for task in context.facts.tasks:
        for name in {file.shown for file in _maps(task) if file.shown.startswith(_NO_FILE)}:
            found.setdefault(name, []).append(task)
    for name, tasks in found.items():
        yield Found(name, f"mapped by {_who(tasks)}")


def _shared_memory(context: Context) -> Iterator[Found]:
    """W3: CRIU makes what is in an IPC namespace again, and has to have one of its own."""
    ours = context.facts.host.namespaces.get("ipc")
    for task in context.facts.tasks:
        if ours and task.namespaces.get("ipc") == ours:
            for file in _maps(task):
                if _SHARED.match(file.shown):
                    yield Found(file.shown, f"mapped by pid {task.pid}")


def _huge(context: Context) -> int:
    """
    Give the bytes of huge pages that a container has mapped, at least.

    What several tasks have mapped may be the same pages.
    """
    return max((task.huge for task in context.facts.tasks), default=0)


def _no_huge_page(context: Context) -> Iterator[Found]:
    """
    W5: CRIU maps a huge page when it starts, to know them by their device.

    With what it found in its cache it need not, unless that was none.
    """
    host = context.facts.host
    if _huge(context) and host.huge == 0:
        cached = _has(host, "criu cache")
        severity = Severity.NOTE if cached else None
        detail = f"{_huge(context)} bytes are mapped, none are free"
        yield Found("hugetlb", detail, severity=severity)


def _few_huge_pages(context: Context) -> Iterator[Found]:
    """W11."""
    free = context.target.host.huge if context.target else -1
    if 0 <= free < _huge(context):
        yield Found("hugetlb", f"{_huge(context)} bytes were mapped, {free} are free")


def _has_ring(task: Task) -> bool:
    """Tell whether a task has a ring of asynchronous I/O, io_setup(2), which is mapped."""
    return any(file.shown.startswith(_AIO) for file in _maps(task))


# --- Descriptors ----------------------------------------------------------------------------------

_ANONYMOUS: Final = "anon_inode:"
_KNOWN: Final = frozenset({"eventfd", "eventpoll", "inotify", "fanotify", "signalfd", "timerfd"})
_PIDFD: Final = "4.1"
"""The release of CRIU that dumps descriptors of processes."""
_MISC: Final = "10:"
_TUN: Final = "10:200"
_AUTOFS: Final = "10:235"


def _unknown(context: Context) -> Iterator[Found]:
    """
    W6: what CRIU has no word for (criu/files.c, `dump_one_file()`).

    Devices of drivers with a major number of their own may have a plug-in. Maps of BPF are known
    to a CRIU that was built with libbpf.
    """
    seen: set[str] = set()
    criu = context.facts.host.criu
    pidfds = within(criu.version if criu else "", _PIDFD, "")
    for task in context.facts.tasks:
        for file in task.files:
            name = _unknown_name(file, pidfds=pidfds) if file.kind is FileKind.FD else ""
            if name and name not in seen:
                seen.add(name)
                severity = Severity.NOTE if name == "bpf-map" else None
                where = file.shown if name != file.shown else name
                yield Found(where, f"descriptor {file.fd} of pid {task.pid}", severity=severity)


def _unknown_name(file: OpenFile, *, pidfds: bool) -> str:
    """Give what CRIU does not know of a descriptor; empty if it does."""
    if file.pidfd is not None:
        return "" if pidfds else "pidfd"
    if file.shown.startswith(_ANONYMOUS):
        name = file.shown.removeprefix(_ANONYMOUS).strip("[]")
        return "" if name in _KNOWN else name
    stat = file.stat
    if stat is None or stat.type is not InodeType.CHARACTER or not stat.rdev.startswith(_MISC):
        return ""
    return "" if stat.rdev in {_TUN, _AUTOFS} else file.shown


def _foreign_process(context: Context) -> Iterator[Found]:
    """W7: a descriptor of a process that is not dumped; one that was reaped is no matter."""
    pids = {task.pid for task in context.facts.tasks}
    for task in context.facts.tasks:
        for file in task.files:
            if file.pidfd is not None and file.pidfd >= 0 and file.pidfd not in pids:
                yield Found(f"pidfd of {file.pidfd}", f"descriptor {file.fd} of pid {task.pid}")


# --- The kernel -----------------------------------------------------------------------------------

_FILTERS: Final = 2
"""SECCOMP_MODE_FILTER."""


def _has_filters(task: Task) -> bool:
    """W4."""
    return task.seccomp == _FILTERS


def _registered(context: Context) -> Iterator[Found]:
    """W8: of the threads of glibc, where a tracer is not told."""
    if not _has(context.facts.host, "get_rseq_conf"):
        yield from _tasks("rseq", lambda task: task.rseq)(context)


def _no_time_namespaces(context: Context) -> Iterator[Found]:
    """W10: a kernel with time namespaces shows one of every task."""
    if context.target is None or not context.facts.tasks:
        return
    inside = context.facts.tasks[0].namespaces.get("time")
    outside = context.facts.host.namespaces.get("time")
    there = context.target.host.namespaces
    if inside and inside != outside and there and "time" not in there:
        yield Found(f"time:[{inside}]", f"pid {context.facts.tasks[0].pid}")


def _no_vsyscall(context: Context) -> Iterator[Found]:
    """W13."""
    if context.target is None:
        return
    if _has(context.facts.host, "vsyscall") and _has(context.target.host, "vsyscall") is False:
        yield Found("vsyscall", "the page was there, and is not on this host")


PREDICATES: Final = {
    "W1": _tasks("ptrace", lambda task: task.tracer),
    "W2": _unmappable,
    "W3": _shared_memory,
    "W4": _tasks("seccomp", _has_filters),
    "W5": _no_huge_page,
    "W6": _unknown,
    "W7": _foreign_process,
    "W8": _registered,
    "W9": _tasks("madvise", lambda task: task.guarded),
    "W10": _no_time_namespaces,
    "W11": _few_huge_pages,
    "W12": _tasks("aio", _has_ring),
    "W13": _no_vsyscall,
}
