# SPDX-License-Identifier: Apache-2.0
"""Predicates about the mount table, the root file system and open files of the container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.graph.tree import MountTree
from mountcr.mountinfo import format_line
from mountcr.paths import ROOT, KPath
from mountcr.planning.descriptors import inherited, lonely_pipes
from mountcr.planning.rootfs import holders
from mountcr.rules import Found, conditions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mountcr.graph import MountGraph
    from mountcr.model import Mount
    from mountcr.rules import Context

__all__ = ["PREDICATES"]

_LINE_LIMIT: Final = 4095
"""CRIU reads mountinfo with a buffer of 4096 bytes, the newline and a NUL included."""


def _long_line(context: Context) -> Iterator[Found]:
    """P1."""
    for mount in _mounts(context):
        length = len(format_line(mount)) + 1
        if length > _LINE_LIMIT:
            yield Found(mount.mountpoint, f"its line in mountinfo has {length} bytes")


def _mounts(context: Context) -> Iterator[Mount]:
    if context.graph:
        for _, mount in context.graph.nodes():
            yield mount


def _refused(
    condition: Callable[[MountGraph, Mount, conditions.Externals], bool],
    detail: Callable[[Mount], str],
) -> Callable[[Context], Iterator[Found]]:
    """Make a predicate of a condition on single mounts of the root task's namespace."""

    def predicate(context: Context) -> Iterator[Found]:
        if context.graph is None:
            return
        root = context.graph.namespaces[0].id
        for _, mount, namespace in conditions.checked(context.graph):
            if namespace.id == root and condition(context.graph, mount, context.nodes):
                yield Found(mount.mountpoint, detail(mount))

    return predicate


def _nested(context: Context) -> Iterator[Found]:
    """E2: what cannot be cured by a key, because the mount is in a nested namespace."""
    if context.graph is None:
        return
    root = context.graph.namespaces[0].id
    conditions_of_a_key = (
        conditions.unsupported,
        conditions.improper_root,
        conditions.foreign_fuse,
        conditions.unreachable_master,
    )
    for _, mount, namespace in conditions.checked(context.graph):
        if namespace.id == root:
            continue
        if any(each(context.graph, mount, context.nodes) for each in conditions_of_a_key):
            yield Found(mount.mountpoint, f"{mount.fstype} in the namespace of pid {namespace.pid}")


def _stacked(context: Context) -> Iterator[Found]:
    """E4: a mount that is not external on its own, at the mountpoint of one that is."""
    if context.graph is None:
        return
    for mountpoint in dict.fromkeys(external.mountpoint for external in context.externals):
        here = context.graph.tree.at(mountpoint)
        if len({(mount.dev, mount.root) for mount in here}) > 1:
            yield Found(mountpoint, f"{len(here)} mounts are stacked there")


def _copied_tmpfs(context: Context) -> Iterator[Found]:
    """F5."""
    if context.graph is None:
        return
    origin = MountTree(context.facts.host.mounts)
    for _, mount, _ in conditions.checked(context.graph):
        if conditions.tmpfs_of_host(context.graph, origin, mount, context.nodes):
            yield Found(mount.mountpoint, f"tmpfs {mount.dev}")


def _lonely_pipes(context: Context) -> Iterator[Found]:
    """L7: pipes that are no standard stream, which are given back."""
    lonely = lonely_pipes(context.facts)
    given = {each.key for each in inherited(context.facts)}
    for task in context.facts.tasks:
        for file in task.files:
            if file.shown in lonely and file.shown not in given:
                yield Found(file.shown, f"descriptor {file.fd} of pid {task.pid}")


def _shares_mounts(context: Context) -> Iterator[Found]:
    """M9."""
    if context.facts.shares_mounts:
        yield Found("/", f"mnt:[{context.facts.host.namespaces['mnt']}]")


def _foreign_files(context: Context) -> Iterator[Found]:
    """L0: every file that leads out and is not declared; pipes are no file of a mount."""
    if context.facts.shares_mounts:
        return
    given = {each.key for each in context.inherited}
    for each in inherited(context.facts):
        if not each.key.startswith("pipe:") and each.key not in given:
            yield Found(each.shown, f"descriptor {each.fd} of pid {each.pid}, {each.key}")


