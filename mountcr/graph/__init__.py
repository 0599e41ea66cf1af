# SPDX-License-Identifier: Apache-2.0
"""
The mount graph: the mounts of every namespace of a container and how they hang together.

Edges are `parent` (attached to), `bind` (a narrower mount to a wider one of its superblock),
`peer`, `master` (receives from) and `overmount` (is hidden by). Built from facts alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mountcr import paths
from mountcr.graph.superblock import superblock
from mountcr.graph.tree import MountTree
from mountcr.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import networkx

    from mountcr.model import Mount, MountNamespace
    from mountcr.paths import KPath

__all__ = ["Edge", "MountGraph", "Node"]


class Node(NamedTuple):
    """A mount of a namespace: the namespace's inode number and the mount's id."""

    namespace: int
    id: int


class Edge(NamedTuple):
    """A relation of two mounts, `source` to `target`; what it says depends on `kind`."""

    kind: str
    source: Node
    target: Node


class MountGraph:
    """
    The mounts of one or several namespaces, the first of them the root task's.

    Raises ValueError without a namespace.
    """

    def __init__(self, namespaces: Iterable[MountNamespace]) -> None:
        self.namespaces: tuple[MountNamespace, ...] = tuple(namespaces)
        if not self.namespaces:
            msg = "a mount graph needs a mount namespace"
            raise ValueError(msg)
        self.trees: dict[int, MountTree] = {
            each.id: MountTree(each.mounts) for each in self.namespaces
        }
        self._superblocks: dict[object, dict[KPath, list[tuple[int, Node, Mount]]]] = {}
        self._groups: dict[int, list[Node]] = {}
        for ordinal, (node, mount) in enumerate(self.nodes()):
            roots = self._superblocks.setdefault(superblock(mount), {})
            roots.setdefault(mount.root, []).append((ordinal, node, mount))
            if mount.shared:
                self._groups.setdefault(mount.shared, []).append(node)

    @property
    def tree(self) -> MountTree:
        """The tree of the root task's namespace."""
        return self.trees[self.namespaces[0].id]

    @property
    def root(self) -> Mount | None:
        """The root mount of the root task's namespace."""
        return self.tree.root

    def nodes(self) -> Iterator[tuple[Node, Mount]]:
        """Give every mount with its node, the root task's namespace first."""
        for namespace in self.namespaces:
            for mount in namespace.mounts:
                yield Node(namespace.id, mount.id), mount

    def whole(self, mount: Mount) -> bool:
        """Tell whether a mount shows the whole of what CRIU takes for this one's superblock."""
        return ROOT in self._superblocks[superblock(mount)]

    def wider(self, mount: Mount) -> Iterator[tuple[Node, Mount]]:
        """Give the mounts of the same superblock whose root holds this one's, itself included."""
        roots = self._superblocks[superblock(mount)]
        found = [each for root in paths.prefixes(mount.root) for each in roots.get(root, ())]
        for _, node, other in sorted(found, key=lambda each: each[0]):
            yield node, other

    def groups(self) -> Mapping[int, list[Node]]:
        """Give the members of each peer group."""
        return self._groups

    def edges(self) -> Iterator[Edge]:
        """Give every relation once, kind by kind."""
        yield from self._parents()
        yield from self._binds()
        yield from self._propagation()
        yield from self._overmounts()

    def _parents(self) -> Iterator[Edge]:
        for node, mount in self.nodes():
            parent = self.trees[node.namespace].parent(mount)
            if parent:
                yield Edge("parent", node, Node(node.namespace, parent.id))

    def _binds(self) -> Iterator[Edge]:
        """Link each mount to the widest other one of its superblock, the first of equals."""
        for roots in self._superblocks.values():
            members = [each for same_root in roots.values() for each in same_root]
            _, widest, widest_mount = min(members, key=lambda each: (len(each[2].root), each[0]))
            for _, node, mount in sorted(members, key=lambda each: each[0]):
                if node != widest and paths.is_beneath(mount.root, widest_mount.root):
                    yield Edge("bind", node, widest)

    def _propagation(self) -> Iterator[Edge]:
        groups = self.groups()
        for members in groups.values():
            for node in members[1:]:
                yield Edge("peer", node, members[0])
        for node, mount in self.nodes():
            if mount.master in groups:
                yield Edge("master", node, groups[mount.master][0])

    def _overmounts(self) -> Iterator[Edge]:
        for node, mount in self.nodes():
            top = self.trees[node.namespace].lies_on(mount.mountpoint)
            if top and top is not mount:
                yield Edge("overmount", node, Node(node.namespace, top.id))

    def to_networkx(self) -> networkx.MultiDiGraph[Node]:
        """Give the graph for networkx's algorithms: mounts as node data, edges keyed by kind."""
        import networkx  # 0.1 s, and most commands need no algorithm

        graph: networkx.MultiDiGraph[Node] = networkx.MultiDiGraph()
        for node, mount in self.nodes():
            graph.add_node(node, mount=mount)
        for edge in self.edges():
            graph.add_edge(edge.source, edge.target, key=edge.kind)
        return graph
