# SPDX-License-Identifier: Apache-2.0
"""
Archives that CRI-O writes for the kubelet's checkpoint API (forensic checkpoints, KEP-2008).

The members are those of podman but for the configuration, which is that of checkpointctl
(lib/metadata.go `ContainerConfig`), and `bind.mounts`, which tells of each bind what its source was
(CRI-O, internal/lib/checkpoint.go). The log of the container is named by its annotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.bundle.foreign import podman
from mountcr.bundle.foreign.checkpoint import ForeignCheckpoint, Format, RequestedBind
from mountcr.bundle.foreign.spec import Spec, dropped, joined, requested_binds, with_types
from mountcr.bundle.foreign.unpacked import container_path, plain_name
from mountcr.model import InodeType
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.bundle.foreign.unpacked import Unpacked

__all__ = ["BINDS", "Config", "is_crio", "read", "read_config"]

BINDS: Final = "bind.mounts"

_LOG: Final = "io.kubernetes.cri-o.LogPath"
_NAME: Final = "io.kubernetes.container.name"
_TYPES: Final = {"file": InodeType.FILE, "directory": InodeType.DIRECTORY}


class _OnDisk(msgspec.Struct, frozen=True):
    """Base of the records: immutable; unknown fields are ignored."""


class Config(_OnDisk, frozen=True, rename="camel"):
    """`config.dump` of CRI-O and containerd."""

    id: str = ""
    name: str = ""
    runtime: str = ""
    rootfs_image: str = ""
    rootfs_image_ref: str = ""
    rootfs_image_name: str = ""
    created_time: str = ""
    checkpointed_time: str = ""


class _Bind(_OnDisk, frozen=True):
    """One of `bind.mounts`; `permissions` is Go's `os.FileMode`, whose low nine bits are ours."""

    source: str
    destination: str
    file_type: str = ""
    permissions: int = 0


def is_crio(archive: Unpacked) -> bool:
    """Tell whether an archive is CRI-O's. Raises DocumentError for a damaged configuration."""
    if not archive.has(podman.CONFIG) or not archive.has(podman.SPEC):
        return False
    config = archive.json(podman.CONFIG, Config)
    return bool(config.id and (archive.has(BINDS) or config.rootfs_image_name or config.runtime))


def read_config(archive: Unpacked) -> Config:
    """Read the configuration. Raises DocumentError, also for an id that is none."""
    config = archive.json(podman.CONFIG, Config)
    if not plain_name(config.id):
        raise archive.wrong(podman.CONFIG, f"id: {encode(config.id)!r} is no id")
    return config


def read(archive: Unpacked) -> ForeignCheckpoint:
    """Read an archive of CRI-O. Raises DocumentError naming member and field."""
    config = read_config(archive)
    spec = archive.json(podman.SPEC, Spec)
    binds = requested_binds(spec, lambda what: archive.wrong(podman.SPEC, what))
    annotations = spec.annotations or {}
    reference = config.rootfs_image_ref
    return ForeignCheckpoint(
        format=Format.CRIO,
        engine="crio",
        id=config.id,
        name=annotations.get(_NAME, "") or config.name,
        runtime=config.runtime,
        image=config.rootfs_image_name or config.rootfs_image,
        image_id="" if "@" in reference else reference,
        image_digests=(reference.partition("@")[2],) if "@" in reference else (),
        created=config.created_time,
        checkpointed=config.checkpointed_time,
        hostname=spec.hostname,
        labels=dict(annotations),
        images=KPath(podman.CHECKPOINT) if archive.is_directory(podman.CHECKPOINT) else None,
        rootfs=podman.rootfs_diff(archive),
        binds=with_types(binds, _binds(archive)),
        log=KPath(_LOG) if archive.has(_LOG) else None,
        cgroup=encode(spec.linux.cgroups_path) if spec.linux else None,
        standard_streams=podman.standard_streams(archive),
        terminal=spec.terminal,
        joined=joined(spec),
        versions={"oci": spec.oci_version} if spec.oci_version else {},
        dropped=tuple(dropped(spec, f"{podman.SPEC}: ")),
    )


def _binds(archive: Unpacked) -> Iterator[RequestedBind]:
    if not archive.has(BINDS):
        return
    for number, bind in enumerate(archive.list_of(BINDS, _Bind)):
        destination = container_path(bind.destination)
        if destination is None:
            what = f"[{number}].destination: {encode(bind.destination)} is no path"
            raise archive.wrong(BINDS, what)
        yield RequestedBind(
            destination=destination,
            source=encode(bind.source),
            type=_TYPES.get(bind.file_type),
            mode=bind.permissions & 0o777,
        )
