# SPDX-License-Identifier: Apache-2.0
"""
Control groups: the mode CRIU gets, and the directories that have to be there before it.

CRIU makes the cgroup of the tasks by itself in the modes soft, full and strict, but in version 1
it fails below a cpuset directory that has no processors of its own, and in none and props it
makes no directory at all (criu/cgroup.c, `prepare_cgroup_dirs()`). An engine removes the
directories when the container ends, so they are made first: the parents always, the tasks' own
where CRIU makes none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr import paths
from mountcr.criu.options import CgroupMode
from mountcr.model import CgroupMember
from mountcr.paths import ROOT, KPath
from mountcr.planning.steps import CgroupDirectory, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.graph.tree import MountTree
    from mountcr.model import Facts, Mount
    from mountcr.planning.records import External

__all__ = [
    "cgroup_steps",
    "choose_mode",
    "crun_restores",
    "layout",
    "own_directories",
    "source_of",
    "source_steps",
]

_MAKING: Final = frozenset({CgroupMode.SOFT, CgroupMode.FULL, CgroupMode.STRICT})
"""Modes in which CRIU makes the groups of the tasks, before it mounts anything."""

_NO_CONTROLLERS: Final = frozenset({"rw", "ro", "xattr", "clone_children", "noprefix"})
"""Options of a version 1 hierarchy that name none (kernel/cgroup/cgroup-v1.c)."""


def layout(mounts: Iterable[Mount]) -> str:
    """Name the host's layout: v1, v2, hybrid (both side by side) or none."""
    types = {mount.fstype for mount in mounts}
    match "cgroup" in types, "cgroup2" in types:
        case True, True:
            return "hybrid"
        case True, False:
            return "v1"
        case False, True:
            return "v2"
        case _:
            return "none"


def choose_mode(facts: Facts, wanted: CgroupMode | None) -> tuple[CgroupMode, str]:
    """Give the mode for CRIU's `--manage-cgroups`, and why."""
    kind = layout(facts.host.mounts)
    if wanted is not None:
        return wanted, "asked for"
    if kind == "none":
        return CgroupMode.IGNORE, "no control groups are mounted on this host"
    if not own_groups(facts):
        because = "the container is in the same control groups as this process"
        return CgroupMode.IGNORE, because
    because = f"the container has control groups of its own, on a {kind} layout"
    if not crun_restores(facts.container.engine, CgroupMode.SOFT, kind):
        because += "; `crun restore` takes such images on version 2 only, dump with ignore for it"
    return CgroupMode.SOFT, because


def crun_restores(engine: str, mode: CgroupMode, kind: str) -> bool:
    """
    Tell whether `crun restore` takes images that were dumped with a mode, on a layout.

    It asks CRIU for the mode soft whatever it is told (crun 1.21), and with its own nested groups
    that fails on controllers of version 1 beside a unified hierarchy.
    """
    return engine != "crun" or mode is CgroupMode.IGNORE or kind == "v2"


def own_groups(facts: Facts) -> tuple[CgroupMember, ...]:
    """Give the memberships of the tasks that are not those of the observer, each once."""
    ours = set(facts.host.cgroups)
    theirs = dict.fromkeys(each for task in facts.tasks for each in task.cgroups)
    return tuple(each for each in theirs if each not in ours and each.path != ROOT)


def cgroup_steps(
    facts: Facts, host: MountTree, mode: CgroupMode, *, moved: KPath | None = None
) -> tuple[Step, ...]:
    """
    Give the steps that make the directories which CRIU expects, parents first.

    `moved` is where the group of the root task shall be instead, CRIU's `--cgroup-root`.
    """
    steps: dict[KPath, Step] = {}
    for member in own_groups(facts) if mode is not CgroupMode.IGNORE else ():
        base = _mounted(member, host)
        if base is None:
            continue
        place = _place(facts, member, moved)
        wanted = _ancestors(place)
        if mode not in _MAKING:
            wanted.append(place)
        hierarchy = member.controllers or "the unified hierarchy"
        _make(steps, base, wanted, f"tasks were in {member.path} of {hierarchy}")
    return tuple(steps.values())


def own_directories(
    facts: Facts, host: MountTree, *, moved: KPath | None = None
) -> dict[KPath, KPath]:
    """Give the directories on a host of the tasks' own groups, each with that of its hierarchy."""
    found: dict[KPath, KPath] = {}
    for member in own_groups(facts):
        base = _mounted(member, host)
        if base is not None:
            found[paths.join(base, _place(facts, member, moved))] = base
    return found


def source_steps(
    facts: Facts, host: MountTree, mode: CgroupMode, externals: Iterable[External]
) -> tuple[Step, ...]:
    """
    Make the groups that are mounted in the container, where CRIU is told to make none.

    Engines bind the group of a container into it, and remove it when the container ends.
    """
    if mode is not CgroupMode.IGNORE:
        return ()
    steps: dict[KPath, Step] = {}
    own = own_directories(facts, host)
    for external in externals:
        if external.source is None or external.source not in own:
            continue
        base = own[external.source]
        below = KPath("/" + paths.relative_to(external.source, base))
        _make(steps, base, [*_ancestors(below), below], f"{external.mountpoint} comes from it")
    return tuple(steps.values())


def source_of(mount: Mount, facts: Facts, host: MountTree, moved: KPath | None) -> KPath | None:
    """
    Say where on a host a group is that is mounted in the container; None if nowhere.

    The hierarchy is found by its controllers, as device numbers are others on another host.
    """
    names = set(mount.super_options.split(",")) - _NO_CONTROLLERS
    controllers = "" if mount.fstype == "cgroup2" else ",".join(sorted(names))
    member = CgroupMember(hierarchy=0, controllers=controllers, path=mount.root)
    base = _mounted(member, host)
    return paths.join(base, _place(facts, member, moved)) if base else None


def _make(steps: dict[KPath, Step], base: KPath, groups: Iterable[KPath], because: str) -> None:
    """Add a step for the directory of each group of a hierarchy that has none yet."""
    for group in groups:
        directory = paths.join(base, group)
        steps.setdefault(directory, CgroupDirectory(path=directory, because=because))


def _place(facts: Facts, member: CgroupMember, moved: KPath | None) -> KPath:
    """Give where a group will be: below the new place of the root task's, if it was below it."""
    if moved is None:
        return member.path
    for each in facts.tasks[0].cgroups:
        if each.controllers == member.controllers and paths.is_beneath(member.path, each.path):
            return paths.rebase(member.path, each.path, moved)
    return member.path


def _ancestors(path: KPath) -> list[KPath]:
    """Give the directories above a cgroup, outermost first, without the root."""
    above: list[KPath] = []
    current = paths.parent(path)
    while current != ROOT:
        above.insert(0, current)
        current = paths.parent(current)
    return above


def _mounted(member: CgroupMember, host: MountTree) -> KPath | None:
    """Find where a hierarchy is mounted on the host, whole."""
    wanted = set(member.controllers.split(",")) if member.controllers else set[str]()
    for mount in host.mounts:
        if mount.root != ROOT or host.hidden(mount):
            continue
        if not wanted and mount.fstype == "cgroup2":
            return mount.mountpoint
        if wanted and mount.fstype == "cgroup" and wanted <= set(mount.super_options.split(",")):
            return mount.mountpoint
    return None
