# SPDX-License-Identifier: Apache-2.0
"""`mountcr schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mountcr.cli.output import print_document
from mountcr.errors import NotFoundError

if TYPE_CHECKING:
    import argparse

__all__ = ["documents", "run"]


def documents() -> dict[str, type[msgspec.Struct]]:
    """Give the type of every document by its name."""
    from mountcr.bundle.document import Bundle
    from mountcr.bundle.foreign import ForeignCheckpoint
    from mountcr.cli.inspect import BundleDocument, InspectDocument
    from mountcr.hosts.compatibility import CompatDocument
    from mountcr.hosts.records import DoctorDocument
    from mountcr.manifest import Manifest
    from mountcr.model import Facts
    from mountcr.operations.cleanup import CleanupResult
    from mountcr.operations.convert import ConvertResult
    from mountcr.operations.dump import DumpResult
    from mountcr.operations.exporting import ExportResult
    from mountcr.operations.foreign_import import ConvertedArchive
    from mountcr.operations.images import ImagesResult
    from mountcr.operations.importing import ImportResult
    from mountcr.operations.rebuild import RebuildResult
    from mountcr.operations.restore import RestoreResult
    from mountcr.operations.verify import VerifyResult
    from mountcr.planning.records import Plan
    from mountcr.render.containers import ContainersDocument
    from mountcr.render.graph import GraphDocument
    from mountcr.resolution.files import FilesDocument
    from mountcr.rootfs.fingerprint import Fingerprint

    return {
        "archive": ForeignCheckpoint,
        "bundle": Bundle,
        "compat": CompatDocument,
        "convert": ConvertResult,
        "convert-archive": ConvertedArchive,
        "cleanup": CleanupResult,
        "doctor": DoctorDocument,
        "dump": DumpResult,
        "export": ExportResult,
        "facts": Facts,
        "files": FilesDocument,
        "fingerprint": Fingerprint,
        "graph": GraphDocument,
        "images": ImagesResult,
        "import": ImportResult,
        "inspect": InspectDocument,
        "inspect-bundle": BundleDocument,
        "ls": ContainersDocument,
        "manifest": Manifest,
        "plan": Plan,
        "rebuild": RebuildResult,
        "restore": RestoreResult,
        "verify": VerifyResult,
    }


def run(arguments: argparse.Namespace) -> int:
    """Print a schema."""
    known = documents()
    if arguments.document not in known:
        msg = f"no document is called {arguments.document!r}"
        raise NotFoundError(msg, hint=f"documents: {', '.join(sorted(known))}")
    print_document(msgspec.json.schema(known[arguments.document]))
    return 0
