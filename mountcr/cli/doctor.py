# SPDX-License-Identifier: Apache-2.0
"""`mountcr doctor`: what works on this host, found by trying it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.output import print_document
from mountcr.hosts.records import Answer
from mountcr.operations.doctor import examine

if TYPE_CHECKING:
    import argparse

    from mountcr.hosts.records import DoctorDocument

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print what was tried; 6 when a dump or a restore cannot work here, 7 for want of root."""
    found = examine()
    if arguments.json:
        print_document(found)
    else:
        from mountcr.cli.output import print_text
        from mountcr.render.doctor import text_of

        print_text(text_of(found))
    return _status(found)


def _status(found: DoctorDocument) -> int:
    if Answer.NO not in {found.dump.verdict, found.restore.verdict}:
        return 0
    privileges = found.privileges
    return 6 if privileges.euid == 0 and "CAP_SYS_ADMIN" in privileges.effective else 7
