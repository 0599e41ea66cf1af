# SPDX-License-Identifier: Apache-2.0
"""`mountcr inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.bundle.document import BundleLayer, Carried, Digested
from mountcr.bundle.names import is_archive
from mountcr.bundle.reader import opened
from mountcr.cli.inputs import check_of, container_of, is_foreign
from mountcr.cli.output import print_document, print_outline, talk
from mountcr.errors import GoneError, PrivilegeError
from mountcr.model import Container, Finding
from mountcr.observation import observe
from mountcr.operations.unpacking import opened_archive
from mountcr.paths import KPath
from mountcr.planning.planner import make_plan
from mountcr.planning.records import External
from mountcr.record import Record
from mountcr.render.archive import outline_archive
from mountcr.render.bundle import outline_bundle
from mountcr.render.containers import outline_container
from mountcr.render.text import printable

if TYPE_CHECKING:
    import argparse

__all__ = ["BundleDocument", "InspectDocument", "run"]

_ABOUT_RECORDS: Final = frozenset({"M4", "M17"})
"""Findings that say what of a record is damaged, or not what the mount table says."""


class InspectDocument(Record, frozen=True, kw_only=True, omit_defaults=False):
    """What is recorded of a container, and where its mount table says something else."""

    schema: str = "mountcr/inspect/1"
    container: Container
    findings: tuple[Finding, ...] = ()


def run(arguments: argparse.Namespace) -> int:
    """Print all that is recorded of a container, compared with what is mounted."""
    if is_foreign(arguments.reference):
        return _show_checkpoint(arguments)
    if is_archive(arguments.reference):
        return _show_bundle(arguments)
    container = container_of(arguments)
    document = InspectDocument(container=container, findings=_compare(container))
    if arguments.json:
        print_document(document)
    else:
        print_outline(outline_container(container, document.findings))
    return 0


class BundleDocument(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What is in a bundle, by its document; nothing else of it was read.

    `digest` is the SHA-256 of the document in hexadecimal, `signed` whether a signature is there,
    of whomever.
    """

    schema: str = "mountcr/inspect-bundle/1"
    container: Container
    digest: str
    signed: bool
    kernel: str
    criu: str
    created: str
    driver: str
    layers: tuple[BundleLayer, ...]
    mounts: tuple[Carried, ...]
    externals: tuple[External, ...]
    left_out: tuple[KPath, ...]
    members: tuple[Digested, ...]


def _show_bundle(arguments: argparse.Namespace) -> int:
    with opened(arguments.reference) as reader:
        check_of(arguments)(reader)
        bundle = reader.bundle
        document = BundleDocument(
            container=bundle.dump.facts.container,
            digest=reader.digest,
            signed=reader.signature is not None,
            kernel=bundle.kernel,
            criu=bundle.criu,
            created=bundle.dump.created,
            driver=bundle.dump.rootfs.driver if bundle.dump.rootfs else "",
            layers=bundle.layers,
            mounts=bundle.mounts,
            externals=bundle.dump.externals,
            left_out=bundle.left_out,
            members=bundle.members,
        )
    if arguments.json:
        print_document(document)
    else:
        print_outline(outline_bundle(bundle, document.digest, signed=document.signed))
    return 0


def _show_checkpoint(arguments: argparse.Namespace) -> int:
    with opened_archive(arguments.reference, contents=False) as (_, checkpoint):
        if arguments.json:
            print_document(checkpoint)
        else:
            print_outline(outline_archive(checkpoint))
    return 0


def _compare(container: Container) -> tuple[Finding, ...]:
    """Compare with the mount table, where it runs and may be looked at."""
    try:
        facts = observe(container)
    except (GoneError, PrivilegeError) as error:
        talk(printable(f"note: {error.message}; the mount table was not compared"))
        return ()
    return tuple(each for each in make_plan(facts).findings if each.rule in _ABOUT_RECORDS)
