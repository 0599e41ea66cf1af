# SPDX-License-Identifier: Apache-2.0
"""
The layers of an image of this host, by what somebody else calls the image.

The id of an image is the digest of its configuration, which has the DiffIDs of its layers, so that
what an engine keeps under an id is believed for its digest alone. A manifest leads to a
configuration, and a name, which anybody may give to any image, to either.

containers/storage keeps a configuration as big data of the image, in a file that is called by the
base64 of its digest (container-libs storage, `makeBigDataBaseName()`); Docker in
`image/DRIVER/imagedb/content/sha256` (moby image/fs.go), containerd in its content store.
"""

from __future__ import annotations

import base64
import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from mountcr import bolt
from mountcr.engines.containerd.places import instances
from mountcr.engines.docker.places import Usual, sites
from mountcr.engines.imagelayers import is_digest
from mountcr.engines.reading import Reader, names_in
from mountcr.engines.storage.engine import Stores
from mountcr.engines.storage.places import drivers_of
from mountcr.engines.storage.records import ImageEntry
from mountcr.engines.storage.store import entries
from mountcr.errors import DocumentError
from mountcr.paths import encode, fsdecode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.bolt import Bucket
    from mountcr.engines.roots import Roots

__all__ = ["By", "ImageRecord", "find_image"]

T = TypeVar("T")

_BLOBS: Final = "io.containerd.content.v1.content/blobs/sha256"
_SHA256: Final = "sha256:"
_DEEPEST: Final = 4
"""How often an index may lead to another one."""


class By(StrEnum):
    """What an image was found by."""

    ID = "id"
    DIGEST = "digest"
    NAME = "name"


class ImageRecord(NamedTuple):
    """
    An image of this host: its id, `sha256:` and 64 digits, and the DiffIDs of its layers.

    The topmost layer comes first.

    `provenance` is the file with its configuration.
    """

    id: str
    diff_ids: tuple[str, ...]
    by: By
    provenance: str


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] = ()


class _Configuration(msgspec.Struct, frozen=True):
    """The configuration of an image (OCI image-spec, config.md)."""

    rootfs: _RootFs = _RootFs()


class _Descriptor(msgspec.Struct, frozen=True):
    digest: str = ""


class _Manifest(msgspec.Struct, frozen=True):
    """A manifest of OCI or Docker, or an index of such."""

    config: _Descriptor | None = None
    manifests: tuple[_Descriptor, ...] | None = None


class _Repositories(msgspec.Struct, frozen=True):
    """`repositories.json` of Docker: images by their names with tag or digest, by repository."""

    repositories: dict[str, dict[str, str]] = msgspec.field(
        default_factory=dict[str, dict[str, str]], name="Repositories"
    )


class _Wanted(NamedTuple):
    """What an image is called: its id, the digests of its manifest, its name."""

    id: str
    digests: frozenset[str]
    name: str


class _Candidate(NamedTuple):
    """A configuration that may be that of the image: the file, and its digest."""

    file: str
    digest: str
    by: By
    reader: Reader


def find_image(
    roots: Roots, *, image_id: str = "", digests: tuple[str, ...] = (), name: str = ""
) -> ImageRecord | None:
    """
    Find an image in the stores of this host; None if it is in none.

    One with the id is preferred to one with one of the `digests`, and that to one with the name.
    What is damaged is passed over.
    """
    wanted_id = image_id if not image_id or image_id.startswith(_SHA256) else _SHA256 + image_id
    wanted = _Wanted(wanted_id, frozenset(filter(is_digest, digests)), name)
    found: dict[By, ImageRecord] = {}
    for candidate in _candidates(roots, wanted):
        if candidate.by not in found and (record := _record(candidate)):
            found[candidate.by] = record
            if candidate.by is By.ID:
                break
    return next((found[by] for by in By if by in found), None)


def _candidates(roots: Roots, wanted: _Wanted) -> Iterator[_Candidate]:
    yield from _of_storage(roots, wanted)
    yield from _of_docker(roots, wanted)
    yield from _of_containerd(roots, wanted)


def _record(candidate: _Candidate) -> ImageRecord | None:
    """Read a configuration that is what its digest says, and has the digests of its layers."""
    configuration = _verified(candidate.reader, candidate.file, candidate.digest, _Configuration)
    ids = configuration.rootfs.diff_ids if configuration else ()
    if not ids or not all(map(is_digest, ids)):
        return None
    return ImageRecord(candidate.digest, ids[::-1], candidate.by, encode(candidate.file))


