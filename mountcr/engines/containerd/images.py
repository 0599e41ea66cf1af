# SPDX-License-Identifier: Apache-2.0
"""
The image layers that containerd keeps: committed snapshots, which are called by their chain ids.

The DiffIDs stand in the configurations of images, which are files of the content store. One whose
layers were unpacked has a label that keeps their snapshots: `containerd.io/gc.ref.snapshot.NAME` of
`v1/NAMESPACE/content/blob/DIGEST` in `meta.db` (client/image.go and core/unpack/unpacker.go of
containerd 2.0); Docker's image store and BuildKit set it too. When an image is removed, its
configuration goes, though a container may keep the snapshots: their DiffIDs are lost then.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mountcr.engines.containerd import metadata
from mountcr.engines.containerd.metadata import Flaw, complaint
from mountcr.engines.containerd.places import instances, named
from mountcr.engines.containerd.snapshots import committed, damage
from mountcr.engines.imagelayers import Found, ImageLayer, chain_ids, is_digest
from mountcr.engines.reading import Reader, is_rootless
from mountcr.errors import DocumentError
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mountcr.container import Container, Damage
    from mountcr.engines.containerd.places import Instance
    from mountcr.engines.roots import Place, Roots

__all__ = ["base", "base_in", "found", "of_places"]

_BLOBS: Final = "io.containerd.content.v1.content/blobs"


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] = ()


class _Configuration(msgspec.Struct, frozen=True):
    """The configuration of an image (OCI image-spec, config.md)."""

    rootfs: _RootFs = _RootFs()


class _Layer(NamedTuple):
    """What an image says of one of its layers: the DiffID, and the file and field that do."""

    diff_id: str
    provenance: str


def found(roots: Roots, engine: str) -> Iterator[Found]:
    """Give the image layers of every containerd, of one namespace or of all."""
    return (_of_instance(each, engine, roots.namespace) for each in instances(roots))


def base(container: Container, roots: Roots) -> str:
    """Give the chain id of the image that a container is on; empty where nothing tells."""
    for instance in instances(roots):
        if encode(instance.root) == container.state_root:
            return base_in(instance, container.namespace, container.id)
    return ""


def base_in(instance: Instance, namespace: str, container: str, snapshotter: str = "") -> str:
    """Give what `metadata.base_of` does; empty where the database cannot be read."""
    try:
        return metadata.base_of(instance.database, namespace, container, snapshotter)
    except (DocumentError, OSError):
        return ""


def of_places(places: Iterable[Place], engine: str, namespace: str) -> Iterator[Found]:
    """Give the image layers of some containerds, of one namespace or of all."""
    return (_of_instance(each, engine, namespace) for each in named(places))


def _of_instance(instance: Instance, engine: str, namespace: str) -> Found:
    recorded = metadata.images(instance.database, namespace)
    damages = [damage(instance.database, each) for each in recorded.flaws]
    known = _known(instance, recorded.configurations, damages)
    layers: list[ImageLayer] = []
    for snapshotter, names in recorded.snapshots.items():
        wanted = {name: chain for name, chain in names.items() if chain in known}
        store = _of_snapshotter(instance, snapshotter, wanted, known, engine)
        layers += store.layers
        damages += store.damages
    return Found(layers, damages)


def _known(
    instance: Instance, configurations: Iterable[str], damages: list[Damage]
) -> dict[str, _Layer]:
    """Give what is known of layers by their chain ids, from the configurations of images."""
    root = f"{instance.root}/{_BLOBS}"
    reader = Reader(encode(root))
    known: dict[str, _Layer] = {}
    for digest in dict.fromkeys(filter(is_digest, configurations)):
        file = f"{root}/{digest.replace(':', '/')}"
        diff_ids = _diff_ids(file, digest, reader)
        for number, chain in enumerate(chain_ids(diff_ids)):
            where = f"{encode(file)}: rootfs.diff_ids[{number}]"
            known.setdefault(chain, _Layer(diff_ids[number], where))
    damages += reader.damages
    return known


def _diff_ids(file: str, digest: str, reader: Reader) -> tuple[str, ...]:
    """Read the DiffIDs of an image, the lowest first; what is not as its digest says is damaged."""
    content = reader.content(file)
    if content is None:
        return ()
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        reader.damaged(file, "", "the content has another digest")
        return ()
    try:
        diff_ids = msgspec.json.decode(content, type=_Configuration).rootfs.diff_ids
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reader.damaged(file, "", f"no configuration of an image: {error}")
        return ()
    wrong = next((each for each in diff_ids if not is_digest(each)), None)
    if wrong is not None:
        reader.damaged(file, "rootfs.diff_ids", f"{wrong!r} is no DiffID")
        return ()
    return diff_ids


def _of_snapshotter(
    instance: Instance,
    snapshotter: str,
    names: Mapping[str, str],
    known: Mapping[str, _Layer],
    engine: str,
) -> Found:
    """Give the layers that a snapshotter has, by the names of snapshots with their chain ids."""
    file = f"{instance.snapshotter(snapshotter)}/metadata.db"
    try:
        snapshots = committed(instance, snapshotter) if names else None
    except (DocumentError, OSError) as error:
        return Found((), (damage(file, Flaw("", complaint(error, file))),))
    if snapshots is None:
        return Found(())
    rootless = is_rootless(file)
    dialect = "vfs" if snapshots.flat else "overlay-user" if rootless else "overlay"
    layers: list[ImageLayer] = []
    damages = [damage(file, each) for each in snapshots.flaws]
    for name, chain in names.items():
        path, mappings = snapshots.directories.get(name, ("", ()))
        lost = _complaint(path)
        if not path:
            damages.append(
                damage(file, Flaw(f"v1/snapshots/{name}", "is missing, or is not committed"))
            )
        elif lost:
            damages.append(damage(path, Flaw("", lost)))
        else:
            layers.append(
                ImageLayer(
                    diff_id=known[chain].diff_id,
                    chain_id=chain,
                    path=encode(path),
                    dialect=dialect,
                    flat=snapshots.flat,
                    engine=engine,
                    provenance=known[chain].provenance,
                    mapped=rootless or bool(mappings),
                )
            )
    return Found(layers, damages)


def _complaint(path: str) -> str:
    """Say why a path is no directory; empty when it is one."""
    if os.path.isdir(path) and not os.path.islink(path):
        return ""
    return "is no directory" if os.path.lexists(path) else "is missing"
