# SPDX-License-Identifier: Apache-2.0
"""
The mount graph: the mounts of every namespace of a container and how they hang together.

Edges are `parent` (attached to), `bind` (a narrower mount to a wider one of its superblock),
`peer`, `master` (receives from), `overmount` (is hidden by) and `layer` (an overlay to the mount
that a directory of it lies on). Built from facts alone, in time that grows with the number of
mounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mountcr import paths
from mountcr.graph.check import require_tree
from mountcr.graph.superblock import bare_root, short_type, superblock
from mountcr.graph.tree import MountTree, put
from mountcr.model import MountId
from mountcr.overlayopts import parse_options
from mountcr.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import networkx

    from mountcr.graph.sharing import PropagationGroup
    from mountcr.model import Mount, MountNamespace
    from mountcr.paths import KPath

__all__ = ["Edge", "MountGraph", "Node"]


# Records of numbers, and of those, need no collector of cycles, which walks over tens of thousands.
class Node(msgspec.Struct, frozen=True, order=True, gc=False, array_like=True):
    """A mount of a namespace: the namespace's inode number and the mount's id."""

    namespace: int
    id: int


class Edge(msgspec.Struct, frozen=True, order=True, gc=False, array_like=True):
    """A relation of two mounts, `source` to `target`; what it says depends on `kind`."""

    kind: str
    source: Node
    target: Node


class MountGraph:
    """
    The mounts of one or several namespaces, the first of them the root task's.

    Raises ValueError without a namespace, and PlanError naming the line of a table that is no
    tree.
    """

    def __init__(self, namespaces: Iterable[MountNamespace]) -> None:
        self.namespaces: tuple[MountNamespace, ...] = tuple(namespaces)
        if not self.namespaces:
            msg = "a mount graph needs a mount namespace"
            raise ValueError(msg)
        self.trees: dict[int, MountTree] = {}
        for each in self.namespaces:
            self.trees[each.id] = MountTree(each.mounts)
            require_tree(each, self.trees[each.id])
        self._superblock_of: dict[int, int] = {}  # by id(), which compares no text
        self._superblocks: list[dict[KPath, Sequence[tuple[int, Node, Mount]]]] = []
        self._types: dict[str, list[tuple[Node, Mount]]] = {}
        self._groups: dict[int, list[Node]] = {}
        self._slaves: list[tuple[Node, Mount]] = []
        self._tagged: list[tuple[Node, Mount]] = []
        self._propagation_groups: tuple[PropagationGroup, ...] | None = None
        self._index()

    def _index(self) -> None:
        """Look at every mount once."""
        indices: dict[tuple[str, ...], int] = {}
        keys: dict[tuple[str, str | None, str, str], int] = {}
        by_fstype: dict[str, list[tuple[Node, Mount]]] = {}
        for ordinal, pair in enumerate(self.nodes()):
            node, mount = pair
            text = (mount.dev, mount.source, mount.fstype, mount.super_options)
            index = keys.get(text)
            if index is None:
                index = keys[text] = indices.setdefault(superblock(mount), len(indices))
                if index == len(self._superblocks):
                    self._superblocks.append({})
            self._superblock_of[id(mount)] = index
            roots = self._superblocks[index]
            put(roots, bare_root(mount), (ordinal, node, mount))
            if mount.fstype not in by_fstype:
                by_fstype[mount.fstype] = self._types.setdefault(short_type(mount), [])
            by_fstype[mount.fstype].append(pair)
            if mount.optional:
                self._index_tags(pair)

    def _index_tags(self, pair: tuple[Node, Mount]) -> None:
        node, mount = pair
        self._tagged.append(pair)
        if mount.shared:
            self._groups.setdefault(mount.shared, []).append(node)
        if mount.master:
            self._slaves.append(pair)

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
            identity = namespace.id
            for mount in namespace.mounts:
                yield Node(identity, mount.id), mount

    def mount(self, node: Node) -> Mount:
        """Give the mount of a node. Raises KeyError."""
        return self.trees[node.namespace].by_id[MountId(node.id)]

    def of_type(self, *types: str) -> Iterator[tuple[Node, Mount]]:
        """Give the mounts of some types, named without subtype, type by type."""
        for each in types:
            yield from self._types.get(each, ())

    def types(self) -> Iterable[str]:
        """Give every type that occurs, without subtypes."""
        return self._types.keys()

    def slaves(self) -> Sequence[tuple[Node, Mount]]:
        """Give the mounts that receive from a peer group."""
        return self._slaves

    def tagged(self) -> Sequence[tuple[Node, Mount]]:
        """Give the mounts with any optional field: in a peer group, a slave, unbindable."""
        return self._tagged

    def superblocks(
        self,
    ) -> Iterator[tuple[int, Mapping[KPath, Sequence[tuple[int, Node, Mount]]]]]:
        """Give the number of each superblock, and its mounts, with their ordinals, by root."""
        yield from enumerate(self._superblocks)

    def superblock_of(self, mount: Mount) -> int:
        """Give the number of what CRIU takes for the superblock of a mount of this graph."""
        return self._superblock_of[id(mount)]

    def whole(self, mount: Mount) -> bool:
        """Tell whether a mount shows the whole of what CRIU takes for this one's superblock."""
        return ROOT in self._superblocks[self.superblock_of(mount)]

    def wider(self, mount: Mount) -> Iterator[tuple[Node, Mount]]:
        """Give the mounts of the same superblock whose root holds this one's, itself included."""
        roots = self._superblocks[self.superblock_of(mount)]
        found = [each for root in paths.prefixes(bare_root(mount)) for each in roots.get(root, ())]
        for _, node, other in sorted(found, key=lambda each: each[0]):
            yield node, other

    def groups(self) -> Mapping[int, list[Node]]:
        """Give the members of each peer group."""
        return self._groups

    def propagation_groups(self) -> tuple[PropagationGroup, ...]:
        """Give the groups of mounts that CRIU gives their propagation together."""
        if self._propagation_groups is None:
            from mountcr.graph.sharing import propagation_groups

            self._propagation_groups = propagation_groups(self)
        return self._propagation_groups

    def host_peers(self, host: Iterable[Mount]) -> dict[int, list[Mount]]:
        """Give, for each peer group here that has members among the host's mounts, those."""
        found: dict[int, list[Mount]] = {}
        for mount in host:
            if mount.optional and mount.shared in self._groups:
                found.setdefault(mount.shared, []).append(mount)
        return found

    def build_order(self, externals: Iterable[Node] = ()) -> tuple[list[Node], list[Node]]:
        """Give the order in which CRIU's v2 engine makes the mounts, and those it never makes."""
        from mountcr.graph.order import build_order

        return build_order(self, externals)

    def hidden(self) -> Iterator[Node]:
        """Give the mounts to whose mountpoint no path leads, because others lie over it."""
        for node, mount in self.nodes():
            if self.trees[node.namespace].hidden(mount):
                yield node

    def edges(self) -> Iterator[Edge]:
        """Give every relation once, kind by kind."""
        yield from self._parents()
        yield from self._binds()
        yield from self._propagation()
        yield from self._overmounts()
        yield from self._layers()

    def _parents(self) -> Iterator[Edge]:
        for node, mount in self.nodes():
            parent = self.trees[node.namespace].parent(mount)
            if parent:
                yield Edge("parent", node, Node(node.namespace, parent.id))

    def _binds(self) -> Iterator[Edge]:
        """Link each mount to the widest other one that holds what it shows, the first of equals."""
        for roots in self._superblocks:
            first = {root: min(members)[1] for root, members in roots.items()}
            for root, members in roots.items():
                widest = next(first[each] for each in paths.prefixes(root) if each in first)
                for _, node, _mount in members:
                    if node != widest:
                        yield Edge("bind", node, widest)

    def _propagation(self) -> Iterator[Edge]:
        groups = self.groups()
        for members in groups.values():
            for node in members[1:]:
                yield Edge("peer", node, members[0])
        for node, mount in self.slaves():
            if mount.master in groups:
                yield Edge("master", node, groups[mount.master][0])

    def _overmounts(self) -> Iterator[Edge]:
        for node, mount in self.nodes():
            top = self.trees[node.namespace].lies_on(mount.mountpoint)
            if top and top is not mount:
                yield Edge("overmount", node, Node(node.namespace, top.id))

    def _layers(self) -> Iterator[Edge]:
        """Link each overlay that lies in the container to what its directories lie on there."""
        for node, mount in self.of_type("overlay"):
            tree = self.trees[node.namespace]
            if mount is tree.root:
                continue  # made by an engine, of paths of the host
            options = parse_options(mount.super_options)
            upper = (options.upper,) if options.upper else ()
            found = {
                below.id: None
                for path in (*upper, *options.lowers, *options.data)
                if path in mount.layers_inside and (below := tree.lies_on(path))
            }
            for identity in found:
                yield Edge("layer", node, Node(node.namespace, identity))

    def to_networkx(self) -> networkx.MultiDiGraph[Node]:
        """
        Give the graph for networkx's algorithms, edges keyed by kind.

        Node data are `mount`, the record, and every field of `mountcr.graph.attributes`.
        """
        import networkx  # 0.1 s, and most commands need no algorithm

        from mountcr.graph.attributes import all_attributes

        graph: networkx.MultiDiGraph[Node] = networkx.MultiDiGraph()
        for node, mount, each in all_attributes(self):
            graph.add_node(node, mount=mount, **each.as_data())
        for edge in self.edges():
            graph.add_edge(edge.source, edge.target, key=edge.kind)
        return graph