def _verified(reader: Reader, file: str, digest: str, kind: type[T]) -> T | None:
    content = reader.content(file, optional=True)
    if content is None or _SHA256 + hashlib.sha256(content).hexdigest() != digest:
        return None
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _by(wanted: _Wanted, image_id: str, digest: str, names: Iterator[str]) -> By | None:
    """Say by what an image is the one that is wanted."""
    if wanted.id and image_id == wanted.id:
        return By.ID
    if digest in wanted.digests:
        return By.DIGEST
    return By.NAME if wanted.name and wanted.name in names else None


# --- containers/storage ---------------------------------------------------------------------------


def _of_storage(roots: Roots, wanted: _Wanted) -> Iterator[_Candidate]:
    for store, _ in Stores(None).of(roots).stores.values():
        reader = store.reader()
        for base in store.bases:
            for driver in drivers_of(base):
                directory = f"{base}/{driver}-images"
                for entry in entries(reader, f"{directory}/images.json", ImageEntry):
                    digest = _SHA256 + entry.id
                    by = _by(wanted, digest, entry.digest, iter(entry.names or ()))
                    if by and is_digest(digest):
                        name = base64.b64encode(digest.encode()).decode()
                        file = f"{directory}/{entry.id}/={name}"
                        yield _Candidate(file, digest, by, reader)


# --- Docker ---------------------------------------------------------------------------------------


def _of_docker(roots: Roots, wanted: _Wanted) -> Iterator[_Candidate]:
    for site in sites(roots, Usual()):
        data, reader = fsdecode(site.data), Reader(site.data)
        for driver in names_in(f"{data}/image"):
            top = f"{data}/image/{driver}"
            names = _repositories(reader, f"{top}/repositories.json")
            ids = {wanted.id: By.ID} if wanted.id else {}
            for name, image in names.items():
                digest = name.rpartition("@")[2]
                if digest in wanted.digests or _same_name(name, wanted.name):
                    ids.setdefault(image, By.DIGEST if digest in wanted.digests else By.NAME)
            for image, by in ids.items():
                if is_digest(image):
                    hexadecimal = image.removeprefix(_SHA256)
                    file = f"{top}/imagedb/content/sha256/{hexadecimal}"
                    yield _Candidate(file, image, by, reader)


def _repositories(reader: Reader, file: str) -> dict[str, str]:
    found = reader.json(file, _Repositories, optional=True)
    if found is None:
        return {}
    return {name: image for each in found.repositories.values() for name, image in each.items()}


def _same_name(name: str, wanted: str) -> bool:
    """Compare names, of which Docker leaves out what is usual (distribution/reference)."""
    return bool(wanted) and wanted in {name, f"docker.io/{name}", f"docker.io/library/{name}"}


# --- containerd -----------------------------------------------------------------------------------


def _of_containerd(roots: Roots, wanted: _Wanted) -> Iterator[_Candidate]:
    for instance in instances(roots):
        blobs = f"{instance.root}/{_BLOBS}"
        reader = Reader(encode(instance.root))
        if wanted.id:
            yield _Candidate(_blob(blobs, wanted.id), wanted.id, By.ID, reader)
        targets = dict.fromkeys(wanted.digests, By.DIGEST)
        if wanted.name:
            for digest in _targets(instance.database, roots.namespace, wanted.name):
                targets.setdefault(digest, By.NAME)
        for digest, by in targets.items():
            for config in _configurations(reader, blobs, digest, _DEEPEST):
                yield _Candidate(_blob(blobs, config), config, by, reader)


def _configurations(reader: Reader, blobs: str, digest: str, depth: int) -> Iterator[str]:
    """Give the configurations that a manifest, or those of an index, lead to."""
    if not is_digest(digest) or not depth:
        return
    manifest = _verified(reader, _blob(blobs, digest), digest, _Manifest)
    if manifest is None:
        return
    if manifest.config is not None and is_digest(manifest.config.digest):
        yield manifest.config.digest
    for each in manifest.manifests or ():
        yield from _configurations(reader, blobs, each.digest, depth - 1)


def _blob(blobs: str, digest: str) -> str:
    return f"{blobs}/{digest.removeprefix(_SHA256)}"


def _targets(database: str, namespace: str, name: str) -> list[str]:
    """Give the digests that images of a name have (core/metadata/buckets.go of containerd)."""

    def read(bucket: Bucket) -> list[str]:
        top = bucket.bucket(b"v1")
        found: list[str] = []
        for key, space in top.buckets() if top else ():
            target = space.bucket(b"images", name.encode(), b"target")
            if target is not None and (not namespace or key == namespace.encode()):
                found.append((target.get(b"digest") or b"").decode(errors="replace"))
        return found

    try:
        return bolt.read(encode(database), read)
    except (DocumentError, OSError):
        return []
