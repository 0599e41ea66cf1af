# SPDX-License-Identifier: Apache-2.0
"""
What CRIU's older restore engine, `--mntns-compat-mode`, can make of a mount graph.

It makes the mounts of all namespaces below one directory, where they propagate to each other while
they are made, in an order that it looks for (criu/mount.c, `can_mount_now()`). It cannot always
find one: CRIU 4.1.1 then ends with an error or with a crash. What is said here to be possible was
restored in trials; what is not said to be possible may be so all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr import paths
from mountcr.graph.superblock import bare_root
from mountcr.model import InodeType

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from mountcr.graph import MountGraph, Node
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
    outside = graph.host_peers(host)
    return next(_propagating(graph, externals, outside), None) or next(
        _unreachable_binds(graph, externals), None
    )


def _propagating(
    graph: MountGraph, externals: Collection[Node], outside: Collection[int]
) -> Iterator[str]:
    """Look at peers, which receive while mounts are made, and at slaves, which have to wait."""
    groups = graph.groups()
    masters = {mount.master for _, mount in graph.slaves()}
    for node, mount in graph.tagged():
        tree = graph.trees[node.namespace]
        if mount.unbindable and (mount.shared or mount.master):
            yield f"{mount.mountpoint} would not be unbindable, because it is in a peer group"
        alone = len(groups.get(mount.shared, ())) == 1 and mount.shared not in masters
        if mount.shared and not (alone and mount.shared not in outside and node not in externals):
            child = next(tree.children(mount), None)
            if child:
                yield f"{child.mountpoint} lies on {mount.mountpoint}, which propagates it"
        if mount.master in groups and node not in externals:
            if mount is tree.root:
                yield f"the root would not receive from peer group {mount.master}"
            elif not _has_wider_member(graph, mount):
                yield f"{mount.mountpoint} shows more than peer group {mount.master}, its master"


def _has_wider_member(graph: MountGraph, mount: Mount) -> bool:
    """Tell whether a slave can be bound from a member of the group that it receives from."""
    root = bare_root(mount)
    members = map(graph.mount, graph.groups()[mount.master])
    return any(paths.is_beneath(root, bare_root(member)) for member in members)


def _unreachable_binds(graph: MountGraph, externals: Collection[Node]) -> Iterator[str]:
    """
    Look at what is bound by a path, on which other mounts may lie already.

    The path of the source of a file that is external itself ends with a slash before CRIU 4.2.
    """
    covering = _covering(graph)
    files: dict[int, set[KPath]] = {}
    for node in externals:
        mount = graph.mount(node)
        if mount.type is not InodeType.DIRECTORY:
            files.setdefault(graph.superblock_of(mount), set()).add(bare_root(mount))
    for node, mount in graph.nodes():
        if node in externals:
            continue
        number, root = graph.superblock_of(mount), bare_root(mount)
        if root in files.get(number, ()):
            yield f"{mount.mountpoint} would be bound from a file that is external"
        covered = covering.get(number, {})
        for place in paths.prefixes(root) if covered else ():
            if root != paths.ROOT and covered.get(place, set()) - {node}:
                yield f"{mount.mountpoint} would be bound from where another mount lies"


def _covering(graph: MountGraph) -> dict[int, dict[KPath, set[Node]]]:
    """Give the places of each superblock on which mounts lie, with those."""
    found: dict[int, dict[KPath, set[Node]]] = {}
    for node, mount in graph.nodes():
        parent = graph.trees[node.namespace].parent(mount)
        if parent:
            place = paths.rebase(mount.mountpoint, parent.mountpoint, bare_root(parent))
            places = found.setdefault(graph.superblock_of(parent), {})
            places.setdefault(place, set()).add(node)
    return found
