# SPDX-License-Identifier: Apache-2.0
"""
Fingerprints: what a root file system was, short enough to be kept beside the images of a dump.

The writable layer is recorded path by path, with digests of contents. Of the layers below, which
belong to images and are written by nobody, either everything goes into one digest each, or, as
reading them takes longer than many a dump, only which directory the layer is: its inode number,
and when the directory itself was last changed. That tells a layer that was pulled again, moved or
replaced, but not one that was changed somewhere inside. Device numbers are not in it, because they
change when the machine starts again.
"""

from __future__ import annotations

import hashlib
import os
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.documents import DocumentKind, read_document
from mountcr.model import InodeType, Record
from mountcr.paths import KPath, decode, encode
from mountcr.rootfs.changes import changes, everything
from mountcr.rootfs.digests import Digester, LayerDigest
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.opened import opened
from mountcr.rootfs.tree import shown
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mountcr.rootfs.dialect import Entry
    from mountcr.rootfs.digests import Digest
    from mountcr.rootfs.tree import Content, Tree
    from mountcr.rootfs.view import View

__all__ = [
    "FINGERPRINT",
    "FINGERPRINT_SCHEMA",
    "Change",
    "Extent",
    "Fingerprint",
    "Kind",
    "LayerFingerprint",
    "classify",
    "identity",
    "layer_digest",
    "read",
    "take",
    "write",
]

FINGERPRINT: Final = "fingerprint.json"
"""The file name of the fingerprint in an images directory."""

FINGERPRINT_SCHEMA: Final = "mountcr/fingerprint/1"

_KIND: Final = DocumentKind(
    FINGERPRINT_SCHEMA,
    "fingerprint",
    damaged="the dump did not finish, or the file was edited",
    newer="it was written by a newer mountcr; verify with that one",
    other="it is beside the images of a dump that `mountcr dump` made",
)


class Extent(StrEnum):
    """How much is read: the writable layer, or the contents of all layers."""

    UPPER = "upper"
    ALL = "all"


class Kind(StrEnum):
    """
    What a layer does to what lies below at a path.

    `same` was copied up and differs in nothing; `metadata` differs in all but the content;
    `replaced` is of another type.
    """

    ADDED = "added"
    MODIFIED = "modified"
    METADATA = "metadata"
    SAME = "same"
    REPLACED = "replaced"
    REMOVED = "removed"


class Change(Record, frozen=True, kw_only=True, gc=False):
    """
    What a layer has at a path, from the root of the container.

    `inode` is None for what it removes; in it the time of access, identity and number of links are
    not recorded. `digest` is the SHA-256 of the content of a regular file in hexadecimal, empty
    where it was not read, and for `link`, which names the earlier path that this is a hard link of.
    """

    path: KPath
    kind: Kind
    opaque: bool = False
    inode: Inode | None = None
    digest: str = ""
    link: KPath | None = None


class LayerFingerprint(Record, frozen=True, kw_only=True):
    """
    What a layer was: digests in hexadecimal, each empty where it was not asked for.

    `identity` is that of the directory, `metadata` that of all it changes of the layers below
    without contents, `digest` that with contents (`mountcr.rootfs.digests`). `changes` are those of
    the writable layer, `index` is that of its `StoredLayer`.
    """

    path: KPath
    dialect: str
    identity: str
    metadata: str = ""
    digest: str = ""
    changes: tuple[Change, ...] | None = None
    index: KPath | None = None


