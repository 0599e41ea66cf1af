# SPDX-License-Identifier: Apache-2.0
"""
The planner: facts in, plan out. It opens no file and changes nothing.

A restore plans from the same facts, those of the dump, with the host it would take place on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mountcr import paths
from mountcr.graph import MountGraph
from mountcr.graph.tree import MountTree
from mountcr.model import Facts, InodeType, Severity
from mountcr.overlayopts import explicit_options
from mountcr.planning.cgroups import cgroup_steps, choose_mode, source_steps
from mountcr.planning.choices import RESTORE_ROOT, Choices
from mountcr.planning.criu import plan_criu
from mountcr.planning.descriptors import inherited
from mountcr.planning.engine import choose_engine, joined_sources
from mountcr.planning.externals import choose_externals, external_nodes, given_nodes
from mountcr.planning.given import Given, drop, parse_given
from mountcr.planning.imaged import imaged_externals
from mountcr.planning.misreported import find_misreported, rewrites
from mountcr.planning.network import plan_network
from mountcr.planning.records import ContainerSummary, External, Plan, Rootfs, Verdict
from mountcr.planning.requests import answered, answered_files, request_steps
from mountcr.planning.rootfs import find_stack, plan_rootfs
from mountcr.planning.steps import Attributes, Mountpoint, Propagation, Step
from mountcr.planning.torn import torn_steps
from mountcr.planning.unions import assemble_unions, place_unions
from mountcr.planning.volatile import seen_volatile
from mountcr.record import Passing
from mountcr.rules import Context, check
from mountcr.rules.conditions import chroot_of, own_cgroups, own_pipes, own_tmpfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.graph import Node
    from mountcr.model import Finding
    from mountcr.paths import KPath
    from mountcr.planning.files import NamedFile
    from mountcr.stack import Stack
    from mountcr.target import Target

__all__ = ["make_plan", "needed_mountpoints"]


class _Situation(Passing, frozen=True, kw_only=True):
    """
    What is planned for: `origin` is the host of the facts, `host` the one of the restore.

    `at` is where the root will be assembled.
    """

    facts: Facts
    choices: Choices
    origin: MountTree
    host: MountTree
    graph: MountGraph | None
    target: Target | None
    at: KPath
    given: Given


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

    `files` are those that the images name.
    """
    origin = MountTree(facts.host.mounts)
    given = parse_given((*choices.dumped, *choices.extra) if choices else ())
    case = _Situation(
        facts=facts,
        choices=choices or Choices(),
        origin=origin,
        host=MountTree(target.host.mounts) if target else origin,
        graph=None if _without_mounts(facts) else MountGraph(drop(facts.namespaces, given)),
        target=target,
        at=at,
        given=given,
    )
    externals = _externals(case)
    misreported = find_misreported(facts)
    descriptors = answered_files(facts, inherited(facts, misreported), case.choices, target)
    put_right = rewrites(facts, misreported)
    rootfs = _rootfs(case, externals)
    network = plan_network(
        facts,
        case.choices,
        given=given,
        target=target,
        taken=[each.number for each in descriptors],
    )
    context = Context(
        facts=facts,
        host=case.host,
        origin=case.origin,
        choices=case.choices,
        graph=case.graph,
        stack=rootfs.origin if rootfs else None,
        externals=externals,
        nodes=_external_nodes(case, externals),
        inherited=descriptors,
        rewrites=put_right,
        target=target,
        files=files,
        made=_made(rootfs),
        given=given,
    )
    engine = choose_engine(context)
    compat = engine is not None and engine.name == "v1"
    if target and rootfs and case.graph and compat:
        joined = tuple(joined_sources(case.graph, context))
        rootfs = msgspec.structs.replace(rootfs, steps=rootfs.steps + joined)
    findings = check(msgspec.structs.replace(context, compat=compat))
    return Plan(
        verdict=_verdict(findings),
        container=_summary(facts),
        choices=case.choices,
        rootfs=rootfs,
        externals=externals,
        inherited=descriptors,
        rewrites=put_right,
        network=network,
        findings=findings,
        engine=engine,
        criu=plan_criu(
            facts,
            externals,
            descriptors,
            case.choices,
            rewrites=put_right,
            root=at if rootfs else None,
            engine=engine,
            network=network,
        ),
    )


def _without_mounts(facts: Facts) -> bool:
    """
    Tell whether there is no tree of mounts to plan with.

    None was seen, it is the host's own, which CRIU does not dump, or the root task sees a part of
    it from a directory of its own, which CRIU refuses (rule T3).
    """
    if not facts.namespaces or facts.shares_mounts:
        return True
    mounts = facts.namespaces[0].mounts
    return chroot_of(facts) is not None and not any(
        mount.mountpoint == paths.ROOT for mount in mounts
    )


def _summary(facts: Facts) -> ContainerSummary:
    container = facts.container
    return ContainerSummary(
        id=container.id,
        engine=container.engine,
        name=container.name,
        pid=container.pid,
        start_time=facts.tasks[0].start_time if facts.tasks else container.start_time,
        storage=container.storage,
        rootfs=container.rootfs,
    )


def _verdict(findings: tuple[Finding, ...]) -> Verdict:
    open_ones = {each.severity for each in findings if not each.cured}
    if Severity.REFUSAL in open_ones:
        return Verdict.REFUSED
    return Verdict.LOSSES if Severity.LOSS in open_ones else Verdict.OK


