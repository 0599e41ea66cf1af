# SPDX-License-Identifier: Apache-2.0
"""Predicates about tasks and their namespaces, and about mounts whose content only tasks know."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mountcr.model import FileKind, MountId, Severity
from mountcr.rules import Found, conditions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.graph import MountGraph
    from mountcr.model import Mount, OpenFile, Task
    from mountcr.rules import Context

__all__ = ["PREDICATES"]


def _problem(context: Context) -> Iterator[Found]:
    """R14: what `criu check` said; on a host without any CRIU a plan may be for another one."""
    host = context.target.host if context.target else context.facts.host
    if host.criu and host.criu.problem:
        severity = None if host.criu.command else Severity.NOTE
        yield Found("criu", host.criu.problem, severity=severity)


# --- Namespaces -----------------------------------------------------------------------------------

_SINGLE: Final = ("user", "pid", "ipc", "uts", "cgroup", "time")
"""Kinds of which CRIU dumps one namespace, the root task's: not of `CLONE_SUBNS`."""


def _another_root(context: Context) -> Iterator[Found]:
    """T3."""
    directory = None if context.facts.shares_mounts else conditions.chroot_of(context.facts)
    if directory:
        yield Found(directory, "the root directory of the root task")


def _nested(context: Context) -> Iterator[Found]:
    """T4: a task may also be in the namespace that CRIU itself is in, at this check at least."""
    tasks = context.facts.tasks
    for task in tasks[1:]:
        for kind in _SINGLE:
            found = task.namespaces.get(kind)
            known = {tasks[0].namespaces.get(kind), context.facts.host.namespaces.get(kind)}
            if found and found not in known and tasks[0].namespaces.get(kind):
                yield Found(f"{kind}:[{found}]", f"pid {task.pid}")


def _no_mount_ids(context: Context) -> Iterator[Found]:
    """T5: fdinfo tells the mount of a descriptor since Linux 3.15."""
    if len(context.facts.namespaces) < len({"root", "nested"}):
        return
    held = [file for task in context.facts.tasks for file in task.files]
    descriptors = [file for file in held if file.kind is FileKind.FD]
    if descriptors and all(file.mnt_id < 0 for file in descriptors):
        yield Found("fdinfo", f"{len(context.facts.namespaces)} mount namespaces")


def _foreign_owner(context: Context) -> Iterator[Found]:
    """T6: CRIU enters these from the user namespace of the root task (`check_user_ns()`)."""
    if not context.facts.tasks:
        return
    root: Task = context.facts.tasks[0]
    user = root.namespaces.get("user")
    for kind in ("net", "uts", "time", "ipc", "mnt"):
        inside = root.namespaces.get(kind)
        owner = root.owners.get(kind)
        if owner and owner != user and inside != context.facts.host.namespaces.get(kind):
            yield Found(f"{kind}:[{inside}]", f"owned by user:[{owner}], not user:[{user}]")


# --- Content --------------------------------------------------------------------------------------


def _not_empty(context: Context) -> Iterator[Found]:
    """C2."""
    if context.graph is None:
        return
    for _, mount in context.graph.of_type("mqueue", "pstore"):
        if mount.entries and not context.coverage.holds(mount):
            yield Found(mount.mountpoint, f"{mount.fstype} with {mount.entries} entries")


_NUMBER: Final = re.compile(r"/([0-9]{1,10})")


def _terminals(graph: MountGraph) -> Iterator[tuple[Mount, int]]:
    """Give the binds of single pseudoterminals, with their numbers."""
    for _, mount in graph.of_type("devpts"):
        match = _NUMBER.fullmatch(mount.root)
        if match:
            yield mount, int(match[1])


def _masters(context: Context) -> dict[int, list[OpenFile]]:
    found: dict[int, list[OpenFile]] = {}
    for task in context.facts.tasks:
        for file in task.files:
            if file.tty_index >= 0:
                found.setdefault(file.tty_index, []).append(file)
    return found


def _no_master(context: Context) -> Iterator[Found]:
    """C4: a bind of a terminal whose other side no task holds."""
    if context.graph is None:
        return
    masters = _masters(context)
    for mount, number in _terminals(context.graph):
        if not context.coverage.holds(mount) and number not in masters:
            yield Found(mount.mountpoint, f"pseudoterminal {number}")


def _nested_master(context: Context) -> Iterator[Found]:
    """C5: its master was opened by way of a nested mount namespace."""
    if context.graph is None:
        return
    masters = _masters(context)
    ours = context.graph.tree.by_id
    for mount, number in _terminals(context.graph):
        held = masters.get(number, [])
        nested = held and not any(MountId(file.mnt_id) in ours for file in held)
        if nested and not context.coverage.holds(mount):
            yield Found(mount.mountpoint, f"pseudoterminal {number}")


PREDICATES: Final = {
    "R14": _problem,
    "T3": _another_root,
    "T4": _nested,
    "T5": _no_mount_ids,
    "T6": _foreign_owner,
    "C2": _not_empty,
    "C4": _no_master,
    "C5": _nested_master,
}
