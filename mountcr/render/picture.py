# SPDX-License-Identifier: Apache-2.0
"""
A mount graph as a picture in SVG, for machines without Graphviz.

One row a mount, moved to the right by its depth and joined to the mount that it is attached to;
every other relation is an arc in the left margin. It is meant to stand in a page of HTML, which
gives the colours by class, and makes a width and a height of what is there in one pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.graph import Node
from mountcr.render.dot import EDGES
from mountcr.render.marks import Marks, kind_of, propagation, shown_root
from mountcr.render.outline import DEEPEST
from mountcr.render.text import markup, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.graph import MountGraph
    from mountcr.model import Mount, MountNamespace

__all__ = ["svg"]

_KINDS: Final = tuple(EDGES)
_ROW: Final = 24
_STEP: Final = 20
_MARGIN: Final = 96
_CHARACTER: Final = 7.2
"""Pixels: the height of a row, the width of a level, of the margin, of a character."""


class _Place(NamedTuple):
    """Where a mount is drawn."""

    x: int
    y: int
    depth: int


def svg(graph: MountGraph, marks: Marks | None = None) -> str:
    """Give the picture, without the declarations that a file of its own would need."""
    picture = _Picture(graph, marks or Marks())
    rows = "".join(picture.rows())
    below = "".join((*picture.joins, *picture.arcs()))
    count = len(picture.places)
    return (
        f'<svg class="own" role="img" aria-label="the tree of {count} mounts"'
        f' width="{picture.width}" height="{picture.height}"'
        f' viewBox="0 0 {picture.width} {picture.height}">{below}{rows}</svg>\n'
    )


class _Picture:
    """A picture in the making: rows first, because joins and arcs need their places."""

    def __init__(self, graph: MountGraph, marks: Marks) -> None:
        self.graph = graph
        self.marks = marks
        self.hidden = frozenset(graph.hidden())
        self.places: dict[Node, _Place] = {}
        self.joins: list[str] = []
        self.width = 2 * _MARGIN
        self.height = _ROW // 2

    def rows(self) -> Iterator[str]:
        """Give the tree of every namespace."""
        for namespace in self.graph.namespaces:
            self.height += _ROW
            title = markup(f"mnt:[{namespace.id}], pid {namespace.pid}")
            yield f'<text class="title" x="{_MARGIN}" y="{self.height}">{title}</text>'
            for mount in self.graph.trees[namespace.id].walk():
                self.height += _ROW
                yield self._row(namespace, mount)
            self.height += _ROW // 2

    def _row(self, namespace: MountNamespace, mount: Mount) -> str:
        node = Node(namespace.id, mount.id)
        above = self.places.get(Node(namespace.id, mount.parent))
        depth = min(above.depth + 1, DEEPEST) if above else 0
        here = _Place(_MARGIN + depth * _STEP, self.height, depth)
        self.places[node] = here
        external = self.marks.externals.get(node)
        classes = ["mount", kind_of(mount).value]
        classes += ["external"] if external is not None else []
        classes += ["hidden"] if node in self.hidden else []
        text, length = _label(mount, self.marks, external)
        self.width = max(self.width, here.x + 24 + int(length * _CHARACTER))
        if above:
            line = f"M{above.x} {above.y}V{here.y}H{here.x}"
            self.joins.append(f'<path class="parent" d="{line}"/>')
        return (
            f'<g class="{" ".join(classes)}">'
            f'<circle cx="{here.x}" cy="{here.y}" r="5"/>'
            f'<text x="{here.x + 12}" y="{here.y + 4}">{text}</text></g>'
        )

    def arcs(self) -> Iterator[str]:
        """Give every relation but that of the tree, wider the further it reaches."""
        for edge in self.graph.edges():
            one, other = self.places.get(edge.source), self.places.get(edge.target)
            if edge.kind == "parent" or one is None or other is None:
                continue
            reach = 6 * _KINDS.index(edge.kind) + abs(one.y - other.y) // 4
            x, bulge = _MARGIN - 14, min(_MARGIN - 20, reach)
            title = markup(f"{edge.kind}: {EDGES[edge.kind].meaning}")
            yield (
                f'<path class="{edge.kind}" d="M{x} {one.y}C{x - bulge} {one.y} {x - bulge}'
                f' {other.y} {x} {other.y}"><title>{title}</title></path>'
                f'<circle class="{edge.kind}" cx="{x}" cy="{one.y}" r="2.5"/>'
            )


def _label(mount: Mount, marks: Marks, external: str | None) -> tuple[str, int]:
    """Give the text of a row as markup, and its length."""
    where = shortened(printable(mount.mountpoint), 60)
    words = [mount.fstype]
    if root := shown_root(mount):
        words.append(f"[{shortened(printable(root))}]")
    words += propagation(mount, marks)
    if external is not None:
        words.append(f"external {external}")
    rest = " ".join(words)
    text = f"<tspan>{markup(where)}</tspan> {markup(rest)}"
    return text, len(where) + len(rest) + 1
