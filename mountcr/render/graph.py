# SPDX-License-Identifier: Apache-2.0
"""A mount graph as an outline, and as the document that `mountcr graph --json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mountcr.graph import Node
from mountcr.graph.attributes import Attributes, all_attributes
from mountcr.model import Record
from mountcr.render.marks import Marks, propagation, shown_root
from mountcr.render.outline import Outline
from mountcr.render.text import printable

if TYPE_CHECKING:
    from mountcr.graph import MountGraph
    from mountcr.model import Mount

__all__ = ["GRAPH_SCHEMA", "GraphDocument", "document", "name_of", "outline_graph"]

GRAPH_SCHEMA = "mountcr/graph/1"


class NodeRecord(Attributes, frozen=True, kw_only=True, omit_defaults=False):
    """
    A mount with what the graph knows of it; `node` is what edges and groups name.

    `external` is the name by which CRIU is told that it comes from outside, null for none.
    """

    node: str
    external: str | None


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


def name_of(node: Node) -> str:
    """Name a mount in documents: the number of its namespace and its id."""
    return f"{node.namespace}:{node.id}"


def document(graph: MountGraph, marks: Marks | None = None) -> GraphDocument:
    """Give the graph as a document."""
    externals = (marks or Marks()).externals
    return GraphDocument(
        mounts=tuple(
            _record(node, each, externals.get(node)) for node, _, each in all_attributes(graph)
        ),
        edges=tuple(
            EdgeRecord(kind=edge.kind, source=name_of(edge.source), target=name_of(edge.target))
            for edge in graph.edges()
        ),
        groups={group: tuple(map(name_of, members)) for group, members in graph.groups().items()},
    )


def _record(node: Node, attributes: Attributes, external: str | None) -> NodeRecord:
    data: dict[str, Any] = attributes.as_data()
    return NodeRecord(node=name_of(node), external=external, **data)


def outline_graph(graph: MountGraph, marks: Marks | None = None) -> Outline:
    """Give the tree of every namespace in lines, with what hides and what propagates."""
    marks = marks or Marks()
    hidden = frozenset(graph.hidden())
    top = Outline(f"{len(graph.namespaces)} mount namespace(s)")
    for namespace in graph.namespaces:
        below = top.add(f"mnt:[{namespace.id}], pid {namespace.pid}")
        lines: dict[int, Outline] = {}
        for mount in graph.trees[namespace.id].walk():
            node = Node(namespace.id, mount.id)
            external = marks.externals.get(node)
            text = _line(mount, marks, external=external, hidden=node in hidden)
            above = lines.get(mount.parent, below)
            lines[mount.id] = above.add(printable(text), "" if external is None else "cyan")
    return top


def _line(mount: Mount, marks: Marks, *, external: str | None, hidden: bool) -> str:
    words = [mount.mountpoint, mount.fstype]
    if root := shown_root(mount):
        words.append(f"[{root}]")
    words += [mount.options, *propagation(mount, marks)]
    if external is not None:
        words.append(f"external {external}")
    if hidden:
        words.append("hidden")
    return " ".join(words)
