# SPDX-License-Identifier: Apache-2.0
"""
Containers whose layers are snapshots of containerd, the default since Docker 29.

`Driver` is the name of a snapshotter then, and `image/<driver>/layerdb` has no record of the
container. In containerd's namespace `moby`, its snapshot is called by its id and is a child of
`<id>-init`; the daemon mounts it at `rootfs/<snapshotter>/<id>` of the data root (moby
daemon/containerd and daemon/snapshotter/mount.go).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mountcr.container import TornDown
from mountcr.engines.containerd.places import is_root
from mountcr.engines.containerd.snapshots import snapshot_stack
from mountcr.engines.docker.graphdrivers import GRAPH_DRIVERS, RootFs
from mountcr.engines.reading import names_in
from mountcr.engines.roots import Place
from mountcr.paths import fsdecode, is_beneath, join

if TYPE_CHECKING:
    from mountcr.engines.docker.places import Site
    from mountcr.engines.reading import Reader
    from mountcr.stack import Stack

__all__ = ["NAMESPACE", "containerds", "is_snapshotter", "rootfs_of"]

NAMESPACE: Final = "moby"
"""That of containerd."""

_REMOVED: Final = frozenset({"fuse-overlayfs", "overlayfs", "stargz", "zfs"})
"""The snapshotters whose mountpoints the daemon removes when it unmounts."""

_OF_MOUNTPOINT: Final = 0o710


def is_snapshotter(driver: str, *, has_mounts: bool, has_image: bool) -> bool:
    """
    Tell whether a storage driver is a snapshotter, of a container without record in layerdb.

    Some have the name of a graph driver: such a one has a directory in `rootfs`, and none in
    `image`.
    """
    return driver not in GRAPH_DRIVERS or (has_mounts and not has_image)


def containerds(site: Site) -> list[Place]:
    """
    Give the containerds that keep the images of a data root.

    Its own one does if there is one. That of the host may be another daemon's, so it counts where
    there are mountpoints of snapshots, or no graph driver has a layer.
    """
    data = fsdecode(site.data)
    places = _places(site)
    drivers = names_in(f"{data}/image")
    graph = any(os.path.isdir(f"{data}/image/{each}/layerdb/sha256") for each in drivers)
    if graph and not names_in(f"{data}/rootfs"):
        return [each for each in places if is_beneath(each.data, site.data)]
    return places


def _stack(container: str, snapshotter: str, site: Site, file: str, reader: Reader) -> Stack | None:
    """
    Give what the snapshot of a container is made of; None where that is not known.

    Where no containerd is, that is all there is to say; where none of them has it, it is a damage.
    """
    what = f"the layers are those of snapshot {container} of {snapshotter} in {NAMESPACE}"
    reader.tell(what, file, "Driver")
    found = snapshot_stack(_places(site), NAMESPACE, snapshotter, container)
    reader.told.extend(found.told)
    for damage in found.damages if found.stack is None else ():
        reader.damaged(fsdecode(damage.file), damage.field, damage.what)
    return found.stack


def _places(site: Site) -> list[Place]:
    """Give the containerds that are there of those that a daemon may use, its own first."""
    return [Place(data=each) for each in site.containerds if is_root(fsdecode(each))]


def rootfs_of(container: str, snapshotter: str, site: Site, file: str, reader: Reader) -> RootFs:
    """Give the root file system of a container, mounted below the data root."""
    path = join(site.data, f"rootfs/{snapshotter}/{container}")
    torn = (TornDown(path=path, type="directory", mode=_OF_MOUNTPOINT),)
    return RootFs(
        _stack(container, snapshotter, site, file, reader),
        path,
        torn if snapshotter in _REMOVED else (),
        NAMESPACE,
    )
