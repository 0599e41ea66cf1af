# SPDX-License-Identifier: Apache-2.0
"""The documents that `mountcr compat` compares, read."""

from __future__ import annotations

import os

import msgspec

from mountcr.documents import schema_of
from mountcr.errors import DocumentError, NotFoundError
from mountcr.hosts.compatibility import CompatDocument, compare
from mountcr.hosts.profile import Profile, of_doctor, of_facts, of_manifest
from mountcr.hosts.records import DOCTOR_SCHEMA, DoctorDocument
from mountcr.manifest import MANIFEST, MANIFEST_SCHEMA, Manifest
from mountcr.model import FACTS_SCHEMA, Facts
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan

__all__ = ["compare_files", "read_profile"]

_HINT = "give what `mountcr doctor --json` printed there, or a directory of `mountcr dump`"


def compare_files(source: str, target: str) -> CompatDocument:
    """Compare what two files or directories tell of hosts. Raises as `read_profile` does."""
    return compare(read_profile(source), read_profile(target), files=(source, target))


def read_profile(path: str) -> Profile:
    """
    Read a doctor's document, a manifest or facts; of a directory, its manifest.

    Raises NotFoundError when nothing is there, DocumentError naming the file and the field for
    what is none of them, OSError.
    """
    file = os.path.join(path, MANIFEST) if os.path.isdir(path) else path
    try:
        with open(file, "rb") as opened:
            text = opened.read()
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {file}", hint=_HINT) from None
    try:
        return _parsed(text, file)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"{file} is damaged, or no document of mountcr: {error}"
        raise DocumentError(msg, hint=_HINT) from None


def _parsed(text: bytes, file: str) -> Profile:
    schema = schema_of(text)
    if schema == DOCTOR_SCHEMA:
        return of_doctor(msgspec.json.decode(text, type=DoctorDocument))
    if schema == MANIFEST_SCHEMA:
        return of_manifest(msgspec.json.decode(text, type=Manifest))
    if schema == FACTS_SCHEMA:
        facts = msgspec.json.decode(text, type=Facts)
        rootfs = make_plan(facts, Choices()).rootfs
        return of_facts(facts, rootfs.origin if rootfs else None)
    known = f"{DOCTOR_SCHEMA}, {MANIFEST_SCHEMA}, {FACTS_SCHEMA}"
    msg = f"{file} tells of no host: schema is {schema!r}, and none of {known}"
    raise DocumentError(msg, hint=_HINT)
