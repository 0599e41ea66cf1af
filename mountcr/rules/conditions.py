# SPDX-License-Identifier: Apache-2.0
"""
The conditions under which CRIU refuses a mount, each told with and without externals.

They follow criu/mount.c of CRIU 4 (`validate_mounts()`, `resolve_shared_mounts()`), whose walk
skips the roots of the namespaces. `externals` are the nodes that are declared external.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from mountcr.graph import Node
from mountcr.graph.superblock import SUPPORTED, short_type
from mountcr.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from mountcr.graph import MountGraph
    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount, MountNamespace

__all__ = [
    "Externals",
    "carved_from_root",
    "checked",
    "foreign_fuse",
    "improper_root",
    "of_external",
    "tmpfs_of_host",
    "unreachable_master",
    "unsupported",
]

Externals: TypeAlias = "AbstractSet[Node]"

NONE: Externals = frozenset()


def checked(graph: MountGraph) -> Iterator[tuple[Node, Mount, MountNamespace]]:
    """Give every mount that CRIU checks: all but those at `/`."""
    for namespace in graph.namespaces:
        for mount in namespace.mounts:
            if mount.mountpoint != ROOT:
                yield Node(namespace.id, mount.id), mount, namespace


def carved_from_root(graph: MountGraph, mount: Mount) -> bool:
    """Tell whether the container's own root mount, or one below it, holds what is shown."""
    return any(other is graph.root for _, other in graph.wider(mount))


def of_external(graph: MountGraph, mount: Mount, externals: Externals) -> bool:
    """Tell whether an external mount, maybe this one, holds what is shown."""
    return any(node in externals for node, _ in graph.wider(mount))


def _settled(graph: MountGraph, mount: Mount, externals: Externals) -> bool:
    return of_external(graph, mount, externals) or carved_from_root(graph, mount)


def unsupported(graph: MountGraph, mount: Mount, externals: Externals = NONE) -> bool:
    """V3: the whole of a file system that CRIU cannot mount by itself."""
    whole = mount.root == ROOT and short_type(mount) not in SUPPORTED
    return whole and not _settled(graph, mount, externals)


def improper_root(graph: MountGraph, mount: Mount, externals: Externals = NONE) -> bool:
    """
    V4: a part of a file system of which the container has no mount of the whole.

    In a cgroup namespace CRIU takes what it sees for the whole (criu/filesystems.c,
    `cgroup_parse()`), so control groups are none; without one they are binds as others are.
    """
    if mount.root == ROOT or graph.whole(mount):
        return False
    return not _settled(graph, mount, externals)


def foreign_fuse(graph: MountGraph, mount: Mount, externals: Externals = NONE) -> bool:
    """C1: a FUSE mount, whose content only its daemon knows."""
    return short_type(mount) == "fuse" and not _settled(graph, mount, externals)


def tmpfs_of_host(
    graph: MountGraph, host: MountTree, mount: Mount, externals: Externals = NONE
) -> bool:
    """
    F5: a whole tmpfs that is mounted on the host too.

    CRIU copies its content into the images, and restores a tmpfs that is cut off from the host's.
    """
    whole = mount.root == ROOT and mount.fstype == "tmpfs"
    on_host = whole and any(other.dev == mount.dev for other in host.mounts)
    return on_host and not _settled(graph, mount, externals)


def unreachable_master(graph: MountGraph, mount: Mount, externals: Externals = NONE) -> bool:
    """
    S1: the mount receives from a peer group that has no member in the container.

    It is reachable through a wider mount of the same superblock with the same master that is
    external or the root, because CRIU then takes the master from what is given for that one.
    """
    if not mount.master or mount.master in graph.groups():
        return False
    return not any(
        other.master == mount.master and (node in externals or other is graph.root)
        for node, other in graph.wider(mount)
    )
