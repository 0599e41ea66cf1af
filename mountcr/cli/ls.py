# SPDX-License-Identifier: Apache-2.0
"""`mountcr ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import roots_of
from mountcr.cli.output import print_document, print_table, talk
from mountcr.engines import survey
from mountcr.observation.sizes import size_of
from mountcr.render.containers import ContainersDocument, listed, table_of_containers
from mountcr.render.text import printable

if TYPE_CHECKING:
    import argparse

    from mountcr.model import Container

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print every container that an engine knows; what is damaged is named on standard error."""
    known, damages = survey(roots_of(arguments))
    rows = tuple(listed(each, size=_size(each) if arguments.size else -1) for each in known)
    if arguments.json:
        print_document(ContainersDocument(containers=rows))
    else:
        print_table(table_of_containers(rows, size=arguments.size))
    for each in known:
        for damage in each.damages:
            talk(printable(f"{each.label}: {damage}"))
    for engine, damage in damages:
        talk(printable(f"{engine}: {damage}"))
    return 0


def _size(container: Container) -> int:
    stack = container.stack
    return size_of(stack.upper) if stack and stack.upper else -1