def _outside_peers(context: Context) -> Iterator[Found]:
    """F1."""
    if context.graph is None:
        return
    on_host = {mount.shared for mount in context.facts.host.mounts if mount.shared}
    ours = context.facts.host.namespaces.get("mnt")
    if ours and ours == context.graph.namespaces[0].id:
        return
    for mount in context.graph.tree.mounts:
        if mount.shared in on_host:
            yield Found(mount.mountpoint, f"shared:{mount.shared}")


def _root_master(context: Context) -> Iterator[Found]:
    """F2."""
    root = context.graph.root if context.graph else None
    if root is None or context.graph is None or context.choices.root_at:
        return
    if root.master and root.master not in context.graph.groups():
        yield Found(root.mountpoint, f"master:{root.master}")


def _disagreement(context: Context) -> Iterator[Found]:
    """M4: only where the engine's rootfs is a mount of this host, and not the task's root."""
    recorded = context.facts.container.rootfs
    root = context.graph.root if context.graph else None
    if recorded is None or root is None:
        return
    mounted = context.host.lies_on(recorded)
    if mounted and mounted.mountpoint == recorded and mounted.dev != root.dev:
        yield Found(
            recorded,
            f"the engine's rootfs is {mounted.fstype} {mounted.dev}, "
            f"the task's root is {root.fstype} {root.dev}",
        )


def _unknown_layers(context: Context) -> Iterator[Found]:
    """M6: layers that are relative to a directory nobody recorded, or no stack at all."""
    stack = context.stack
    if context.facts.shares_mounts:
        return
    if stack is None:
        root = context.graph.root if context.graph else None
        shown = f"{root.fstype} {root.source or ''}".strip() if root else "no root mount"
        yield Found("/", shown)
        return
    for layer in (*stack.directories, *stack.data):
        if not layer.startswith("/"):
            yield Found(layer, "the layer path is not absolute")


def _upper_in_use(context: Context) -> Iterator[Found]:
    """
    M2: at restore, another stack on this host with our upper, or ours in another namespace.

    A mount of the host that other namespaces have a copy of is no second mount, and is bound; but
    what is somebody's root is a container that runs.
    """
    stack, target = context.stack, context.target
    if stack is None or target is None or context.choices.upper or context.choices.readonly:
        return
    for mount, other in holders(stack, context.host.mounts):
        if other.lowers != stack.lowers:
            yield Found(KPath(str(stack.upper)), f"mounted at {mount.mountpoint} with other layers")
    ours = {mount.dev for mount, _ in holders(stack, context.host.mounts)}
    for namespace in target.elsewhere:
        for mount, _ in holders(stack, namespace.mounts):
            if mount.dev in ours and mount.mountpoint != ROOT:
                continue
            where = f"pid {namespace.pid} has it mounted at {mount.mountpoint}"
            yield Found(KPath(str(stack.upper)), where)


def _unseen(context: Context) -> Iterator[Found]:
    """M8."""
    for each in context.facts.unseen:
        yield Found(each.what, each.why)


PREDICATES: Final = {
    "P1": _long_line,
    "V3": _refused(conditions.unsupported, lambda mount: f"{mount.fstype} {mount.dev}, whole"),
    "V4": _refused(
        conditions.improper_root, lambda mount: f"{mount.root} of {mount.fstype} {mount.dev}"
    ),
    "S1": _refused(conditions.unreachable_master, lambda mount: f"master:{mount.master}"),
    "C1": _refused(conditions.foreign_fuse, lambda mount: mount.fstype),
    "E2": _nested,
    "E4": _stacked,
    "L0": _foreign_files,
    "L7": _lonely_pipes,
    "F1": _outside_peers,
    "F2": _root_master,
    "F5": _copied_tmpfs,
    "M2": _upper_in_use,
    "M4": _disagreement,
    "M6": _unknown_layers,
    "M8": _unseen,
    "M9": _shares_mounts,
}
