# SPDX-License-Identifier: Apache-2.0
"""What goes into a bundle: which layers, by which names, and what of the mounts."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.bundle.document import BundleLayer, Carried
from mountcr.bundle.names import LAYERS, MOUNTS
from mountcr.driver import get_driver
from mountcr.errors import RefusedError, UsageError
from mountcr.model import InodeType
from mountcr.paths import KPath
from mountcr.record import Record
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mountcr.manifest import Manifest
    from mountcr.planning.records import External

__all__ = ["ALL_VOLUMES", "Base", "Carrying", "Contents", "Known", "LayerMode", "plan_contents"]

ALL_VOLUMES: Final = "all"
"""Stands for every volume and bind of the container."""


class LayerMode(StrEnum):
    """Which lower layers a bundle has: none, those that no image has, or all."""

    NONE = "none"
    MISSING = "missing"
    ALL = "all"


class Known(NamedTuple):
    """By which digests an image has a layer."""

    diff_id: str
    chain_id: str


class Base(NamedTuple):
    """
    The image of a container whose driver copies: one directory with all of it.

    `layers` are by which digests it is known, the topmost first.
    """

    path: KPath
    layers: tuple[Known, ...]


class Carrying(NamedTuple):
    """What is carried of a mount, and where it lies on this host."""

    carried: Carried
    source: KPath


class Contents(Record, frozen=True, kw_only=True):
    """
    What goes into a bundle beside CRIU's images.

    `stored` are the layers as they lie here, top first, the writable one the first, and `layers`
    the lower ones as the bundle names them. `compared` tells that the first is one whole root file
    system, and the second what it was made from: what differs was changed.
    """

    stored: tuple[StoredLayer, ...]
    data: tuple[KPath, ...]
    layers: tuple[BundleLayer, ...]
    mounts: tuple[Carrying, ...]
    compared: bool = False


def plan_contents(
    manifest: Manifest,
    known: Mapping[KPath, Known],
    *,
    base: Base | None = None,
    mode: LayerMode,
    volumes: tuple[KPath, ...] = (),
    all_volumes: bool = False,
) -> Contents:
    """
    Say what goes into the bundle of a dump.

    `known` are the directories on this host that an image has a digest of; `base` is the image
    where the stack is one directory, if that is known. `volumes` are the mountpoints whose contents
    are wanted. Raises RefusedError where the layers are not known, UsageError naming a volume that
    the container has not.
    """
    rootfs = manifest.rootfs
    if rootfs is None:
        msg = "nobody knows what the root file system is made of, so it cannot be exported"
        raise RefusedError(msg, hint="`mountcr plan` says why")
    stack = rootfs.origin
    stored = get_driver(stack.driver).layers(stack)
    lowers = stored[1:] if stack.upper and stack.lowers else () if stack.upper else stored
    if not stack.upper:
        msg = "the root file system is read-only: it has no writable layer to export"
        raise RefusedError(msg, hint="pull the image on the other host")
    carried = tuple(_mounts(manifest, volumes, all_volumes=all_volumes))
    if len(stored) == 1 and base is not None:
        return Contents(
            stored=(*stored, StoredLayer(path=base.path, dialect=stored[0].dialect)),
            data=(),
            layers=tuple(_copied(base, mode)),
            mounts=carried,
            compared=True,
        )
    # what lies in data-only layers is of no use in another store: contents go into the bundle
    digests: Mapping[KPath, Known] = {} if stack.data else known
    layers = tuple(
        _layer(number, digests.get(each.path), LayerMode.ALL if stack.data else mode)
        for number, each in enumerate(lowers, 1)
    )
    return Contents(
        stored=stored,
        data=stack.data,
        layers=layers,
        mounts=carried,
    )


def _copied(base: Base, mode: LayerMode) -> Iterator[BundleLayer]:
    """Give the layers of an image that lies in one directory, all of it in the first if wanted."""
    for number, each in enumerate(base.layers, 1):
        whole = mode is LayerMode.ALL and number == 1
        yield BundleLayer(
            diff_id=each.diff_id,
            chain_id=each.chain_id,
            member=f"{LAYERS}/{number}.tar" if whole else "",
            flat=whole,
        )


def _layer(number: int, known: Known | None, mode: LayerMode) -> BundleLayer:
    wanted = mode is LayerMode.ALL or (mode is LayerMode.MISSING and known is None)
    return BundleLayer(
        diff_id=known.diff_id if known else "",
        chain_id=known.chain_id if known else "",
        member=f"{LAYERS}/{number}.tar" if wanted else "",
    )


def _mounts(
    manifest: Manifest, volumes: tuple[KPath, ...], *, all_volumes: bool
) -> Iterator[Carrying]:
    """Give what the engine makes for a container, its shared memory, and what was asked for."""
    container = manifest.facts.container
    own = {*container.files.values(), *(each.path for each in container.torn_down)}
    if container.shm:
        own.add(container.shm)
    unknown = set(volumes)
    number = 0
    for external in manifest.externals:
        unknown.discard(external.mountpoint)
        wanted = external.mountpoint in volumes or (all_volumes and _is_volume(external))
        if external.source is None or not (external.source in own or wanted):
            continue
        if external.type is not InodeType.DIRECTORY and external.type is not InodeType.FILE:
            if external.mountpoint in volumes:
                msg = f"--volume {external.mountpoint}: a {external.type} has no content"
                raise UsageError(msg, hint="name a directory or a regular file")
            continue
        number += 1
        directory = external.type is InodeType.DIRECTORY
        carried = Carried(
            mountpoint=external.mountpoint,
            member=f"{MOUNTS}/{number}.tar" if directory else f"{MOUNTS}/{number}",
            type=external.type,
        )
        yield Carrying(carried, external.source)
    if unknown:
        there = ", ".join(each.mountpoint for each in manifest.externals if _is_volume(each))
        msg = f"--volume {min(unknown)}: nothing from outside is mounted there"
        raise UsageError(msg, hint=f"there are: {there or 'none'}")


def _is_volume(external: External) -> bool:
    kinds = {InodeType.DIRECTORY, InodeType.FILE}
    return external.type in kinds and external.fstype not in {"cgroup", "cgroup2", "proc", "sysfs"}
