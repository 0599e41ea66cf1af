# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints of containerd: archives of its CRI, and images that `ctr container checkpoint` makes.

The CRI of containerd 2.1 and later writes the members of CRI-O's archives, with `status.dump`, the
status of the container in the words of the CRI, in place of `bind.mounts`, and a `rootfs-diff.tar`
that is an OCI layer (internal/cri/server/container_checkpoint_linux.go).

A checkpoint image is an OCI index whose manifests are no manifests, but what their media types say
(client/container_checkpoint_opts.go, core/images/mediatypes.go): CRIU's images in a tar, the
configuration of the runtime, and the writable layer as a layer of OCI. The index is one of those in
`index.json` of an OCI layout, which is what `ctr image export` writes.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from mountcr.bundle.foreign import crio, podman
from mountcr.bundle.foreign.checkpoint import (
    DiffForm,
    ForeignCheckpoint,
    Format,
    ImageLayer,
    RootfsDiff,
)
from mountcr.bundle.foreign.spec import Spec, dropped, joined, requested_binds
from mountcr.bundle.foreign.unpacked import plain_name
from mountcr.engines.containerd.wire import unwrap
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.bundle.foreign.unpacked import Unpacked

T = TypeVar("T")

__all__ = ["INDEX", "STATUS", "is_checkpoint_image", "is_cri", "read_cri", "read_image"]

STATUS: Final = "status.dump"
INDEX: Final = "index.json"

_CHECKPOINT: Final = "application/vnd.containerd.container."
_IMAGES: Final = frozenset(
    {
        "application/vnd.containerd.container.criu.checkpoint.criu.tar",
        "application/vnd.containerd.container.checkpoint.criu.tar",
    }
)
_CONFIG: Final = "application/vnd.containerd.container.checkpoint.config.v1+proto"
_INDEXES: Final = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
_MANIFESTS: Final = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
_LAYERS: Final = (
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.diff.",
)
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_MOST_INDEXES: Final = 16


class _OnDisk(msgspec.Struct, frozen=True):
    """Base of the records: immutable; unknown fields are ignored."""


class _Named(_OnDisk, frozen=True):
    """`metadata` of a status."""

    name: str = ""


class _ImageName(_OnDisk, frozen=True):
    """`image` of a status."""

    image: str = ""


class _Status(_OnDisk, frozen=True):
    """`status.dump`: ContainerStatus of the CRI, runtime/v1."""

    id: str = ""
    metadata: _Named | None = None
    image: _ImageName | None = None
    image_ref: str = ""
    labels: dict[str, str] | None = None


class _Descriptor(_OnDisk, frozen=True, rename="camel"):
    """A descriptor of OCI: a blob by its digest."""

    digest: str
    media_type: str = ""
    annotations: dict[str, str] | None = None


class _Index(_OnDisk, frozen=True):
    """An index of OCI."""

    manifests: tuple[_Descriptor, ...] | None = None
    annotations: dict[str, str] | None = None


class _Manifest(_OnDisk, frozen=True):
    """A manifest of OCI or Docker: the layers from the lowest up."""

    config: _Descriptor
    layers: tuple[_Descriptor, ...] | None = None


class _Rootfs(_OnDisk, frozen=True):
    """`rootfs` of the configuration of an image."""

    diff_ids: tuple[str, ...] = ()


class _ImageConfig(_OnDisk, frozen=True):
    """The configuration of an image."""

    rootfs: _Rootfs = _Rootfs()


# --- Archives of the CRI --------------------------------------------------------------------------


def is_cri(archive: Unpacked) -> bool:
    """Tell whether an archive is that of containerd's CRI."""
    return archive.has(STATUS) and archive.has(podman.CONFIG)


def read_cri(archive: Unpacked) -> ForeignCheckpoint:
    """Read an archive of containerd's CRI. Raises DocumentError naming member and field."""
    config = crio.read_config(archive)
    status = archive.json(STATUS, _Status)
    spec = archive.json(podman.SPEC, Spec)
    image = status.image.image if status.image else ""
    reference = config.rootfs_image_ref or status.image_ref
    digest = _DIGEST.search(reference)
    has_diff = archive.has(podman.DIFF)
    return ForeignCheckpoint(
        format=Format.CONTAINERD_CRI,
        engine="containerd",
        id=config.id,
        name=status.metadata.name if status.metadata else config.name,
        runtime=config.runtime,
        image=config.rootfs_image_name or image,
        image_digests=(digest[0],) if digest else (),
        created=config.created_time,
        checkpointed=config.checkpointed_time,
        hostname=spec.hostname,
        labels=dict(status.labels or {}),
        images=KPath(podman.CHECKPOINT) if archive.is_directory(podman.CHECKPOINT) else None,
        rootfs=RootfsDiff(member=KPath(podman.DIFF), form=DiffForm.LAYER) if has_diff else None,
        binds=requested_binds(spec, lambda what: archive.wrong(podman.SPEC, what)),
        log=KPath("container.log") if archive.has("container.log") else None,
        cgroup=encode(spec.linux.cgroups_path) if spec.linux else None,
        standard_streams=podman.standard_streams(archive),
        terminal=spec.terminal,
        joined=joined(spec),
        versions={"oci": spec.oci_version} if spec.oci_version else {},
        dropped=tuple(dropped(spec, f"{podman.SPEC}: ")),
    )


