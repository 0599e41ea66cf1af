# SPDX-License-Identifier: Apache-2.0
"""`mountcr convert`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import absolute
from mountcr.cli.output import print_document, talk
from mountcr.cli.progress import shown_progress
from mountcr.operations.convert import convert

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Write a layer in another dialect."""
    with shown_progress("converting") as progress:
        result = convert(
            absolute(arguments.layer),
            absolute(arguments.output),
            source=arguments.source,
            target=arguments.target,
            lowers=tuple(map(absolute, arguments.lower)),
            data=tuple(map(absolute, arguments.data)),
            progress=progress,
        )
    for path in result.left_out:
        talk(f"note: {path} is left out: a socket")
    if arguments.json:
        print_document(result)
    else:
        print(
            f"{result.output}: {result.files} files, {result.bytes} bytes, "
            f"{result.removed} removed, {result.opaque} opaque, {result.seconds:.2f} s"
        )
    return 0
