# SPDX-License-Identifier: Apache-2.0
"""
The planner: facts in, plan out. It opens no file and changes nothing.

A restore plans from the same facts, those of the dump, with the host it would take place on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mountcr import paths
from mountcr.criu.options import CriuOptions, Kind, to_argv
from mountcr.graph import MountGraph
from mountcr.graph.tree import MountTree
from mountcr.model import Facts, FileKind, InodeType, Severity
from mountcr.planning.cgroups import cgroup_steps, choose_mode
from mountcr.planning.choices import RESTORE_ROOT, Choices
from mountcr.planning.descriptors import external_file_keys, inherited
from mountcr.planning.externals import choose_externals, external_nodes
from mountcr.planning.records import (
    ContainerSummary,
    CriuPlan,
    External,
    Inherited,
    Plan,
    Reason,
    Rootfs,
    Verdict,
)
from mountcr.planning.rootfs import find_stack, plan_rootfs
from mountcr.planning.steps import Mountpoint, Propagation, Step
from mountcr.rules import Context, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.model import Finding, Stack, Target
    from mountcr.paths import KPath
    from mountcr.planning.files import NamedFile

__all__ = ["make_plan", "needed_mountpoints"]


def make_plan(
    facts: Facts,
    choices: Choices | None = None,
    *,
    target: Target | None = None,
    files: tuple[NamedFile, ...] = (),
    at: KPath = RESTORE_ROOT,
) -> Plan:
    """
    Plan the dump of a container, or, with a `target`, its restore there.

    `files` are those that the images name. `at` is where the root will be assembled.
    """
    choices = choices or Choices()
    graph = MountGraph(facts.namespaces) if facts.namespaces else None
    origin = MountTree(facts.host.mounts)
    host = MountTree(target.host.mounts) if target else origin
    externals = _externals(facts, graph, origin, choices)
    descriptors = inherited(facts)
    root = graph.root if graph else None
    stack = find_stack(facts.container, root, origin)
    rootfs = _rootfs(facts, stack, host, choices, at) if stack else None
    extra = tuple(_restore_steps(facts, graph, host, externals, target, choices, at))
    if rootfs:
        rootfs = msgspec.structs.replace(rootfs, steps=rootfs.steps + extra)
    context = Context(
        facts=facts,
        host=host,
        choices=choices,
        graph=graph,
        stack=stack,
        externals=externals,
        nodes=external_nodes(graph, externals) if graph else frozenset(),
        inherited=descriptors,
        target=target,
        files=files,
        made=frozenset(step.path for step in extra if isinstance(step, Mountpoint)),
    )
    findings = check(context)
    return Plan(
        verdict=_verdict(findings),
        container=ContainerSummary(
            id=facts.container.id,
            engine=facts.container.engine,
            name=facts.container.name,
            pid=facts.container.pid,
        ),
        choices=choices,
        rootfs=rootfs,
        externals=externals,
        inherited=descriptors,
        findings=findings,
        criu=_criu(facts, externals, descriptors, choices, at),
    )


def _verdict(findings: tuple[Finding, ...]) -> Verdict:
    open_ones = {each.severity for each in findings if not each.cured}
    if Severity.REFUSAL in open_ones:
        return Verdict.REFUSED
    return Verdict.LOSSES if Severity.LOSS in open_ones else Verdict.OK


def _externals(
    facts: Facts, graph: MountGraph | None, host: MountTree, choices: Choices
) -> tuple[External, ...]:
    """Choose the externals and put the sources in that the user gave."""
    if graph is None:
        return ()
    own_cgroups = bool(facts.tasks) and facts.tasks[0].namespaces.get(
        "cgroup"
    ) != facts.host.namespaces.get("cgroup")
    found = choose_externals(graph, host, cgroup_namespace=own_cgroups)
    return tuple(
        msgspec.structs.replace(each, source=choices.binds[each.mountpoint])
        if each.mountpoint in choices.binds
        else each
        for each in found
    )


def _rootfs(facts: Facts, stack: Stack, host: MountTree, choices: Choices, at: KPath) -> Rootfs:
    root = MountTree(facts.namespaces[0].mounts).root if facts.namespaces else None
    return plan_rootfs(stack, at, host, choices, container=facts.container.id, root=root)


def needed_mountpoints(
    graph: MountGraph, externals: tuple[External, ...]
) -> Iterator[tuple[External | None, KPath, InodeType]]:
    """
    Give the mountpoints that must exist before CRIU restores the mounts on them.

    Each with the external that its parent mount is, None for the root file system, its path from
    the top of that, and its type. Mounts on others, which CRIU fills itself, need nothing.
    """
    by_mountpoint = {each.mountpoint: each for each in externals}
    for mount in graph.tree.mounts:
        parent = graph.tree.parent(mount)
        if parent is None or mount is graph.root:
            continue
        external = by_mountpoint.get(parent.mountpoint)
        if parent is graph.root or external:
            path = paths.KPath("/" + paths.relative_to(mount.mountpoint, parent.mountpoint))
            yield external, path, mount.type or InodeType.DIRECTORY


def _restore_steps(
    facts: Facts,
    graph: MountGraph | None,
    host: MountTree,
    externals: tuple[External, ...],
    target: Target | None,
    choices: Choices,
    at: KPath,
) -> Iterator[Step]:
    """Give the steps that only a restore needs."""
    if target is None or graph is None:
        return
    missing = {path for path, stat in target.mountpoints.items() if stat is None}
    readonly = choices.readonly
    for external, path, kind in needed_mountpoints(graph, externals):
        if external is None and path in missing and not readonly:
            because = "a mount lies there and the root file system has no such place"
            yield Mountpoint(root=at, path=path, type=kind, because=because)
        elif external and external.source and path != paths.ROOT:
            because = f"a mount lies there, inside what {external.mountpoint} comes from"
            yield Mountpoint(root=external.source, path=path, type=kind, because=because)
    yield from _shared_sources(graph, host, externals)
    mode, _ = choose_mode(facts, choices.cgroups)
    yield from cgroup_steps(facts, host, mode)


def _shared_sources(
    graph: MountGraph, host: MountTree, externals: tuple[External, ...]
) -> Iterator[Propagation]:
    """
    Make the sources of slaves shared, where the host has them private.

    CRIU copies the sharing of the source (MOVE_MOUNT_SET_GROUP, Linux 5.15) and fails on none.
    """
    masters = {mount.mountpoint for mount in graph.tree.mounts if mount.master}
    for external in externals:
        if external.source is None or external.mountpoint not in masters:
            continue
        mount = host.lies_on(external.source)
        if mount and not mount.shared and not mount.master:
            because = f"{external.mountpoint} was a slave, and its source has no peer group here"
            yield Propagation(at=mount.mountpoint, propagation="shared", because=because)


def _criu(
    facts: Facts,
    externals: tuple[External, ...],
    descriptors: tuple[Inherited, ...],
    choices: Choices,
    at: KPath,
) -> CriuPlan:
    mode, why_mode = choose_mode(facts, choices.cgroups)
    reasons = [Reason(option=f"--manage-cgroups={mode}", because=why_mode)]
    files = external_file_keys(descriptors)
    reasons += [
        Reason(option=f"--external mnt[{each.mountpoint}]:{each.key}", because=each.because)
        for each in externals
    ]
    reasons += [
        Reason(option=f"--inherit-fd fd[{each.fd}]:{each.key}", because=each.because)
        for each in descriptors
    ]
    held = [file for task in facts.tasks for file in task.files if file.kind is FileKind.FD]
    locked = any(file.locked for file in held)
    linked = [
        file
        for file in held
        if file.shown.endswith("(deleted)") and file.stat and file.stat.nlink and file.stat.size
    ]
    if locked:
        reasons.append(Reason(option="--file-locks", because="a task holds a file lock"))
    if linked:
        because = f"{linked[0].shown} is open, its name is gone and another link is left"
        reasons.append(Reason(option="--link-remap", because=because))
    dump = CriuOptions(
        kind=Kind.DUMP,
        pid=facts.container.pid,
        images=choices.images,
        root=facts.container.rootfs,
        externals=(*(f"mnt[{each.mountpoint}]:{each.key}" for each in externals), *files),
        manage_cgroups=mode,
        leave_running=choices.leave_running,
        file_locks=locked,
        link_remap=bool(linked),
        extra=choices.extra,
    )
    restore = CriuOptions(
        kind=Kind.RESTORE,
        images=choices.images,
        root=at,
        externals=tuple(
            f"mnt[{each.key}]:{each.source}" for each in externals if each.source is not None
        ),
        inherit_fds=tuple((each.fd, each.key) for each in descriptors),
        manage_cgroups=mode,
        cgroup_roots=(("", choices.cgroup_root),) if choices.cgroup_root else (),
        file_locks=locked,
        link_remap=bool(linked),
        extra=choices.extra,
    )
    command = facts.host.criu.command if facts.host.criu else ()
    return CriuPlan(
        dump=tuple(map(paths.encode, to_argv(dump, command or ("criu",)))),
        restore=tuple(map(paths.encode, to_argv(restore, command or ("criu",)))),
        dump_options=dump,
        restore_options=restore,
        reasons=tuple(reasons),
    )
