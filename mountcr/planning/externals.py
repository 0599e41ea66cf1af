# SPDX-License-Identifier: Apache-2.0
"""
Which mounts come from outside: the smallest set that CRIU has to be told of.

They come from the mount table of the running task, never from a configuration file. Wide mounts
are looked at first, so that a mount inside an external one needs no option of its own. A key is
looked up for mounts of the root task's namespace only (criu/mount.c, `try_resolve_ext_mount()`),
so those are the only ones that can be external.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.graph import Node
from mountcr.graph.superblock import short_type
from mountcr.paths import ROOT
from mountcr.planning.records import External
from mountcr.rules import conditions

if TYPE_CHECKING:
    from mountcr.graph import MountGraph
    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount

__all__ = ["choose_externals", "external_nodes"]


def choose_externals(
    graph: MountGraph, host: MountTree, *, cgroup_namespace: bool = False
) -> tuple[External, ...]:
    """
    Give the externals of a container, in the order of its mount table.

    `cgroup_namespace` tells that the container has a cgroup namespace of its own.
    """
    chosen: dict[Node, str] = {}
    namespace = graph.namespaces[0].id
    widest_first = sorted(graph.tree.mounts, key=lambda mount: len(mount.root))
    for mount in widest_first:
        because = _because(graph, host, mount, chosen, cgroup_namespace=cgroup_namespace)
        if because and mount.mountpoint != ROOT:
            chosen[Node(namespace, mount.id)] = because
    return tuple(
        _external(host, mount, chosen[node])
        for mount in graph.tree.mounts
        if (node := Node(namespace, mount.id)) in chosen
    )


def external_nodes(graph: MountGraph, externals: tuple[External, ...]) -> frozenset[Node]:
    """Give the mounts that CRIU takes for external: all at the mountpoints that are named."""
    named = {each.mountpoint for each in externals}
    return frozenset(
        Node(graph.namespaces[0].id, mount.id)
        for mount in graph.tree.mounts
        if mount.mountpoint in named
    )


def _because(
    graph: MountGraph,
    host: MountTree,
    mount: Mount,
    chosen: dict[Node, str],
    *,
    cgroup_namespace: bool,
) -> str:
    """Name the fact that makes a mount external; empty when none does."""
    externals = chosen.keys()
    because = ""
    if cgroup_namespace and short_type(mount) in {"cgroup", "cgroup2"}:
        return because
    if conditions.improper_root(graph, mount, externals):
        because = f"{mount.root} of {mount.fstype} {mount.dev} has no wider mount in the container"
    elif conditions.unsupported(graph, mount, externals):
        because = f"{mount.fstype} {mount.dev} is mounted whole, which CRIU cannot do by itself"
    elif conditions.foreign_fuse(graph, mount, externals):
        because = f"{mount.fstype} is served by a daemon outside"
    elif conditions.tmpfs_of_host(graph, host, mount, externals) and not _stacked(graph, mount):
        because = f"tmpfs {mount.dev} is mounted on the host too, its content is the host's"
    elif conditions.unreachable_master(graph, mount, externals):
        because = f"it receives from peer group {mount.master}, which is outside the container"
    return because


def _stacked(graph: MountGraph, mount: Mount) -> bool:
    """Tell whether another mount is at the same mountpoint, which a key would mean as well."""
    return len(graph.tree.at(mount.mountpoint)) > 1


def _external(host: MountTree, mount: Mount, because: str) -> External:
    return External(
        mountpoint=mount.mountpoint,
        key=mount.mountpoint,
        source=host.path_of(
            mount, prefer=[group for group in (mount.master, mount.shared) if group]
        ),
        type=mount.type,
        mode=mount.mode,
        fstype=mount.fstype,
        because=because,
    )