def _externals(case: _Situation) -> tuple[External, ...]:
    """Choose the externals and put the sources in that the user gave."""
    if case.graph is None:
        return ()
    facts, binds = case.facts, case.choices.binds
    if facts.of_images:
        moved = case.choices.cgroup_root
        externals = imaged_externals(case.graph, facts, case.host, moved=moved)
    else:
        externals = choose_externals(
            case.graph,
            case.origin,
            cgroup_namespace=own_cgroups(facts),
            named_by_runtime=facts.container.bundle is not None,
            own_pipes=own_pipes(facts),
            own_tmpfs=own_tmpfs(facts.container),
            given=case.given,
        )
    externals = tuple(
        msgspec.structs.replace(each, source=binds[each.mountpoint])
        if each.mountpoint in binds
        else each
        for each in externals
    )
    placed = place_unions(case.graph, externals, case.at)
    return answered(facts, placed, case.choices, case.target)


def _external_nodes(case: _Situation, externals: tuple[External, ...]) -> frozenset[Node]:
    """Give the mounts that CRIU will take for external, by the plan or by what the user gave."""
    if case.graph is None:
        return frozenset()
    given = given_nodes(case.graph, case.origin.mounts, case.given)
    return external_nodes(case.graph, externals) | given


def _rootfs(case: _Situation, externals: tuple[External, ...]) -> Rootfs | None:
    """Say how the root comes back, with the steps that only a restore needs behind the others."""
    root = case.graph.root if case.graph else None
    container = case.facts.container
    imported = case.facts.imported
    if imported is not None:
        stack: Stack | None = imported.stack
    else:
        # layers in images are paths of who knows where, so there the record alone tells
        told = None if case.facts.of_images else root
        stack = None if case.facts.shares_mounts else find_stack(container, told, case.origin)
        stack = stack and _with_defaults(case, stack)
    if stack is None:
        return None
    # what is mounted while the container runs says nothing of the time when it comes back
    mounted = case.host if case.target else MountTree(())
    rootfs = plan_rootfs(
        stack,
        case.at,
        mounted,
        case.choices,
        container=container.id,
        root=root,
        survey=case.target.survey if case.target else None,
        boot=(case.target.host if case.target else case.facts.host).boot,
        imported=imported is not None,
    )
    if case.graph is None:
        return rootfs
    unions = tuple(assemble_unions(case.graph, externals))
    if case.target is None:
        return msgspec.structs.replace(rootfs, steps=rootfs.steps + unions)
    before = tuple(_mountpoint_steps(case, case.graph, case.target))
    mode, _ = choose_mode(case.facts, case.choices.cgroups)
    torn = () if imported else torn_steps(container, externals, case.host)
    after = (
        *torn,
        *request_steps(case.facts, externals),
        *unions,
        *_external_mountpoint_steps(case.graph, externals),
        *_shared_sources(case.graph, case.host, externals),
        *cgroup_steps(case.facts, case.host, mode, moved=case.choices.cgroup_root),
        *source_steps(case.facts, case.host, mode, externals),
    )
    return msgspec.structs.replace(rootfs, steps=_insert(rootfs.steps, before) + after)


def _with_defaults(case: _Situation, stack: Stack) -> Stack:
    """Put the options in that an overlay had by the defaults of its host, and what it left."""
    if stack.driver != "overlay":
        return stack
    target = case.target.host.overlay if case.target else None
    options = explicit_options(stack.options, case.facts.host.overlay, target)
    volatile = seen_volatile(stack, case.facts)
    return msgspec.structs.replace(stack, options=options, volatile=volatile)


def _insert(steps: tuple[Step, ...], mountpoints: tuple[Step, ...]) -> tuple[Step, ...]:
    """Put the making of mountpoints behind the mount of the root and before it may become ro."""
    for number, step in enumerate(steps):
        if isinstance(step, Attributes | Propagation):
            return (*steps[:number], *mountpoints, *steps[number:])
    return steps + mountpoints


def _made(rootfs: Rootfs | None) -> frozenset[str]:
    steps = rootfs.steps if rootfs else ()
    return frozenset(step.path for step in steps if isinstance(step, Mountpoint))


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


def _mountpoint_steps(case: _Situation, graph: MountGraph, target: Target) -> Iterator[Step]:
    """Make the mountpoints that are missing in the root."""
    missing = {path for path, stat in target.mountpoints.items() if stat is None}
    if not missing or case.choices.readonly:
        return
    for external, path, kind in needed_mountpoints(graph, ()):
        if external is None and path in missing:
            because = "a mount lies there and the root file system has no such place"
            yield Mountpoint(root=case.at, path=path, type=kind, because=because)


def _external_mountpoint_steps(
    graph: MountGraph, externals: tuple[External, ...]
) -> Iterator[Step]:
    """Make the mountpoints inside of externals."""
    for external, path, kind in needed_mountpoints(graph, externals):
        if external and external.source and path != paths.ROOT:
            because = f"a mount lies there, inside what {external.mountpoint} comes from"
            yield Mountpoint(root=external.source, path=path, type=kind, because=because)


def _shared_sources(
    graph: MountGraph, host: MountTree, externals: tuple[External, ...]
) -> Iterator[Step]:
    """
    Make the sources of slaves of groups outside shared, where the host has them private.

    CRIU copies the sharing of the source (MOVE_MOUNT_SET_GROUP, Linux 5.15) and fails on none.
    """
    ours = graph.namespaces[0].id
    slaves = {
        mount.mountpoint
        for node, mount in graph.slaves()
        if node.namespace == ours and mount.master not in graph.groups()
    }
    for external in externals:
        if external.source is None or external.stack or external.mountpoint not in slaves:
            continue
        mount = host.lies_on(external.source)
        if mount and not mount.shared and not mount.master:
            because = f"{external.mountpoint} was a slave, and its source has no peer group here"
            yield Propagation(at=mount.mountpoint, propagation="shared", because=because)
