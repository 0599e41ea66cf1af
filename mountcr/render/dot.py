# SPDX-License-Identifier: Apache-2.0
"""
A mount graph in the language of Graphviz, see graphviz.org/doc/info/lang.html.

A cluster for each mount namespace, and a legend. Names of nodes are made of numbers;
whatever a container can choose is in quoted labels only. Nodes and edges have classes, so that a
page can style the SVG that is made of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.graph import Node
from mountcr.render.marks import Kind, Marks, kind_of, propagation, shown_root
from mountcr.render.text import dot_string, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.graph import Edge, MountGraph
    from mountcr.model import Mount, MountNamespace

__all__ = ["EDGES", "EdgeStyle", "dot"]


class EdgeStyle(NamedTuple):
    """How a relation is drawn, and in words what it says of the mount at its arrow."""

    color: str
    line: str
    meaning: str


EDGES: Final = {
    "parent": EdgeStyle("#777777", "solid", "is attached to the mount before it"),
    "bind": EdgeStyle("#2a6fb0", "dashed", "shows a part of the same superblock"),
    "peer": EdgeStyle("#2e8b57", "solid", "is in the same peer group"),
    "master": EdgeStyle("#c27b00", "solid", "receives what is mounted there"),
    "overmount": EdgeStyle("#c0392b", "solid", "is hidden by it"),
    "layer": EdgeStyle("#8e44ad", "dotted", "is an overlay with a layer on it"),
}
"""The kinds of edges, in the order of the legend."""

_SHAPES: Final = {
    Kind.UNION: "box3d",
    Kind.MEMORY: "cylinder",
    Kind.KERNEL: "box",
    Kind.DEVICE: "component",
    Kind.FILE: "note",
    Kind.DIRECTORY: "folder",
}

_HEAD: Final = """\
digraph mounts {
  graph [rankdir=LR, bgcolor=transparent, fontname="sans-serif", fontsize=11, ranksep=0.6]
  node [fontname="sans-serif", fontsize=10, shape=box, margin="0.12,0.06"]
  edge [fontname="sans-serif", fontsize=9, arrowsize=0.7]
"""


def dot(graph: MountGraph, marks: Marks | None = None) -> str:
    """Give the graph as text for Graphviz, in the order of the tables."""
    return "".join(_lines(graph, marks or Marks()))


def _lines(graph: MountGraph, marks: Marks) -> Iterator[str]:
    hidden = frozenset(graph.hidden())
    yield _HEAD
    for number, namespace in enumerate(graph.namespaces):
        title = f"mnt:[{namespace.id}], pid {namespace.pid}"
        yield f"  subgraph cluster_{number} {{\n"
        yield f'    graph [label={dot_string(title)}, style=rounded, color="#999999"]\n'
        yield from _nodes(namespace, marks, hidden)
        yield "  }\n"
    for edge in graph.edges():
        yield _edge(edge)
    yield from _legend()
    yield "}\n"


def _nodes(namespace: MountNamespace, marks: Marks, hidden: frozenset[Node]) -> Iterator[str]:
    for mount in namespace.mounts:
        node = Node(namespace.id, mount.id)
        kind = kind_of(mount)
        external = marks.externals.get(node)
        label = dot_string(*_label(mount, marks, external))
        styles = ["rounded"] if kind is Kind.KERNEL else []
        classes = ["mount", kind.value]
        if external is not None:
            styles.append("bold")
            classes.append("external")
        if node in hidden:
            styles.append("dashed")
            classes.append("hidden")
        style = f', style="{",".join(styles)}"' if styles else ""
        color = ', color="#2a6fb0"' if external is not None else ""
        yield (
            f"    {_name(node)} [label={label}, shape={_SHAPES[kind]}{style}{color},"
            f' class="{" ".join(classes)}"]\n'
        )


def _label(mount: Mount, marks: Marks, external: str | None) -> Iterator[str]:
    yield shortened(printable(mount.mountpoint), 60)
    root = shortened(printable(shown_root(mount)))
    yield f"{mount.fstype} [{root}]" if root else mount.fstype
    if words := " ".join(propagation(mount, marks)):
        yield words
    if external is not None:
        yield f"external {external}"


def _name(node: Node) -> str:
    return f"m{node.namespace}_{node.id}"


def _edge(edge: Edge) -> str:
    """Draw from the mount that another one depends on; only the tree decides about places."""
    style = EDGES[edge.kind]
    words = [f'color="{style.color}"', f'class="{edge.kind}"']
    if style.line != "solid":
        words.append(f"style={style.line}")
    if edge.kind == "peer":
        words.append("dir=none")
    if edge.kind != "parent":
        words.append("constraint=false")
    return f"  {_name(edge.target)} -> {_name(edge.source)} [{', '.join(words)}]\n"


def _legend() -> Iterator[str]:
    """Give the legend: a table in the subset of HTML that Graphviz knows, of constants only."""
    yield "  legend [shape=plaintext, class=legend, label=<\n"
    yield '    <table border="1" color="#999999" cellborder="0" cellspacing="2" style="rounded">\n'
    yield "    <tr><td></td><td></td><td><b>the mount at the arrow</b></td></tr>\n"
    for kind, style in EDGES.items():
        yield (
            f'    <tr><td align="left"><font color="{style.color}">{kind}</font></td>'
            f'<td align="left">{style.line}</td><td align="left">{style.meaning}</td></tr>\n'
        )
    yield "    </table>>]\n"