class Fingerprint(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What a root file system was: its layers, top first, and overlay's data-only ones below them.

    `extent` tells how much was read, so that others compare like with like.
    """

    schema: str = FINGERPRINT_SCHEMA
    extent: Extent
    layers: tuple[LayerFingerprint, ...]
    data: tuple[LayerFingerprint, ...] = ()


_DEFAULT: Final = Inode(type=InodeType.FILE, mode=0)
"""Has the very tuple that msgspec knows as the default and leaves out."""


# --- Taking ---------------------------------------------------------------------------------------


def take(
    layers: Sequence[StoredLayer],
    data: Sequence[KPath] = (),
    *,
    extent: Extent = Extent.UPPER,
    contents: bool = True,
) -> Fingerprint:
    """
    Take the fingerprint of layers, top first, of which the topmost is the writable one.

    But for `identity` it is a pure function of what is in them. Without `contents`, no content is
    read. Raises OSError naming what cannot be read, and RefusedError naming the path where a mark
    points to a layer that is not there.
    """
    plain = tuple(StoredLayer(path=path, dialect="vfs") for path in data)
    whole = len(layers) if extent is Extent.ALL else 1
    with opened(layers, data) as view:
        found: list[LayerFingerprint] = []
        below = view
        for layer, where in zip(view.layers[:whole], layers, strict=False):
            below = below.below()
            entries = changes(layer, below, writable=not found)
            found.append(_taken(where, entries, below, contents, not found))
    found += map(_identified, layers[whole:])
    if extent is Extent.ALL:
        return Fingerprint(
            extent=extent,
            layers=tuple(found),
            data=tuple(_alone(each, contents) for each in plain),
        )
    return Fingerprint(extent=extent, layers=tuple(found), data=tuple(map(_identified, plain)))


def layer_digest(entries: Iterable[Entry]) -> str:
    """Give the digest of what a layer changes, with contents. Raises OSError, RefusedError."""
    digest = LayerDigest()
    with Digester() as digester:
        for entry, found in digester.in_order(_begun(entries, None, digester)):
            digest.add(entry, found[0])
    return digest.whole()


def classify(entries: Iterable[Entry], below: View, *, contents: bool = True) -> Iterator[Change]:
    """
    Say of entries what they do to what lies below.

    Contents are compared where sizes are equal; without `contents`, a file whose time of
    modification is that of the one below counts as having its content. Raises OSError, RefusedError
    naming a file whose content no layer has.
    """
    with Digester() as digester:
        yield from (change for _, change in _classified(entries, below, digester, contents))


def identity(path: KPath) -> str:
    """Give the digest of which directory lies at a path. Raises OSError."""
    found = os.stat(decode(path))
    words = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
    return hashlib.sha256(msgspec.msgpack.encode(words)).hexdigest()


def _identified(layer: StoredLayer) -> LayerFingerprint:
    return LayerFingerprint(
        path=layer.path,
        dialect=layer.dialect,
        index=layer.index,
        identity=identity(layer.path),
    )


def _alone(layer: StoredLayer, contents: bool) -> LayerFingerprint:
    """Take the fingerprint of a layer that lies on nothing and is not written into."""
    with opened((layer,)) as view:
        return _taken(layer, everything(view), None, contents, record=False)


def _taken(
    layer: StoredLayer,
    entries: Iterable[Entry],
    below: View | None,
    contents: bool,
    record: bool,
) -> LayerFingerprint:
    """Take the fingerprint of a layer, with a record of every path or without."""
    digest = LayerDigest()
    recorded: list[Change] = []
    with Digester() as digester:
        if record and below is not None:
            for entry, change in _classified(entries, below, digester, contents):
                digest.add(entry, change.digest)
                recorded.append(change)
        else:
            begun = _begun(entries, None, digester if contents else None)
            for entry, found in digester.in_order(begun):
                digest.add(entry, found[0])
    return msgspec.structs.replace(
        _identified(layer),
        metadata=digest.metadata(),
        digest=digest.whole() if contents else "",
        changes=tuple(recorded) if record else None,
    )


# --- Contents -------------------------------------------------------------------------------------


def _begun(
    entries: Iterable[Entry], below: View | None, digester: Digester | None
) -> Iterator[tuple[Entry, tuple[Digest, Digest]]]:
    """Begin to hash the content of each entry, and of what it may be the same as below."""
    for entry in entries:
        if digester is None or entry.inode is None or not entry.inode.is_file:
            yield entry, ("", "")
            continue
        own: Digest = digester.start(_open(entry.source)) if entry.source else ""
        other: Digest = ""
        lower = below.inode(entry.path) if below else None
        if below and lower and lower.is_file and lower.size == entry.inode.size:
            source = below.source(entry.path)
            other = own if source == entry.source else digester.start(_open(source))
        yield entry, (own, other)


def _open(source: tuple[Tree, bytes]) -> Content:
    tree, path = source
    return tree.content(path)


def _classified(
    entries: Iterable[Entry], below: View, digester: Digester, contents: bool
) -> Iterator[tuple[Entry, Change]]:
    digests: dict[bytes, str] = {}
    begun = _begun(entries, below, digester if contents else None)
    for entry, (own, other) in digester.in_order(begun):
        if entry.inode and entry.inode.nlink > 1:
            digests[entry.path] = own
        linked = digests.get(entry.link, "") if entry.link is not None else own
        lower = below.inode(entry.path) if entry.inode else None
        if contents:
            same = linked == other
        else:
            same = bool(entry.inode and lower and entry.inode.mtime == lower.mtime)
        inode = _recorded(entry.inode) if entry.inode else None
        yield (
            entry,
            Change(
                path=shown(entry.path),
                kind=_kind(inode, lower and _recorded(lower), same),
                opaque=entry.opaque,
                inode=inode,
                digest=own,
                link=None if entry.link is None else shown(entry.link),
            ),
        )


def _recorded(inode: Inode) -> Inode:
    """Leave out what is not compared anywhere."""
    return msgspec.structs.replace(inode, atime=0, identity=_DEFAULT.identity, nlink=1)


def _kind(inode: Inode | None, lower: Inode | None, same: bool) -> Kind:
    """Say what an inode does to the one below; `same` is about the content of two files."""
    if inode is None:
        return Kind.REMOVED
    if lower is None:
        return Kind.ADDED
    if inode.type is not lower.type:
        return Kind.REPLACED
    if (inode.size, inode.target, inode.rdev) != (lower.size, lower.target, lower.rdev):
        return Kind.MODIFIED
    if inode.is_file and not same:
        return Kind.MODIFIED
    return Kind.SAME if inode == lower else Kind.METADATA


# --- The document ---------------------------------------------------------------------------------


def write(fingerprint: Fingerprint, images: KPath) -> None:
    """Write a fingerprint into an images directory, for its owner only, whole or not at all."""
    path = os.path.join(decode(images), FINGERPRINT.encode())
    text = msgspec.json.encode(fingerprint)
    fd = os.open(path + b".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    os.replace(path + b".new", path)


def read(images: KPath) -> Fingerprint | None:
    """
    Read the fingerprint of an images directory; None if there is none.

    Raises DocumentError naming the file when it is damaged or of a newer version.
    """
    path = os.path.join(decode(images), FINGERPRINT.encode())
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    return read_document(text, Fingerprint, _KIND, encode(path))
