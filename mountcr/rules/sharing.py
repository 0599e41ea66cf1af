# SPDX-License-Identifier: Apache-2.0
"""
Predicates about propagation that CRIU's v2 engine cannot pass on from mount to mount.

It does so by MOVE_MOUNT_SET_GROUP, for which the kernel wants that the giver is of the same
superblock and shows what the receiver shows (fs/namespace.c, `do_set_group()`). The older engine
mounts what is shared from what is shared, and needs none of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr import paths
from mountcr.graph import Node
from mountcr.graph.sharing import unreceived, unrepresentable
from mountcr.graph.superblock import bare_root
from mountcr.rules import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.graph import MountGraph
    from mountcr.model import Mount
    from mountcr.paths import KPath
    from mountcr.planning.records import External
    from mountcr.rules import Context

__all__ = ["PREDICATES"]


def _masters(context: Context) -> Iterator[Found]:
    """R6: from a group of the container that shows less, or from sources that show others."""
    graph = context.graph
    if graph is None or not graph.slaves():
        return
    for group in graph.propagation_groups():
        pair = unreceived(graph, group)
        if pair:
            giver, receiver = pair
            detail = f"{receiver.root} cannot receive by way of {giver.root} at {giver.mountpoint}"
            yield Found(receiver.mountpoint, detail, cured=context.compat)
    for members in _by_master(context, graph):
        yield from _unlike_sources(context, graph, members)


def _by_master(context: Context, graph: MountGraph) -> Iterator[list[tuple[External, Mount]]]:
    """Give the externals that are slaves of one group outside, if there are several."""
    found: dict[tuple[int, int], list[tuple[External, Mount]]] = {}
    for external in context.externals:
        mount = next(iter(graph.tree.at(external.mountpoint)), None)
        if mount and mount.master and mount.master not in graph.groups() and external.source:
            key = (graph.superblock_of(mount), mount.master)
            found.setdefault(key, []).append((external, mount))
    yield from (each for each in found.values() if len(each) > 1)


def _unlike_sources(
    context: Context, graph: MountGraph, members: list[tuple[External, Mount]]
) -> Iterator[Found]:
    """
    Look at the mounts that sources of one master lie on.

    CRIU gives all of them that of the first external, in its order of the tree.
    """
    lie_on = {each.mountpoint: _shown(context, each) for each, _ in members}
    if len({id(mount) for mount, _ in lie_on.values()}) == 1:
        return
    ours = graph.namespaces[0].id
    named = {
        Node(ours, each.id) for one in context.externals for each in graph.tree.at(one.mountpoint)
    }
    made, _ = graph.build_order(named)
    order = {node: number for number, node in enumerate(made)}
    first, _ = min(members, key=lambda each: order.get(Node(ours, each[1].id), len(order)))
    giver, _ = lie_on[first.mountpoint]
    for external, _ in members:
        mount, root = lie_on[external.mountpoint]
        if giver is None or mount is None:
            continue
        if mount.dev != giver.dev or not paths.is_beneath(root, bare_root(giver)):
            detail = f"{external.source} is no part of what {giver.mountpoint} of the host shows"
            yield Found(external.mountpoint, detail, cured=context.compat)


def _shown(context: Context, external: External) -> tuple[Mount | None, KPath]:
    """Give the mount of the host that a source lies on, and what of its superblock it is."""
    source = external.source or paths.ROOT
    mount = context.host.lies_on(source)
    if mount is None:
        return None, paths.ROOT
    return mount, paths.rebase(source, mount.mountpoint, bare_root(mount))


def _members(context: Context) -> Iterator[Found]:
    """R7."""
    graph = context.graph
    for group in graph.propagation_groups() if graph else ():
        pair = unrepresentable(graph, group) if graph else None
        if pair:
            giver, mount = pair
            detail = f"{mount.root} has the peers or the master of {giver.root}"
            yield Found(mount.mountpoint, f"{detail} at {giver.mountpoint}", cured=context.compat)


PREDICATES: Final = {"R6": _masters, "R7": _members}
