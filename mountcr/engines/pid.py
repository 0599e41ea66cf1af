# SPDX-License-Identifier: Apache-2.0
"""
Processes as containers: any pid, with or without an engine that knows it.

The path of a control group has the id that an engine gave to the container, so a process can be
found by that too, where no record of the engine is.

Everything comes from /proc and nothing is remembered: a process that has ended, or whose pid
another process has by now, is found out by its start time.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from mountcr.errors import GoneError, MountcrError, NotFoundError, PrivilegeError, UsageError
from mountcr.model import Container
from mountcr.paths import encode
from mountcr.procstat import ProcessStat, ProcessStatus, read_stat, read_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.container import Damage
    from mountcr.engines.roots import Roots

__all__ = ["PID_MAX", "Pid", "ensure_running", "is_pid", "of_group", "read"]

PID_MAX: Final = 1 << 22
"""No pid is larger: PID_MAX_LIMIT of 64-bit kernels (include/linux/threads.h)."""

_OUTSIDE: Final = "give a process inside the container; `mountcr ls` lists what is known here"

_HIDDEN: Final = "/proc is mounted with hidepid; run as root"


class Pid:
    """Processes are found by their number in the pid namespace of this /proc."""

    name: ClassVar[str] = "pid"

    def containers(self, roots: Roots) -> Iterator[Container]:  # noqa: ARG002 -- the Protocol's
        """Give nothing: not every process is a container."""
        return iter(())

    def describe(self, container: Container, roots: Roots) -> Container:  # noqa: ARG002
        """Add the control group, whose path often has the id that an engine knows it by."""
        return _with_group(container)

    def damages(self) -> Sequence[Damage]:
        """Give nothing: what is damaged is a container's."""
        return ()

    def lookup(self, reference: str, roots: Roots) -> Sequence[Container] | None:  # noqa: ARG002
        """
        Take a number of decimal digits; None for any other reference.

        Raises what `read` raises.
        """
        return (read(int(reference)),) if is_pid(reference) else None


def of_group(beginning: str) -> list[Container]:
    """
    Find the containers of control groups whose path has an id that begins like this.

    Of each, its first process that is the init of a pid namespace, or else the first of all.
    """
    from mountcr.engines.cgroup import members  # its patterns take their time

    found: dict[str, list[int]] = {}
    for pid, member in members(beginning):
        found.setdefault(member.id, []).append(pid)
    containers: list[Container] = []
    for pids in found.values():
        for pid in sorted(pids):
            with contextlib.suppress(MountcrError):
                containers.append(_with_group(read(pid)))
                break
    return containers


def is_pid(reference: str) -> bool:
    """
    Tell whether a reference can be a pid.

    >>> is_pid("4711"), is_pid("0815"), is_pid("990011223344"), is_pid("web")
    (True, False, False, False)
    """
    digits = reference.isascii() and reference.isdigit() and not reference.startswith("0")
    return digits and len(reference) <= len(str(PID_MAX)) and int(reference) <= PID_MAX


def read(pid: int) -> Container:
    """
    Describe a process, or the init of the pid namespace that it is in, as a container.

    The namespace is resolved only when it lies below the one of this /proc; where its links may
    not be read, the parents of the process are asked, and the provenance says what was found.

    Raises NotFoundError when there is no such process, GoneError when it is a zombie, UsageError
    for what can be no container (pid 1, a kernel thread, a thread of another process, this process
    and its ancestors), and PrivilegeError where /proc hides it.
    """
    try:
        return _read(pid)
    except ProcessLookupError as error:
        raise NotFoundError(
            f"no process has the pid {pid}",
            hint=f"it has ended, or the number is of another pid namespace; {_OUTSIDE}",
        ) from error
    except PermissionError as error:
        raise PrivilegeError(f"/proc/{pid} may not be read", hint=_HIDDEN) from error


def ensure_running(container: Container) -> None:
    """
    Check that the init process of a container is the one that was found.

    Raises GoneError when the container does not run, its process has ended, or its pid belongs to
    another process by now; PrivilegeError where /proc hides it. A start time of 0, which nobody
    recorded, is not compared.
    """
    label, pid = f"{container.engine}:{container.id}", container.pid
    if not pid:
        raise GoneError(f"{label} does not run", hint="start it first")
    try:
        now = read_stat(pid)
    except ProcessLookupError as error:
        raise GoneError(f"pid {pid} of {label} has ended", hint="look for it again") from error
    except PermissionError as error:
        raise PrivilegeError(f"/proc/{pid} may not be read", hint=_HIDDEN) from error
    if now.ended:
        raise GoneError(f"pid {pid} of {label} has ended", hint="its parent has yet to reap it")
    if container.start_time and now.start_time != container.start_time:
        raise GoneError(
            f"pid {pid} of {label} was reused: started at tick {now.start_time}, "
            f"recorded {container.start_time}",
            hint="the process that was found has ended",
        )