# --- Checkpoint images ----------------------------------------------------------------------------


def is_checkpoint_image(archive: Unpacked) -> bool:
    """Tell whether an archive is an OCI layout with a checkpoint of containerd in it."""
    return archive.has(INDEX) and _find(archive) is not None


def read_image(archive: Unpacked) -> ForeignCheckpoint:
    """
    Read a checkpoint image, the first of several.

    It names no container; the id is the last word of its control group, else its digest. Raises
    DocumentError naming the blob, also for one that is not what its digest says.
    """
    found = _find(archive)
    if found is None:
        raise archive.wrong(INDEX, "names no checkpoint of containerd")
    digest, index = found
    children = index.manifests or ()
    spec = _spec(archive, children)
    annotations = index.annotations or {}
    images = next((each for each in children if each.media_type in _IMAGES), None)
    layer = next((each for each in children if each.media_type.startswith(_LAYERS)), None)
    manifest = next((each for each in children if each.media_type in _MANIFESTS), None)
    cgroup = spec.linux.cgroups_path if spec.linux else ""
    name = cgroup.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    member = _blob(archive, layer.digest) if layer else None
    return ForeignCheckpoint(
        format=Format.CONTAINERD_IMAGE,
        engine="containerd",
        id=name if plain_name(name) else digest.rpartition(":")[2],
        runtime=annotations.get("io.containerd.checkpoint.runtime", ""),
        image=annotations.get("org.opencontainers.image.ref.name", ""),
        image_digests=(manifest.digest,) if manifest else (),
        image_layers=_image_layers(archive, manifest) if manifest else (),
        hostname=spec.hostname,
        labels=dict(spec.annotations or {}),
        images=_blob(archive, images.digest) if images else None,
        images_in_tar=True,
        rootfs=RootfsDiff(member=member, form=DiffForm.LAYER) if member else None,
        binds=requested_binds(spec, lambda what: archive.wrong(_CONFIG, what)),
        cgroup=encode(cgroup) if cgroup else None,
        terminal=spec.terminal,
        joined=joined(spec),
        versions={"oci": spec.oci_version} if spec.oci_version else {},
        dropped=tuple(dropped(spec, "config: ")),
    )


def _find(archive: Unpacked) -> tuple[str, _Index] | None:
    """Give the first index that describes a checkpoint, and its digest."""
    top = archive.json(INDEX, _Index)
    if _is_checkpoint(top):
        return f"sha256:{hashlib.sha256(archive.content(INDEX)).hexdigest()}", top
    for each in (top.manifests or ())[:_MOST_INDEXES]:
        if each.media_type in _INDEXES:
            index = _json(archive, each.digest, _Index)
            if _is_checkpoint(index):
                return each.digest, index
    return None


def _is_checkpoint(index: _Index) -> bool:
    return any(each.media_type.startswith(_CHECKPOINT) for each in index.manifests or ())


def _spec(archive: Unpacked, children: tuple[_Descriptor, ...]) -> Spec:
    """Give the configuration of the runtime; an empty one where the checkpoint has none."""
    config = next((each for each in children if each.media_type == _CONFIG), None)
    if config is None:
        return Spec()
    where = _blob(archive, config.digest)
    try:
        text = unwrap(_verified(archive, config.digest)).value
    except ValueError as error:
        raise archive.wrong(where, f"is no Any: {error}") from None
    return archive.parsed(text, where, Spec)


def _image_layers(archive: Unpacked, descriptor: _Descriptor) -> tuple[ImageLayer, ...]:
    """Give the layers of the image, top first; none where its blobs did not come along."""
    if not archive.has(_blob(archive, descriptor.digest)):
        return ()
    manifest = _json(archive, descriptor.digest, _Manifest)
    layers = manifest.layers or ()
    if not archive.has(_blob(archive, manifest.config.digest)):
        return ()
    ids = _json(archive, manifest.config.digest, _ImageConfig).rootfs.diff_ids
    if len(ids) != len(layers):
        what = f"{len(layers)} layers, its configuration has {len(ids)}"
        raise archive.wrong(_blob(archive, descriptor.digest), what)
    return tuple(reversed([*_layers(archive, layers, ids)]))


def _layers(
    archive: Unpacked, layers: tuple[_Descriptor, ...], ids: tuple[str, ...]
) -> Iterator[ImageLayer]:
    for layer, diff_id in zip(layers, ids, strict=True):
        member = _blob(archive, layer.digest)
        if not _DIGEST.fullmatch(diff_id):
            raise archive.wrong(member, f"DiffID {diff_id!r} is no digest")
        yield ImageLayer(diff_id=diff_id, member=member, media_type=layer.media_type)


def _blob(archive: Unpacked, digest: str) -> KPath:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise archive.wrong(INDEX, f"digest {digest!r} is none of SHA-256")
    return KPath(f"blobs/sha256/{match[1]}")


def _json(archive: Unpacked, digest: str, kind: type[T]) -> T:
    return archive.parsed(_verified(archive, digest), _blob(archive, digest), kind)


def _verified(archive: Unpacked, digest: str) -> bytes:
    """Read a blob and see that it is the one of the digest."""
    member = _blob(archive, digest)
    content = archive.content(member)
    if hashlib.sha256(content).hexdigest() != os.path.basename(member):
        raise archive.wrong(member, "is not what its digest says")
    return content
