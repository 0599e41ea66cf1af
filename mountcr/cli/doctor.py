# SPDX-License-Identifier: Apache-2.0
"""`mountcr doctor`: what works on this host, found by trying it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.output import print_document
from mountcr.hosts.diagnosis import may_mount
from mountcr.hosts.records import Answer
from mountcr.operations.doctor import examine

if TYPE_CHECKING:
    import argparse

    from mountcr.hosts.records import DoctorDocument

__all__ = ["run", "status_of"]


def run(arguments: argparse.Namespace) -> int:
    """Print what was tried; 6 when a dump or a restore cannot work here, 7 for want of root."""
    found = examine()
    if arguments.json:
        print_document(found)
    else:
        from mountcr.cli.output import print_text
        from mountcr.render.doctor import text_of

        print_text(text_of(found))
    return status_of(found)


def status_of(found: DoctorDocument) -> int:
    """Give the exit status: 0 where a dump and a restore can work, in some cases at least."""
    if Answer.NO not in {found.dump.verdict, found.restore.verdict}:
        return 0
    return 6 if may_mount(found.privileges) else 7
