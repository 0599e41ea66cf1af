# SPDX-License-Identifier: Apache-2.0
"""
Archives of `podman container checkpoint --export`, podman 1.4 to 6.

Members (pkg/checkpoint/crutils and libpod/container_internal_common.go): `config.dump` is podman's
own configuration of the container, `spec.dump` that of its OCI runtime, `checkpoint/` holds CRIU's
images, `rootfs-diff.tar` files that were added or changed, `deleted.files` a list of those that
were removed, `devshm-checkpoint.tar` the content of /dev/shm, `volumes/NAME.tar` that of a volume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.bundle.foreign.checkpoint import (
    DiffForm,
    Dropped,
    ForeignCheckpoint,
    Format,
    RootfsDiff,
    VolumeMember,
)
from mountcr.bundle.foreign.spec import Spec, dropped, joined, requested_binds
from mountcr.bundle.foreign.unpacked import container_path, plain_name
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.bundle.foreign.unpacked import Unpacked

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "DELETED",
    "DIFF",
    "PRE_CHECKPOINT",
    "SHM",
    "SPEC",
    "is_podman",
    "read",
    "removed_paths",
    "rootfs_diff",
    "standard_streams",
]

CONFIG: Final = "config.dump"
SPEC: Final = "spec.dump"
CHECKPOINT: Final = "checkpoint"
PRE_CHECKPOINT: Final = "pre-checkpoint"
DIFF: Final = "rootfs-diff.tar"
DELETED: Final = "deleted.files"
SHM: Final = "devshm-checkpoint.tar"

_NETWORK: Final = "network.status"
_LOG: Final = "ctr.log"
_VOLUMES: Final = "volumes"
_DESCRIPTORS: Final = "checkpoint/descriptors.json"


class _OnDisk(msgspec.Struct, frozen=True):
    """Base of the records: immutable; unknown fields are ignored."""


class _Mark(_OnDisk, frozen=True, rename="camel"):
    """What every podman writes and nobody else (libpod/container_config.go)."""

    static_dir: str = ""


class _Volume(_OnDisk, frozen=True, rename="camel"):
    """One of `namedVolumes`."""

    volume_name: str
    dest: str


class _Config(_OnDisk, frozen=True, rename="camel"):
    """`config.dump`; the image's id has another spelling than other fields."""

    id: str
    name: str = ""
    runtime: str = ""
    created_time: str = ""
    rootfs_image_name: str = ""
    rootfs_image_id: str = msgspec.field(default="", name="rootfsImageID")
    labels: dict[str, str] | None = None
    named_volumes: tuple[_Volume, ...] | None = None
    spec: Spec | None = None
    devices: tuple[str, ...] | None = msgspec.field(default=None, name="CDIDevices")


def is_podman(archive: Unpacked) -> bool:
    """Tell whether an archive is podman's. Raises DocumentError for a damaged configuration."""
    return archive.has(CONFIG) and bool(archive.json(CONFIG, _Mark).static_dir)


def read(archive: Unpacked) -> ForeignCheckpoint:
    """Read an archive of podman. Raises DocumentError naming member and field."""
    config = archive.json(CONFIG, _Config)
    if not plain_name(config.id):
        raise archive.wrong(CONFIG, f"id: {encode(config.id)!r} is no id")
    if config.name and not plain_name(config.name):
        raise archive.wrong(CONFIG, f"name: {encode(config.name)!r} is no name")
    spec = archive.json(SPEC, Spec)
    return ForeignCheckpoint(
        format=Format.PODMAN,
        engine="podman",
        id=config.id,
        name=config.name,
        runtime=config.runtime,
        image=config.rootfs_image_name,
        image_id=config.rootfs_image_id,
        created=config.created_time,
        hostname=spec.hostname,
        labels=dict(config.labels or {}),
        images=KPath(CHECKPOINT) if archive.is_directory(CHECKPOINT) else None,
        parent=KPath(PRE_CHECKPOINT) if archive.is_directory(PRE_CHECKPOINT) else None,
        rootfs=rootfs_diff(archive),
        binds=requested_binds(spec, lambda what: archive.wrong(SPEC, what)),
        volumes=tuple(_volumes(archive, config)),
        shm=_member(archive, SHM),
        log=_member(archive, _LOG),
        network=_member(archive, _NETWORK),
        cgroup=encode(spec.linux.cgroups_path) if spec.linux else None,
        standard_streams=standard_streams(archive),
        terminal=spec.terminal,
        joined=joined(spec),
        versions={"oci": spec.oci_version} if spec.oci_version else {},
        dropped=(*_dropped(config), *dropped(spec, f"{SPEC}: ")),
    )


def rootfs_diff(archive: Unpacked) -> RootfsDiff | None:
    """Give the changes as podman and CRI-O write them; None where neither list nor tar is there."""
    removed = removed_paths(archive)
    if not archive.has(DIFF) and not removed:
        return None
    return RootfsDiff(member=KPath(DIFF), form=DiffForm.DIFF, removed=removed)


def removed_paths(archive: Unpacked) -> tuple[KPath, ...]:
    """
    Read the list of removed files.

    Raises DocumentError naming the entry that is no absolute path, or leads out of the root, or is
    the root.
    """
    if not archive.has(DELETED):
        return ()
    found: list[KPath] = []
    for number, text in enumerate(archive.list_of(DELETED, str)):
        path = container_path(text)
        if path is None or path == "/":
            raise archive.wrong(DELETED, f"[{number}]: {encode(text)} is no path to remove")
        found.append(path)
    return tuple(dict.fromkeys(found))


def standard_streams(archive: Unpacked) -> tuple[str, ...]:
    """Read the links of descriptors 0 to 2, as runc and crun keep them; none where they are not."""
    if not archive.has(_DESCRIPTORS):
        return ()
    return archive.list_of(_DESCRIPTORS, str)


def _volumes(archive: Unpacked, config: _Config) -> Iterator[VolumeMember]:
    for number, volume in enumerate(config.named_volumes or ()):
        place = container_path(volume.dest)
        if not plain_name(volume.volume_name) or place is None:
            what = f"{encode(volume.volume_name)} at {encode(volume.dest)} is no volume"
            raise archive.wrong(CONFIG, f"namedVolumes[{number}]: {what}")
        member = f"{_VOLUMES}/{volume.volume_name}.tar"
        yield VolumeMember(
            name=volume.volume_name, destination=place, member=_member(archive, member)
        )


def _dropped(config: _Config) -> Iterator[Dropped]:
    """Give what podman's own configuration asks for; the rest of it is in that of the runtime."""
    for number, device in enumerate(config.devices or ()):
        yield Dropped(field=f"{CONFIG}: CDIDevices[{number}]", value=encode(device))
    if config.spec is not None:
        yield from dropped(config.spec, f"{CONFIG}: spec.")


def _member(archive: Unpacked, name: str) -> KPath | None:
    return encode(name) if archive.has(name) else None
