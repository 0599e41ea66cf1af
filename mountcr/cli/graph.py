# SPDX-License-Identifier: Apache-2.0
"""`mountcr graph`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.cli.graphviz import draw
from mountcr.cli.inputs import facts_of
from mountcr.cli.output import print_outline, print_text, to_json, write_file
from mountcr.errors import CapabilityError, NotFoundError, UsageError
from mountcr.graph import MountGraph
from mountcr.planning.planner import make_plan
from mountcr.render.graph import document, outline_graph
from mountcr.render.marks import marks_of

if TYPE_CHECKING:
    import argparse

    from mountcr.model import Facts
    from mountcr.render.marks import Marks

__all__ = ["run"]

_QUICKLY_DRAWN: Final = 300
"""Mounts that Graphviz lays out in a second or so; it takes hours for some thousands."""

_PATIENCE: Final = 20.0
"""Seconds to wait for Graphviz where there is another way to draw."""


def run(arguments: argparse.Namespace) -> int:
    """Print the graph, or write it to a file."""
    if arguments.json and arguments.format not in {None, "json"}:
        msg = f"--json and --format {arguments.format} exclude each other"
        raise UsageError(msg, hint="--json is --format json")
    facts = facts_of(arguments)
    if not facts.namespaces:
        msg = f"container {facts.container.id} does not run, so it has no mount namespace"
        raise NotFoundError(msg, hint="`mountcr plan` says what its root is made of all the same")
    graph = MountGraph(facts.namespaces)
    marks = marks_of(graph, facts, make_plan(facts).externals)
    form = "json" if arguments.json else arguments.format or "tree"
    if form == "tree" and not arguments.output:
        print_outline(outline_graph(graph, marks))
        return 0
    text = _text(form, facts, graph, marks)
    if arguments.output:
        write_file(arguments.output, text)
    else:
        print_text(text)
    return 0


def _text(form: str, facts: Facts, graph: MountGraph, marks: Marks) -> str:
    match form:
        case "json":
            return to_json(document(graph, marks))
        case "dot":
            return _dot(graph, marks)
        case "svg":
            return draw(_dot(graph, marks))
        case "html":
            return _html(facts, graph, marks)
        case _:
            return outline_graph(graph, marks).plain()


def _dot(graph: MountGraph, marks: Marks) -> str:
    from mountcr.render.dot import dot

    return dot(graph, marks)


def _html(facts: Facts, graph: MountGraph, marks: Marks) -> str:
    """Give the page, drawn by Graphviz if it is there and the graph is small enough for it."""
    from mountcr.render.html import html

    drawn = None
    if sum(len(each.mounts) for each in graph.namespaces) <= _QUICKLY_DRAWN:
        try:
            drawn = draw(_dot(graph, marks), seconds=_PATIENCE)
        except CapabilityError:
            drawn = None
    title = f"Mounts of {facts.container.engine}:{facts.container.id}"
    return html(graph, marks, title=title, drawn=drawn)
