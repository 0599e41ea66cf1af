# SPDX-License-Identifier: Apache-2.0
"""A container under another id: its control groups bear that instead of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import paths
from mountcr.criu.rewriting import CgroupMap
from mountcr.paths import KPath
from mountcr.planning.cgroups import own_groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mountcr.model import Facts, Mount, MountNamespace, Task

__all__ = ["groups_of", "rename"]

_CGROUPS: Final = frozenset({"cgroup", "cgroup2"})


def groups_of(facts: Facts, identity: str) -> tuple[CgroupMap, ...]:
    """Give where the control groups of a container go that gets another id; none for its own."""
    old = facts.container.id
    if identity == old or not old or "/" in old:  # no group is called so
        return ()
    moved = {each.path: each.path.replace(old, identity) for each in own_groups(facts)}
    because = f"the container is called {identity} here"
    return tuple(
        CgroupMap(old=path, new=KPath(new), because=because)
        for path, new in sorted(moved.items())
        if path != new
    )


def rename(facts: Facts, identity: str) -> Facts:
    """Give the facts of a container with another id, in the control groups of that."""
    groups = {each.old: each.new for each in groups_of(facts, identity)}
    return msgspec.structs.replace(
        facts,
        container=msgspec.structs.replace(facts.container, id=identity),
        tasks=tuple(_task(each, groups) for each in facts.tasks),
        namespaces=tuple(_namespace(each, groups) for each in facts.namespaces),
    )


def _task(task: Task, groups: Mapping[KPath, KPath]) -> Task:
    members = tuple(
        msgspec.structs.replace(each, path=_moved(each.path, groups)) for each in task.cgroups
    )
    return msgspec.structs.replace(task, cgroups=members) if groups else task


def _namespace(namespace: MountNamespace, groups: Mapping[KPath, KPath]) -> MountNamespace:
    mounts = tuple(_mount(each, groups) for each in namespace.mounts)
    return msgspec.structs.replace(namespace, mounts=mounts) if groups else namespace


def _mount(mount: Mount, groups: Mapping[KPath, KPath]) -> Mount:
    if mount.fstype not in _CGROUPS:
        return mount
    return msgspec.structs.replace(mount, root=_moved(mount.root, groups))


def _moved(path: KPath, groups: Mapping[KPath, KPath]) -> KPath:
    for old, new in groups.items():
        if paths.is_beneath(path, old):
            return paths.rebase(path, old, new)
    return path
