# SPDX-License-Identifier: Apache-2.0
"""
A mount graph as one page of HTML: the picture, and a table to search and sort.

The page refers to nothing outside of itself, and says so to the browser (Content-Security-Policy).
Without JavaScript it is the same picture and a plain table. Its style and its script are files
beside this one.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Final

from mountcr.graph.attributes import all_attributes
from mountcr.render.dot import EDGES
from mountcr.render.marks import Marks, propagation
from mountcr.render.picture import svg
from mountcr.render.text import markup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.graph import MountGraph, Node
    from mountcr.graph.attributes import Attributes
    from mountcr.model import Mount

__all__ = ["LARGEST_PICTURE", "html"]

LARGEST_PICTURE: Final = 2000
"""With more mounts than that, a page has no picture: browsers would take minutes for it."""

_NAMESPACES = ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


_COLUMNS: Final = (
    "Mountpoint",
    "Type",
    "External",
    "State",
    "Propagation",
    "Root",
    "Source",
    "Flags",
    "Superblock",
    "Device",
    "Namespace",
    "Id",
    "Parent",
)


def html(
    graph: MountGraph, marks: Marks | None = None, *, title: str, drawn: str | None = None
) -> str:
    """Give the page. `drawn` is the SVG that Graphviz made of the graph, None to draw it here."""
    return "".join(_page(graph, marks or Marks(), title, drawn))


def _page(graph: MountGraph, marks: Marks, title: str, drawn: str | None) -> Iterator[str]:
    style, script = _part("page.css"), _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    count = sum(len(each.mounts) for each in graph.namespaces)
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{markup(policy)}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield '<meta name="color-scheme" content="light dark">\n'
    yield f"<title>{markup(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
    yield f"<h1>{markup(title)}</h1>\n<p>{_summary(graph, marks, count)}</p>\n"
    yield from _figure(graph, marks, count, drawn)
    yield from _table(graph, marks)
    yield f"<script>{script}</script>\n</body>\n</html>\n"


def _part(name: str) -> str:
    return resources.files("mountcr.render").joinpath(name).read_text(encoding="utf-8")


def _summary(graph: MountGraph, marks: Marks, count: int) -> str:
    hidden = sum(1 for _ in graph.hidden())
    return (
        f"{count} mounts in {len(graph.namespaces)} mount namespace(s),"
        f" {len(marks.externals)} from outside, {hidden} hidden by others"
    )


def _figure(graph: MountGraph, marks: Marks, count: int, drawn: str | None) -> Iterator[str]:
    if count > LARGEST_PICTURE:
        yield f"<p>There is no picture of more than {LARGEST_PICTURE} mounts.</p>\n"
        return
    yield '<figure class="picture" tabindex="0" role="group" aria-label="picture">\n'
    if drawn is not None:
        yield drawn[drawn.index("<svg") :].replace(_NAMESPACES, "", 1)
        yield "</figure>\n"
        return
    yield svg(graph, marks)
    yield "<figcaption>The mount at the dot of an arc:\n<ul>\n"
    for kind in ("bind", "peer", "master", "overmount", "layer"):
        yield f'<li class="{kind}">{kind}: {markup(EDGES[kind].meaning)}</li>\n'
    yield "</ul></figcaption>\n</figure>\n"


def _table(graph: MountGraph, marks: Marks) -> Iterator[str]:
    yield '<p class="search" hidden><label>Search <input type="search" id="search"></label>'
    yield ' <output id="count" for="search"></output></p>\n'
    yield '<div class="scroll" tabindex="0" role="group" aria-label="table">\n<table>\n<thead><tr>'
    yield from (f'<th scope="col">{title}</th>' for title in _COLUMNS)
    yield "</tr></thead>\n<tbody>\n"
    for node, mount, attributes in all_attributes(graph):
        yield _table_row(node, mount, attributes, marks)
    yield "</tbody>\n</table>\n</div>\n"


def _table_row(node: Node, mount: Mount, attributes: Attributes, marks: Marks) -> str:
    external = marks.externals.get(node)
    states = [name for name in ("hidden", "deleted", "unbindable") if getattr(attributes, name)]
    cells = (
        attributes.mountpoint,
        attributes.fstype,
        external or "",
        " ".join(states),
        " ".join(propagation(mount, marks)),
        attributes.root,
        attributes.source or "",
        attributes.raw_options,
        attributes.raw_super_options,
        attributes.dev,
        str(node.namespace),
        str(node.id),
        str(attributes.parent),
    )
    classes = " ".join([*(["external"] if external is not None else []), *states])
    text = "".join(f"<td>{markup(cell).replace(',', ',<wbr>')}</td>" for cell in cells)
    return f'<tr class="{classes}">{text}</tr>\n' if classes else f"<tr>{text}</tr>\n"
