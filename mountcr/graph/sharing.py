# SPDX-License-Identifier: Apache-2.0
"""
Propagation as CRIU restores it: groups of mounts with the same peers and the same master.

`struct sharing_group` of criu/mount-v2.c: one per pair of shared and master id, below the group
whose peers are its master. Each gets its propagation from the group above it, or from what is
given for an external mount, and passes it on to its members by MOVE_MOUNT_SET_GROUP (Linux 5.15),
which wants that the member shows a part of what the giver shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr import paths
from mountcr.graph import Node
from mountcr.graph.superblock import bare_root
from mountcr.model import Mount, Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.graph import MountGraph

__all__ = ["PropagationGroup", "propagation_groups", "unreceived", "unrepresentable"]


class PropagationGroup(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    Mounts with one shared and one master id, 0 for none, in the order of the graph.

    `inside` tells that the master has a member in the container too.
    """

    shared: int
    master: int
    members: tuple[Node, ...]
    inside: bool


def propagation_groups(graph: MountGraph) -> tuple[PropagationGroup, ...]:
    """Give the groups of a graph, in the order in which their first members come."""
    members: dict[tuple[int, int], list[Node]] = {}
    for node, mount in graph.tagged():
        ids = (mount.shared, mount.master)
        if any(ids):
            members.setdefault(ids, []).append(node)
    return tuple(
        PropagationGroup(
            shared=shared, master=master, members=tuple(nodes), inside=master in graph.groups()
        )
        for (shared, master), nodes in members.items()
    )


def unrepresentable(graph: MountGraph, group: PropagationGroup) -> tuple[Mount, Mount] | None:
    """
    Give two members between which CRIU's v2 engine cannot pass on the propagation, or None.

    The giver, the first of them, is the member with the shortest root. Slaves of a group outside,
    in no group of their own, are given theirs one by one.
    """
    if not group.shared and not group.inside:
        return None
    giver = _giver(graph, group.members)
    for mount in map(graph.mount, group.members):
        if not paths.is_beneath(bare_root(mount), bare_root(giver)):
            return giver, mount
    return None


def unreceived(graph: MountGraph, group: PropagationGroup) -> tuple[Mount, Mount] | None:
    """
    Give the mounts between which CRIU's v2 engine cannot pass on a master, or None.

    From one member of the master, which is in the container, to one of the group: that with the
    shortest root each.
    """
    if not group.inside:
        return None
    giver = _giver(graph, graph.groups()[group.master])
    receiver = _giver(graph, group.members)
    if paths.is_beneath(bare_root(receiver), bare_root(giver)):
        return None
    return giver, receiver


def _giver(graph: MountGraph, members: Iterable[Node]) -> Mount:
    """Give the member that CRIU takes the propagation of the others from."""
    return min(map(graph.mount, members), key=lambda mount: len(bare_root(mount)))