def _read(pid: int) -> Container:
    """Do what `read` says, with the errors of /proc as they come."""
    status = read_status(pid)
    stat = read_stat(pid)
    _refuse(pid, stat, status)
    if not status.namespaced or status.inner_pids[-1] == 1:
        return _describe(stat)
    init = _namespace_init(pid, stat, depth=len(status.inner_pids))
    if init is None:
        return _describe(stat, (f"pid {pid} is inside; its namespace's init is hidden",))
    _refuse(init.pid, init, read_status(init.pid))
    return _describe(init, (f"pid {pid} is inside; its namespace's init is {init.pid}",))


def _refuse(pid: int, stat: ProcessStat, status: ProcessStatus) -> None:
    """Raise for a process that can be no container."""
    if status.thread_group != pid:
        raise UsageError(
            f"{pid} is a thread of process {status.thread_group}",
            hint=f"give pid:{status.thread_group}",
        )
    if stat.ended:
        raise GoneError(f"pid {pid} ({stat.command}) has ended, its parent has yet to reap it")
    if stat.kernel_thread:
        raise UsageError(f"pid {pid} ({stat.command}) is a kernel thread", hint=_OUTSIDE)
    if pid == 1:
        raise UsageError(
            f"pid 1 ({stat.command}) is the init of mountcr's own pid namespace", hint=_OUTSIDE
        )
    if pid in _ourselves():
        who = "mountcr itself" if pid == _own_pid() else "an ancestor of mountcr"
        raise UsageError(
            f"pid {pid} ({stat.command}) is {who}, which would be frozen with it", hint=_OUTSIDE
        )


def _describe(stat: ProcessStat, provenance: tuple[str, ...] = ()) -> Container:
    """Make the record of a process."""
    return Container(
        id=str(stat.pid),
        engine=Pid.name,
        name=stat.command,
        pid=stat.pid,
        start_time=stat.start_time,
        status="running",
        provenance=(*provenance, f"/proc/{stat.pid}/stat: start time"),
    )


def _with_group(container: Container) -> Container:
    """Add the path of the control group of a process, and the id in it."""
    from mountcr.engines.cgroup import member_of  # its patterns take their time

    try:
        path, member = member_of(container.pid)
    except OSError:
        return container
    file = f"/proc/{container.pid}/cgroup"
    told = f"{file}: the path has the id of a container of {member.engine}" if member else file
    return msgspec.structs.replace(
        container,
        names=(member.id,) if member else container.names,
        cgroup=encode(path) if path else None,
        provenance=(*container.provenance, f"cgroup: {told}"),
    )


def _ourselves() -> set[int]:
    """Give this process and its ancestors, by their numbers in this /proc."""
    pids: set[int] = set()
    pid = _own_pid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        try:
            pid = read_stat(pid).parent
        except ProcessLookupError:
            break
    return pids


def _own_pid() -> int:
    """Give our pid in the namespace of this /proc, which need not be that of getpid(2)."""
    return int(os.readlink("/proc/self"))


def _namespace_init(pid: int, stat: ProcessStat, depth: int) -> ProcessStat | None:
    """
    Find the process with inner pid 1 in the pid namespace of `pid`; None if nobody can tell.

    An ancestor that is an init nested as deep is the one, since nobody enters a namespace that is
    not below his own, see setns(2). A process that entered from outside, as `exec` of the runtimes
    does, has no such ancestor: then the namespaces of all processes are compared.
    """
    for candidate in _ancestors(stat):
        init = _as_init(candidate, depth)
        if init:
            return init
    namespace = _pid_namespace(pid)
    if namespace is None:
        return None
    for candidate in _processes():
        init = _as_init(candidate, depth)
        if init and _pid_namespace(candidate) == namespace:
            return init
    return None


def _as_init(pid: int, depth: int) -> ProcessStat | None:
    """Read a process if it has inner pid 1 in a pid namespace nested that deep."""
    try:
        inner = read_status(pid).inner_pids
        return read_stat(pid) if len(inner) == depth and inner[-1] == 1 else None
    except (ProcessLookupError, PermissionError):
        return None


def _pid_namespace(pid: int) -> tuple[int, int] | None:
    """Give device and inode of the pid namespace of a process; None if it may not be read."""
    try:
        found = os.stat(f"/proc/{pid}/ns/pid")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _ancestors(stat: ProcessStat) -> Iterator[int]:
    """Give the ancestors of a process, the nearest first."""
    parent = stat.parent
    while parent > 0:
        yield parent
        try:
            parent = read_stat(parent).parent
        except ProcessLookupError:
            return


def _processes() -> Iterator[int]:
    """Give the pids of all processes that this /proc shows."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)
