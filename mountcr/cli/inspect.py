# SPDX-License-Identifier: Apache-2.0
"""`mountcr inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.cli.inputs import container_of
from mountcr.cli.output import print_document, print_outline, talk
from mountcr.errors import GoneError, PrivilegeError
from mountcr.model import Container, Finding
from mountcr.observation import observe
from mountcr.planning.planner import make_plan
from mountcr.record import Record
from mountcr.render.containers import outline_container
from mountcr.render.text import printable

if TYPE_CHECKING:
    import argparse

__all__ = ["InspectDocument", "run"]

_ABOUT_RECORDS: Final = frozenset({"M4", "M17"})
"""Findings that say what of a record is damaged, or not what the mount table says."""


class InspectDocument(Record, frozen=True, kw_only=True, omit_defaults=False):
    """What is recorded of a container, and where its mount table says something else."""

    schema: str = "mountcr/inspect/1"
    container: Container
    findings: tuple[Finding, ...] = ()


def run(arguments: argparse.Namespace) -> int:
    """Print all that is recorded of a container, compared with what is mounted."""
    container = container_of(arguments)
    document = InspectDocument(container=container, findings=_compare(container))
    if arguments.json:
        print_document(document)
    else:
        print_outline(outline_container(container, document.findings))
    return 0


def _compare(container: Container) -> tuple[Finding, ...]:
    """Compare with the mount table, where it runs and may be looked at."""
    try:
        facts = observe(container)
    except (GoneError, PrivilegeError) as error:
        talk(printable(f"note: {error.message}; the mount table was not compared"))
        return ()
    return tuple(each for each in make_plan(facts).findings if each.rule in _ABOUT_RECORDS)
