# SPDX-License-Identifier: Apache-2.0
"""`mountcr ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import roots_of
from mountcr.cli.output import print_document, print_table, talk
from mountcr.engines import list_containers
from mountcr.observation.sizes import size_of
from mountcr.render.containers import ContainersDocument, ListedContainer, table_of_containers
from mountcr.render.text import printable

if TYPE_CHECKING:
    import argparse

    from mountcr.model import Container

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print every container that an engine knows; what is damaged is named on standard error."""
    known = list_containers(roots_of(arguments))
    listed = tuple(_listed(each, size=arguments.size) for each in known)
    if arguments.json:
        print_document(ContainersDocument(containers=listed))
    else:
        print_table(table_of_containers(listed, size=arguments.size))
    for each in known:
        for damage in each.damages:
            talk(printable(f"{each.label}: {damage}"))
    return 0


def _listed(container: Container, *, size: bool) -> ListedContainer:
    stack = container.stack
    upper = stack.upper if stack else None
    return ListedContainer(
        id=container.id,
        name=container.name,
        engine=container.engine,
        namespace=container.namespace,
        driver=container.storage,
        status=container.status,
        recorded=container.recorded,
        pid=container.pid,
        layers=len(stack.lowers) + len(stack.data) if stack else -1,
        size=size_of(upper) if size and upper else -1,
        damages=tuple(map(str, container.damages)),
    )
