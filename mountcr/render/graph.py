# SPDX-License-Identifier: Apache-2.0
"""A mount graph as an outline, and as the document that `mountcr graph --json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.model import InodeType, Record
from mountcr.paths import KPath
from mountcr.render.outline import Outline

if TYPE_CHECKING:
    from mountcr.graph import MountGraph, Node
    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount

__all__ = ["GRAPH_SCHEMA", "GraphDocument", "document", "outline_graph"]

GRAPH_SCHEMA = "mountcr/graph/1"


class NodeRecord(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A mount with the namespace it is in; `node` is what edges and groups name.

    The other fields are those of `mountcr.model.Mount`; `shared` and `master` are 0 for none.
    """

    node: str
    namespace: int
    id: int
    parent: int
    dev: str
    root: KPath
    mountpoint: KPath
    options: str
    optional: tuple[str, ...]
    fstype: str
    source: KPath | None
    super_options: str
    type: InodeType | None
    shared: int
    master: int
    hidden: bool


class EdgeRecord(Record, frozen=True, kw_only=True, rename={"source": "from", "target": "to"}):
    """A relation of two mounts."""

    kind: str
    source: str
    target: str


class GraphDocument(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The whole graph; `groups` maps the id of a peer group to its members."""

    schema: str = GRAPH_SCHEMA
    mounts: tuple[NodeRecord, ...]
    edges: tuple[EdgeRecord, ...]
    groups: dict[int, tuple[str, ...]]


def document(graph: MountGraph) -> GraphDocument:
    """Give the graph as a document."""
    return GraphDocument(
        mounts=tuple(_node(graph, node, mount) for node, mount in graph.nodes()),
        edges=tuple(
            EdgeRecord(
                kind=edge.kind,
                source=f"{edge.source.namespace}:{edge.source.id}",
                target=f"{edge.target.namespace}:{edge.target.id}",
            )
            for edge in graph.edges()
        ),
        groups={
            group: tuple(f"{node.namespace}:{node.id}" for node in members)
            for group, members in graph.groups().items()
        },
    )


def _node(graph: MountGraph, node: Node, mount: Mount) -> NodeRecord:
    return NodeRecord(
        node=f"{node.namespace}:{node.id}",
        namespace=node.namespace,
        id=mount.id,
        parent=mount.parent,
        dev=mount.dev,
        root=mount.root,
        mountpoint=mount.mountpoint,
        options=mount.options,
        optional=mount.optional,
        fstype=mount.fstype,
        source=mount.source,
        super_options=mount.super_options,
        type=mount.type,
        shared=mount.shared,
        master=mount.master,
        hidden=graph.trees[node.namespace].hidden(mount),
    )


def outline_graph(graph: MountGraph) -> Outline:
    """Give the tree of every namespace in lines, with what hides and what propagates."""
    top = Outline(f"{len(graph.namespaces)} mount namespace(s)")
    for namespace in graph.namespaces:
        tree = graph.trees[namespace.id]
        below = top.add(f"mnt:[{namespace.id}], pid {namespace.pid}")
        if tree.root:
            _mount(below, tree, tree.root)
    return top


def _mount(above: Outline, tree: MountTree, mount: Mount) -> None:
    line = above.add(_line(tree, mount))
    for child in tree.children(mount):
        _mount(line, tree, child)


def _line(tree: MountTree, mount: Mount) -> str:
    words = [mount.mountpoint, mount.fstype]
    if mount.root != "/":
        words.append(f"[{mount.root}]")
    words += [mount.options, *mount.optional]
    if tree.hidden(mount):
        words.append("hidden")
    return " ".join(words)
