# SPDX-License-Identifier: Apache-2.0
"""`mountcr demo`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mountcr.cli.output import print_document, talk
from mountcr.demo.show import demonstrate
from mountcr.errors import PrivilegeError

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration; with --json the talk goes to standard error."""
    if os.geteuid() != 0:
        raise PrivilegeError("the demo mounts and dumps, which needs root", hint="run as root")
    result = demonstrate(arguments.driver, talk if arguments.json else print)
    if arguments.json:
        print_document(result)
    else:
        print(
            f"counter {result.started} -> {result.dumped} (dump) -> {result.restored} "
            f"(restored on {result.driver}) in {result.seconds:.1f} s"
        )
    return 0
