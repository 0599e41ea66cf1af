# SPDX-License-Identifier: Apache-2.0
"""`mountcr graph`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import facts_of
from mountcr.cli.output import print_document, print_outline, to_json
from mountcr.errors import NotFoundError
from mountcr.graph import MountGraph
from mountcr.render.graph import document, outline_graph

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print the graph, or write it to a file."""
    facts = facts_of(arguments)
    if not facts.namespaces:
        msg = f"container {facts.container.id} does not run, so it has no mount namespace"
        raise NotFoundError(msg, hint="`mountcr plan` says what its root is made of all the same")
    graph = MountGraph(facts.namespaces)
    as_json = arguments.json or arguments.format == "json"
    if arguments.output:
        text = to_json(document(graph)) if as_json else outline_graph(graph).plain()
        with open(arguments.output, "w", encoding="utf-8") as file:
            file.write(text)
    elif as_json:
        print_document(document(graph))
    else:
        print_outline(outline_graph(graph))
    return 0
