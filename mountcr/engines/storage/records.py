# SPDX-License-Identifier: Apache-2.0
"""
What containers/storage, podman and CRI-O write, as far as it is needed to know a container.

The formats are those of container-libs storage (containers.go, layers.go, images.go), of podman's
libpod (container_config.go, container.go) and of CRI-O's internal/oci and internal/storage. Fields
that are not named are ignored, so that other versions stay readable. Go writes an empty list as
null.
"""

from __future__ import annotations

import msgspec

from mountcr.engines.records import OciLinux, OciMount

__all__ = [
    "CrioState",
    "IdMap",
    "ImageEntry",
    "ImageLayerEntry",
    "ImageVolume",
    "LayerEntry",
    "Metadata",
    "NamedVolume",
    "OverlayVolume",
    "PodmanConfig",
    "PodmanSpec",
    "PodmanState",
    "StorageEntry",
    "VolumeConfig",
]


class _OnDisk(msgspec.Struct, frozen=True):
    """Base of the records: immutable; unknown fields are ignored."""


class StorageEntry(_OnDisk, frozen=True, rename="kebab"):
    """One of `containers.json`; `metadata` is JSON of the engine, `layer` its own."""

    id: str
    names: tuple[str, ...] | None = None
    image: str = ""
    layer: str = ""
    metadata: str = ""


class LayerEntry(_OnDisk, frozen=True):
    """One of `layers.json`; a base layer has no parent."""

    id: str
    parent: str = ""


class IdMap(_OnDisk, frozen=True):
    """A range of ids of users or groups, of which only the beginning is read."""

    container_id: int = 0
    host_id: int = 0


class ImageLayerEntry(_OnDisk, frozen=True, rename="kebab"):
    """One of `layers.json`, with what is recorded of a layer of an image."""

    id: str
    parent: str = ""
    diff_digest: str = ""
    uidmap: tuple[IdMap, ...] | None = None
    gidmap: tuple[IdMap, ...] | None = None
    flags: dict[str, msgspec.Raw] | None = None

    @property
    def is_incomplete(self) -> bool:
        """Whether it was not written to its end."""
        return bytes((self.flags or {}).get("incomplete", b"")) == b"true"


class ImageEntry(_OnDisk, frozen=True):
    """One of `images.json`; `digest` is that of its manifest."""

    id: str
    digest: str = ""
    names: tuple[str, ...] | None = None


class Metadata(_OnDisk, frozen=True, rename="kebab"):
    """
    The metadata of a container, of podman (libpod/storage.go) and CRI-O (internal/storage).

    Only CRI-O names a pod; `pod` tells that it is the one that holds the namespaces of the pod.
    """

    image_name: str = ""
    name: str = ""
    metadata_name: str = ""
    pod_name: str = ""
    pod_id: str = ""
    pod: bool = False


class PodmanState(_OnDisk, frozen=True, rename="camel"):
    """The state of a container; `bind_mounts` are destinations in it to paths of the host."""

    state: int = 0
    pid: int = 0
    run_dir: str = ""
    mount_point: str = ""
    bind_mounts: dict[str, str] | None = None


class NamedVolume(_OnDisk, frozen=True, rename="camel"):
    """One of `namedVolumes`."""

    volume_name: str
    dest: str
    options: tuple[str, ...] | None = None


class OverlayVolume(_OnDisk, frozen=True):
    """One of `overlayVolumes`: a directory of the host below an overlay that goes with it."""

    dest: str
    source: str = ""


class ImageVolume(_OnDisk, frozen=True):
    """One of `ctrImageVolumes`: `source` is an image."""

    dest: str
    source: str = ""
    rw: bool = False


class PodmanSpec(_OnDisk, frozen=True):
    """`spec` of a configuration: what the engine makes config.json of."""

    mounts: tuple[OciMount, ...] | None = None
    annotations: dict[str, str] | None = None
    linux: OciLinux | None = None


class PodmanConfig(_OnDisk, frozen=True, rename="camel"):
    """The configuration of a container; it does not change."""

    id: str
    name: str = ""
    spec: PodmanSpec | None = None
    rootfs_image_name: str = ""
    rootfs: str = ""
    rootfs_overlay: bool = msgspec.field(default=False, name="rootfs_overlay")
    shm_dir: str = msgspec.field(default="", name="ShmDir")
    shm_size: int = 0
    static_dir: str = ""
    named_volumes: tuple[NamedVolume, ...] | None = None
    overlay_volumes: tuple[OverlayVolume, ...] | None = None
    ctr_image_volumes: tuple[ImageVolume, ...] | None = None
    labels: dict[str, str] | None = None


class VolumeConfig(_OnDisk, frozen=True, rename="camel"):
    """A volume; `mount_point` is its directory, which may be another's than the engine's."""

    name: str
    mount_point: str = ""


class CrioState(_OnDisk, frozen=True, rename="camel"):
    """`state.json` of CRI-O (`ContainerState`); the start time is in clock ticks since boot."""

    status: str = ""
    pid: int = 0
    bundle: str = ""
    init_pid: int = 0
    init_start_time: int | str = 0
