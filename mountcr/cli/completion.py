# SPDX-License-Identifier: Apache-2.0
"""`mountcr completion`, and what a shell is told while somebody types a reference."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from argcomplete import autocomplete
from argcomplete.shell_integration import shellcode

from mountcr.cli.inputs import roots_of
from mountcr.engines import names

if TYPE_CHECKING:
    import argparse

__all__ = ["complete", "references", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Print the script for a shell."""
    sys.stdout.write(shellcode(["mountcr"], shell=arguments.shell))
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell that asks, by the variable _ARGCOMPLETE, and end the process."""
    autocomplete(parser)


def references(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Give the names of the containers that begin so, and with something typed their ids."""
    found = names(roots_of(parsed_args), ids=bool(prefix))
    return [each for each in found if each.startswith(prefix)]
