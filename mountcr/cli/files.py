# SPDX-License-Identifier: Apache-2.0
"""`mountcr files`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import facts_of
from mountcr.cli.output import print_document, print_table, talk
from mountcr.errors import NotFoundError
from mountcr.render.files import table_of_files
from mountcr.render.text import printable
from mountcr.resolution.files import FilesDocument, resolve

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print every file, or with `--quirks` those that the kernel shows otherwise than they are."""
    facts = facts_of(arguments, thorough=True)
    if not facts.tasks:
        msg = f"container {facts.container.id} does not run, so nothing is open"
        raise NotFoundError(msg, hint="`mountcr plan` says what its root is made of all the same")
    files = tuple(each for each in resolve(facts) if each.quirks or not arguments.quirks)
    if arguments.json:
        print_document(FilesDocument(container=facts.container.id, files=files))
    else:
        print_table(table_of_files(files))
    for each in facts.unseen:
        talk(printable(f"note: {each.what} was not seen: {each.why}"))
    return 0
