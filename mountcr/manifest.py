# SPDX-License-Identifier: Apache-2.0
"""
The manifest: what lies beside CRIU's images and says whose they are and what they need.

It holds the facts as they were while the tasks were frozen, so that a restore plans from them as
a dump does, and what CRIU does not record: layers, sources of externals, contents of files.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from mountcr import __version__
from mountcr.criu.options import CgroupMode
from mountcr.documents import DocumentKind, read_document
from mountcr.errors import DocumentError, NotFoundError
from mountcr.model import Facts, Finding, Record
from mountcr.paths import KPath, decode, encode
from mountcr.planning.choices import Tcp
from mountcr.planning.files import NamedFile
from mountcr.planning.records import External, Inherited, Rootfs

__all__ = ["DESCRIPTORS", "MANIFEST", "MANIFEST_SCHEMA", "Manifest", "read", "write"]

MANIFEST: Final = "mountcr.json"
"""The file name of the manifest in an images directory."""

DESCRIPTORS: Final = "descriptors.json"
"""Where runc and crun keep, and look for, the links of descriptors 0 to 2."""

MANIFEST_SCHEMA: Final = "mountcr/manifest/1"

_KIND: Final = DocumentKind(
    MANIFEST_SCHEMA,
    "manifest",
    damaged="the dump did not finish, or the file was edited",
    newer="it was written by a newer mountcr; restore with that one",
    other="name the directory given to `mountcr dump`",
)


class Manifest(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A dump.

    `created` is UTC in ISO 8601. `rootfs`, `externals` and `inherited` are those of the plan that
    the dump was made by; `losses` were announced then. `standard_streams` are the links of
    descriptors 0 to 2 of the root task. `tcp` is what was asked for TCP connections.
    """

    schema: str = MANIFEST_SCHEMA
    mountcr: str = __version__
    created: str
    facts: Facts
    rootfs: Rootfs | None
    externals: tuple[External, ...]
    inherited: tuple[Inherited, ...]
    cgroups: CgroupMode
    files: tuple[NamedFile, ...]
    losses: tuple[Finding, ...] = ()
    standard_streams: tuple[str, ...] = ()
    tcp: Tcp | None = None
    extra: tuple[str, ...] = ()


def write(manifest: Manifest, images: KPath, *, durable: bool = True) -> None:
    """
    Write the manifest and `descriptors.json` into an images directory, whole or not at all.

    They are the owner's alone, whatever the umask: command lines and file names are in them.
    Unless `durable`, it takes no time for the disk, and may be lost with the machine.
    """
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    _replace(images, MANIFEST, text, durable=durable)
    streams = msgspec.json.encode(list(manifest.standard_streams))
    _replace(images, DESCRIPTORS, streams, durable=durable)


def _replace(images: KPath, name: str, content: bytes, *, durable: bool) -> None:
    path = os.path.join(decode(images), name.encode())
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path + b".new", flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(path + b".new", path)


def read(images: KPath) -> Manifest:
    """
    Read the manifest of an images directory.

    Raises NotFoundError when there is no such directory, DocumentError when it holds no manifest,
    a damaged one, or one of a newer version; both name the file.
    """
    path = os.path.join(decode(images), MANIFEST.encode())
    shown = encode(path)
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        if not os.path.isdir(decode(images)):
            msg = f"no such directory: {images}"
            raise NotFoundError(msg, hint="name the directory given to `mountcr dump`") from None
        msg = f"{images} is not an images directory of mountcr: it has no {MANIFEST}"
        hint = "CRIU images made by other tools hold no layers and no sources; dump with mountcr"
        raise DocumentError(msg, hint=hint) from None
    except NotADirectoryError:
        msg = f"{images} is not a directory"
        raise DocumentError(msg, hint="name the directory given to `mountcr dump`") from None
    return read_document(text, Manifest, _KIND, shown)
