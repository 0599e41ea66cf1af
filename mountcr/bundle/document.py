# SPDX-License-Identifier: Apache-2.0
"""
What a bundle is: the document that is its first member, and the names of the others.

    manifest.json            this document
    manifest.json.minisig    its signature, if it was signed
    images/NAME              CRIU's images, those of memory last
    mounts/N.tar, mounts/N   what lies on a mount that CRIU does not carry: a directory or a file
    layers/N.tar             a lower layer, the topmost is 1
    layers/upper.tar         what the writable layer changes
    foreign/NAME             what another tool had written down of the container

Layers are OCI layer tars in the normal form (`mountcr.rootfs.changes`). The document has the
digests of all other members, so what is signed or checked of it is so of the whole bundle. It comes
first and the contents of memory and of layers last, so that most questions are answered by a few
kilobytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.bundle.names import MANIFEST
from mountcr.documents import DocumentKind, read_document
from mountcr.manifest import Manifest
from mountcr.model import InodeType, Record
from mountcr.paths import KPath
from mountcr.planning.records import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BUNDLE_SCHEMA",
    "Bundle",
    "BundleLayer",
    "Carried",
    "Digested",
    "parse",
    "to_json",
]

BUNDLE_SCHEMA: Final = "mountcr/bundle/1"

_KIND: Final = DocumentKind(
    BUNDLE_SCHEMA,
    "bundle",
    damaged="fetch it again, or export the container again",
    newer="it was written by a newer mountcr; import it with that one",
    other="`mountcr export` writes bundles",
    rule=" (rule: document)",
)


class Digested(Record, frozen=True, kw_only=True):
    """A member: its name, its size in bytes, and the SHA-256 of its content in hexadecimal."""

    name: str
    size: int
    sha256: str


class BundleLayer(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A lower layer of the stack.

    `diff_id` is the digest that the image has it by, `sha256:` and hexadecimal, empty for one that
    is of no image; `chain_id` that of it and all below. `member` is the tar that the bundle has of
    it, empty where it has none; a `flat` one has all that lies below as well.
    """

    diff_id: str = ""
    chain_id: str = ""
    member: str = ""
    flat: bool = False


class Carried(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What lay on a mount of the container.

    `member` is a tar for a directory, else the content of the file, whose `mode` are the bits of
    permission and whose owner `uid` and `gid`.
    """

    mountpoint: KPath
    member: str
    type: InodeType
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


class Bundle(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A container that was dumped, ready to be put back on another host.

    `kernel` and `criu` are those of the dump. `dump` is its manifest, with the facts, and `plan`
    what follows from them. `layers` are the lower ones, top first. `left_out` are sockets in
    layers and mounts that the bundle has, which a tar cannot hold; a restored server binds its own
    again.
    """

    schema: str = BUNDLE_SCHEMA
    mountcr: str
    kernel: str
    criu: str
    plan: Plan
    dump: Manifest
    layers: tuple[BundleLayer, ...] = ()
    mounts: tuple[Carried, ...] = ()
    left_out: tuple[KPath, ...] = ()
    members: tuple[Digested, ...] = ()

    def digested(self) -> Mapping[str, Digested]:
        """Give the members by name."""
        return {each.name: each for each in self.members}


def to_json(bundle: Bundle) -> bytes:
    """Give the bytes of the document: the same for the same bundle."""
    return msgspec.json.encode(bundle)


def parse(text: bytes, shown: str) -> Bundle:
    """Read the document. Raises DocumentError naming the bundle and the field."""
    return read_document(text, Bundle, _KIND, f"{shown}: {MANIFEST}")
