# SPDX-License-Identifier: Apache-2.0
"""
The mount namespaces of restored tasks, found again by who was in them at the dump.

Neither the number of a namespace nor the pid of a task on the host comes back; the pid that the
container counts does.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final

from mountcr import mountinfo, procstat
from mountcr.model import MountNamespace
from mountcr.observation.tasks import descendants, namespaces

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import Facts

__all__ = ["MISSING", "find_namespaces"]

MISSING: Final = MountNamespace(id=0, pid=0, mounts=())
"""What stands for a namespace that is not there."""


def find_namespaces(
    facts: Facts, pid: int
) -> tuple[tuple[MountNamespace, ...], tuple[MountNamespace, ...]]:
    """
    Read the namespaces of a dump where its tasks are again, and those that were not there.

    The first are in the order of the facts, the root task's first, with `MISSING` for one that no
    task of it is in, or whose tasks share that of an earlier one. The others have tasks below the
    root task that are in none of the first. Raises ProcessLookupError when the root task has ended.
    """
    tasks = _by_inner_pid(pid)
    taken: set[int] = set()
    found: list[MountNamespace] = []
    for number, namespace in enumerate(facts.namespaces):
        inside = [
            each.inner_pid for each in facts.tasks if each.namespaces.get("mnt", 0) == namespace.id
        ]
        members = [tasks[each] for each in inside if each in tasks] if number else [pid]
        restored = _first(members)
        found.append(MISSING if restored.id in taken else restored)
        taken.add(restored.id)
    if not found or found[0] == MISSING:
        raise ProcessLookupError(errno.ESRCH, "the restored root task has ended", str(pid))
    others = {_identity(each): each for each in reversed(tasks.values())}
    return tuple(found), tuple(
        _first([each]) for identity, each in others.items() if identity and identity not in taken
    )


def _by_inner_pid(pid: int) -> dict[int, int]:
    """Give the tasks from a root task down by their pid in the innermost pid namespace."""
    found: dict[int, int] = {}
    for each in descendants(pid):
        with contextlib.suppress(ProcessLookupError):
            found[procstat.read_status(each).inner_pids[-1]] = each
    return found


def _identity(pid: int) -> int:
    """Give the inode number of the mount namespace of a task; 0 of one that has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return namespaces(pid).get("mnt", 0)
    return 0


def _first(pids: Iterable[int]) -> MountNamespace:
    """Read the namespace of the first of some tasks that has not ended."""
    for pid in pids:
        # EINVAL of a zombie, ENOENT and ESRCH of one that is gone
        with contextlib.suppress(OSError):
            return MountNamespace(id=_identity(pid), pid=pid, mounts=mountinfo.read(pid))
    return MISSING
