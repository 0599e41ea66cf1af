# SPDX-License-Identifier: Apache-2.0
"""
containerd's own database: `meta.db`, with namespaces, and their containers and snapshots.

Its buckets are those of core/metadata/buckets.go of containerd 2.0, the same since 1.1:
`v1/NAMESPACE/containers/ID` and `v1/NAMESPACE/snapshots/SNAPSHOTTER/KEY`, whose `name` is what the
snapshotter calls the snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr import bolt
from mountcr.errors import DocumentError
from mountcr.paths import encode

if TYPE_CHECKING:
    from mountcr.bolt import Bucket

__all__ = [
    "Flaw",
    "Images",
    "Listing",
    "Row",
    "base_of",
    "complaint",
    "images",
    "read",
    "snapshot_name",
    "text",
]

_VERSION: Final = b"v1"
_UNPACKED: Final = b"containerd.io/gc.ref.snapshot."
"""What the label begins with of a configuration whose layers are snapshots."""

_BETWEEN: Final = 8
"""At most so many snapshots of a container are not of its image; an engine makes one or two."""

_CHAIN_ID: Final = b"sha256:"
"""What the keys of snapshots begin with that are layers of images."""


class Flaw(NamedTuple):
    """What is wrong with a field of a database."""

    field: str
    what: str


class Row(NamedTuple):
    """
    A container of a database.

    `field` is its bucket. `key` is the snapshot that its root file system is, by its name in
    `snapshotter`, and `snapshot` the name that the snapshotter itself has for it; `runtime_options`
    and `spec` are wrapped (`mountcr.engines.containerd.wire`).
    """

    namespace: str
    id: str
    field: str
    image: str = ""
    snapshotter: str = ""
    key: str = ""
    snapshot: str = ""
    sandbox: str = ""
    runtime_options: bytes = b""
    spec: bytes = b""
    labels: dict[str, str] = {}
    flaws: tuple[Flaw, ...] = ()


class Listing(NamedTuple):
    """What a database says; with `flaws` of its own, not all containers may be in it."""

    rows: list[Row]
    flaws: list[Flaw]


def read(file: str, namespace: str = "") -> Listing:
    """Read the containers of a database, of one namespace or of all; nothing is raised."""
    try:
        return bolt.read(encode(file), lambda bucket: _listing(bucket, namespace))
    except (DocumentError, OSError) as error:
        return Listing([], [Flaw("", complaint(error, file))])


def base_of(file: str, namespace: str, container: str, snapshotter: str = "") -> str:
    """
    Give the chain id of the image that a container is on; empty where that is not on record.

    With a snapshotter, the snapshot of the container is called by its id, as Docker does it. What
    is between it and the image, as the layer of Docker's own files, is passed. Raises DocumentError
    or OSError.
    """
    return bolt.read(encode(file), lambda bucket: _base(bucket, namespace, container, snapshotter))


class Images(NamedTuple):
    """
    What a database says of unpacked images.

    `configurations` are the digests of their configurations. `snapshots` has, for each snapshotter,
    the names that it has for snapshots, with their keys, which are chain ids.
    """

    configurations: list[str]
    snapshots: dict[str, dict[str, str]]
    flaws: list[Flaw]


def images(file: str, namespace: str = "") -> Images:
    """Read what is said of images, in one namespace or in all; nothing is raised."""
    try:
        return bolt.read(encode(file), lambda bucket: _images(bucket, namespace))
    except (DocumentError, OSError) as error:
        return Images([], {}, [Flaw("", complaint(error, file))])


def snapshot_name(file: str, namespace: str, snapshotter: str, key: str) -> str | None:
    """
    Give the name that a snapshotter has for a snapshot, None if there is no such snapshot.

    Raises DocumentError or OSError.
    """
    keys = [namespace.encode(), b"snapshots", snapshotter.encode(), key.encode()]

    def name(bucket: Bucket) -> str | None:
        found = bucket.bucket(_VERSION, *keys)
        return None if found is None else text(found, b"name")

    return bolt.read(encode(file), name)


def complaint(error: Exception, file: str) -> str:
    """Say what is wrong without the name of the file, which stands beside it."""
    if isinstance(error, OSError):
        return error.strerror or "cannot be read"
    return str(error).removeprefix(encode(file)).lstrip(": ")


def text(bucket: Bucket, key: bytes) -> str:
    """Give a value as text, empty where there is none."""
    return _spell(bucket.get(key) or b"")


def _spell(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _listing(bucket: Bucket, namespace: str) -> Listing:
    found = Listing([], [])
    top = bucket.bucket(_VERSION)
    if top is None:
        found.flaws.append(Flaw("v1", "is missing; containerd since 1.0 has it"))
        return found
    try:
        for key, space in top.buckets():
            if not namespace or key == namespace.encode():
                _add(found, _spell(key), space)
    except DocumentError as error:
        found.flaws.append(Flaw("v1", _what(error)))
    return found


def _add(found: Listing, namespace: str, space: Bucket) -> None:
    """Add the containers of a namespace, up to the first page that is damaged."""
    field = f"v1/{namespace}/containers"
    try:
        containers = space.bucket(b"containers")
        for key, bucket in containers.buckets() if containers else ():
            found.rows.append(_row(namespace, _spell(key), bucket, space))
    except DocumentError as error:
        found.flaws.append(Flaw(field, _what(error)))


def _row(namespace: str, name: str, bucket: Bucket, space: Bucket) -> Row:
    """Read a container; from a page that is damaged on, nothing of it is known."""
    row = Row(namespace, name, f"v1/{namespace}/containers/{name}")
    try:
        values = dict(bucket.pairs())
        labels, runtime = bucket.bucket(b"labels"), bucket.bucket(b"runtime")
        row = row._replace(
            image=_spell(values.get(b"image", b"")),
            snapshotter=_spell(values.get(b"snapshotter", b"")),
            key=_spell(values.get(b"snapshotKey", b"")),
            sandbox=_spell(values.get(b"sandboxid", b"")),
            spec=values.get(b"spec", b""),
            labels={_spell(key): _spell(value) for key, value in labels.pairs()} if labels else {},
            runtime_options=(runtime.get(b"options") or b"") if runtime else b"",
        )
    except DocumentError as error:
        return row._replace(flaws=(Flaw(row.field, _what(error)),))
    return _with_snapshot(row, space)


def _with_snapshot(row: Row, space: Bucket) -> Row:
    """Add the name that the snapshotter has for the snapshot of a container."""
    if not row.key:
        return row
    field = f"v1/{row.namespace}/snapshots/{row.snapshotter}/{row.key}"
    try:
        keys = row.snapshotter.encode(), row.key.encode()
        found = space.bucket(b"snapshots", *keys) if all(keys) else None
        if found is None:
            return row._replace(flaws=(Flaw(field, f"is missing; {row.field} names it"),))
        name = text(found, b"name")
    except DocumentError as error:
        return row._replace(flaws=(Flaw(field, _what(error)),))
    if not name:
        return row._replace(flaws=(Flaw(f"{field}/name", "is missing"),))
    return row._replace(snapshot=name)


def _images(bucket: Bucket, namespace: str) -> Images:
    found = Images([], {}, [])
    top = bucket.bucket(_VERSION)
    try:
        for key, space in top.buckets() if top else ():
            if not namespace or key == namespace.encode():
                _add_images(found, _spell(key), space)
    except DocumentError as error:
        found.flaws.append(Flaw("v1", _what(error)))
    return found


def _base(bucket: Bucket, namespace: str, container: str, snapshotter: str) -> str:
    space = bucket.bucket(_VERSION, namespace.encode())
    at = container.encode()
    word = snapshotter.encode()
    if space and not snapshotter:
        record = space.bucket(b"containers", at)
        at = (record.get(b"snapshotKey") or b"") if record else b""
        word = (record.get(b"snapshotter") or b"") if record else b""
    snapshots = space.bucket(b"snapshots", word) if space else None
    for _ in range(_BETWEEN):
        found = snapshots.bucket(at) if snapshots else None
        at = (found.get(b"parent") or b"") if found else b""
        if at.startswith(_CHAIN_ID):
            return _spell(at)
    return ""


def _add_images(found: Images, namespace: str, space: Bucket) -> None:
    """Add what a namespace has, up to the first page that is damaged."""
    part = "content"
    try:
        blobs = space.bucket(b"content", b"blob")
        for digest, blob in blobs.buckets() if blobs else ():
            labels = blob.bucket(b"labels")
            if labels and any(label.startswith(_UNPACKED) for label in labels):
                found.configurations.append(_spell(digest))
        part = "snapshots"
        snapshotters = space.bucket(b"snapshots")
        for snapshotter, snapshots in snapshotters.buckets() if snapshotters else ():
            names = found.snapshots.setdefault(_spell(snapshotter), {})
            for key, snapshot in snapshots.buckets():
                if key.startswith(_CHAIN_ID):
                    names[text(snapshot, b"name")] = _spell(key)
    except DocumentError as error:
        found.flaws.append(Flaw(f"v1/{namespace}/{part}", _what(error)))


def _what(error: DocumentError) -> str:
    """Say what is wrong with a page; the file stands before the first colon."""
    return str(error).partition(": ")[2] or str(error)
