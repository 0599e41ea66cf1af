# SPDX-License-Identifier: Apache-2.0
"""
What CRIU's older restore engine, `--mntns-compat-mode`, can make of a mount graph.

It makes the mounts of all namespaces below one directory, where they propagate to each other while
they are made, in an order that it looks for (criu/mount.c, `can_mount_now()`). It cannot always
find one: CRIU 4.1.1 then ends with an error or with a crash. What is said here to be possible was
restored in trials; what is not said to be possible may be so all the same.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from mountcr import paths
from mountcr.graph import Node
from mountcr.graph.coverage import is_part
from mountcr.graph.sharing import unrepresentable
from mountcr.graph.superblock import bare_root
from mountcr.model import InodeType

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from mountcr.graph import MountGraph
    from mountcr.model import Mount
    from mountcr.paths import KPath

__all__ = ["older_engine_fails"]


def older_engine_fails(
    graph: MountGraph, externals: Collection[Node], host: Iterable[Mount]
) -> str | None:
    """
    Give why the older engine may not make a graph as it was, or None.

    `host` are the mounts of the host, whose peers are joined again by what is bound from them.
    """
    reasons = itertools.chain(
        _unbindable(graph),
        _peers(graph, externals, graph.host_peers(host)),
        _receivers(graph, externals),
        _unreachable_binds(graph, externals),
    )
    return next(reasons, None)


def _peers(
    graph: MountGraph, externals: Collection[Node], outside: Collection[int]
) -> Iterator[str]:
    """Look at peers, to which what is mounted on one of them propagates at once."""
    groups = graph.groups()
    for group in graph.propagation_groups():
        pair = unrepresentable(graph, group) if group.shared else None
        if pair and not all(node in externals for node in group.members):
            giver, mount = pair
            yield f"{mount.mountpoint} and its peer {giver.mountpoint} show nothing that holds both"
    masters = {mount.master for _, mount in graph.slaves()}
    for node, mount in graph.tagged():
        if not mount.shared:
            continue
        if mount.shared in outside and node not in externals:
            yield f"{mount.mountpoint} would be cut off from its peers, which others are not"
        alone = len(groups[mount.shared]) == 1 and mount.shared not in masters
        if not (alone and mount.shared not in outside and node not in externals):
            child = next(graph.trees[node.namespace].children(mount), None)
            if child:
                yield f"{child.mountpoint} lies on {mount.mountpoint}, which propagates it"


def _unbindable(graph: MountGraph) -> Iterator[str]:
    """Look at what the engine makes unbindable only where nothing else is to be done."""
    for node, mount in graph.tagged():
        if mount.unbindable and (mount.shared or mount.master):
            yield f"{mount.mountpoint} would not be unbindable, because it is in a peer group"
        elif mount.unbindable and node.namespace != graph.namespaces[0].id:
            yield f"{mount.mountpoint} of a nested namespace would not be unbindable"


def _receivers(graph: MountGraph, externals: Collection[Node]) -> Iterator[str]:
    """Look at slaves, which have to be bound from what is, or receives from, their master."""
    groups, shared = graph.groups(), _shared(graph)
    inside = {m.master: groups[m.master] for _, m in graph.slaves() if m.master in groups}
    given = {group for group in inside if all(each in externals for each in inside[group])}
    shown = {
        group: {bare_root(graph.mount(each)) for each in members}
        for group, members in inside.items()
    }
    for node, mount in graph.slaves():
        root = mount is graph.trees[node.namespace].root
        if mount.master not in inside:
            others = shared.get(graph.superblock_of(mount), set())
            bound = node not in externals and mount is not graph.root
            if bound and len(others) > (mount.shared in others):
                yield f"{mount.mountpoint} would receive from what it is bound from"
            continue
        if node in externals:
            found = mount.master in given
        else:
            found = not root and is_part(mount, shown[mount.master])
        if not found:
            yield f"{mount.mountpoint} would not receive from peer group {mount.master}"


def _shared(graph: MountGraph) -> dict[int, set[int]]:
    """Give the peer groups of each superblock."""
    found: dict[int, set[int]] = {}
    for _, mount in graph.tagged():
        if mount.shared:
            found.setdefault(graph.superblock_of(mount), set()).add(mount.shared)
    return found


def _unreachable_binds(graph: MountGraph, externals: Collection[Node]) -> Iterator[str]:
    """
    Look at what is bound by a path, on which other mounts may lie already.

    The path of the source of a file that is external itself ends with a slash before CRIU 4.2.
    """
    files: dict[int, set[KPath]] = {}
    for node in externals:
        mount = graph.mount(node)
        if mount.type is not InodeType.DIRECTORY:
            files.setdefault(graph.superblock_of(mount), set()).add(bare_root(mount))
    bound = {
        number: [
            (root, node, mount)
            for root, members in roots.items()
            if root != paths.ROOT or number in files
            for _, node, mount in members
            if node not in externals
        ]
        for number, roots in graph.superblocks()
        if len(roots) > 1 or paths.ROOT not in roots or number in files
    }
    covering = _covering(graph, {number for number, found in bound.items() if found})
    for number, found in bound.items():
        covered = covering.get(number)
        for root, node, mount in found:
            if root in files.get(number, ()):
                yield f"{mount.mountpoint} would be bound from a file that is external"
            for place in paths.prefixes(root) if covered and root != paths.ROOT else ():
                if covered and covered.get(place, node) != node:
                    yield f"{mount.mountpoint} would be bound from where another mount lies"


def _covering(graph: MountGraph, numbers: Collection[int]) -> dict[int, dict[KPath, Node | None]]:
    """Give the places of superblocks on which a mount lies, with that; None for several."""
    found: dict[int, dict[KPath, Node | None]] = {}
    for identity, tree in graph.trees.items() if numbers else ():
        for parent in tree.parents():
            number = graph.superblock_of(parent)
            if number not in numbers:
                continue
            root = bare_root(parent)
            places = found.setdefault(number, {})
            for mount in tree.children(parent):
                place = paths.rebase(mount.mountpoint, parent.mountpoint, root)
                places[place] = None if place in places else Node(identity, mount.id)
    return found
