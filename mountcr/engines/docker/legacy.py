# SPDX-License-Identifier: Apache-2.0
"""
Docker before 1.10: layers have the ids of images and containers, and runc is not there yet.

The writable layer has the id of the container, the one below it `<id>-init`, and each further one
is an image, whose parent is in `graph/<id>/json` (moby daemon/daemon.go and graph/graph.go of
v1.9.1). The exec driver keeps the process in `execdriver/native/<id>/state.json` below the exec
root. Each container has `/.dockerinit`, a bind of `init/dockerinit-<version>` of the data root.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.container import Container, ContainerMount
from mountcr.engines.docker.layers import Layers, remember
from mountcr.engines.docker.records import ExecState, GraphImage
from mountcr.engines.process import CGROUPS, freezers, init_process, oci_status
from mountcr.overlayhome import is_name
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mountcr.container import Damage
    from mountcr.engines.reading import Reader

__all__ = ["Graph", "dockerinit", "drivers_of", "exec_state", "with_exec_state"]

_DOCKERINIT: Final = "/.dockerinit"
_WHERE: Final = {
    "aufs": "diff/{}",
    "overlay": "{}",
    "vfs": "dir/{}",
    "btrfs": "subvolumes/{}",
    "zfs": "graph/{}",
    "devicemapper": "metadata/{}",
}
"""Where each graph driver has a layer."""


def drivers_of(data: str, layer: str) -> list[str]:
    """Give the graph drivers that have a layer."""
    places = {driver: where.format(layer) for driver, where in _WHERE.items()}
    return [
        driver for driver, where in places.items() if os.path.exists(f"{data}/{driver}/{where}")
    ]


class Graph:
    """The store of images; each is read once."""

    def __init__(self, data: str, reader: Reader) -> None:
        self._root = f"{data}/graph"
        self._data = data
        self._reader = reader
        self._there = os.path.isdir(self._root)
        self._images: dict[str, tuple[str | None, tuple[Damage, ...]]] = {}

    def layers(self, container: str, image: str, driver: str) -> Layers:
        """Give the layers of a container that was made of an image."""
        init = f"{container}-init"
        if not os.path.exists(f"{self._data}/{driver}/{_WHERE.get(driver, '{}').format(init)}"):
            init = ""
        chain = self._chain(image) if self._there else None
        if chain is not None:
            self._reader.tell("image layers", f"{self._root}/{image}/json", "parent")
        return Layers(container, init, chain, f"{self._root}/{image}/json")

    def _chain(self, image: str) -> tuple[str, ...] | None:
        """Follow the parents of an image; None where one cannot be read."""
        ids: list[str] = []
        each = image
        while each:
            if not is_name(each) or each in ids:
                what = f"{each!r} is a parent of itself" if each in ids else f"{each!r} is no id"
                self._reader.damaged(
                    f"{self._root}/{ids[-1] if ids else image}/json", "parent", what
                )
                return None
            parent, damages = self._parent(each)
            remember(self._reader, damages)
            if parent is None:
                return None
            ids.append(each)
            each = parent
        return tuple(ids) or None

    def _parent(self, image: str) -> tuple[str | None, tuple[Damage, ...]]:
        known = self._images.get(image)
        if known is None:
            reader = self._reader.fresh()
            record = reader.json(f"{self._root}/{image}/json", GraphImage)
            known = (record.parent if record else None, tuple(reader.damages))
            self._images[image] = known
        return known


def exec_state(reader: Reader, container: str, runs: Iterable[str]) -> tuple[str, ExecState] | None:
    """Give the exec driver's file of a container and what it says, if it is there."""
    for run in runs:
        file = f"{run}/execdriver/native/{container}/state.json"
        state = reader.json(file, ExecState, optional=True)
        if state is not None:
            return file, state
    return None


def with_exec_state(container: Container, file: str, state: ExecState) -> Container:
    """Give a container with the process that the exec driver recorded, as it is now."""
    source = f"{encode(file)}: init_process_pid"
    init = init_process(state.init_process_pid, state.start_time, source)
    group = _group((state.cgroup_paths or {}).values())
    provenance = [*container.provenance, f"pid: {init.remark}"]
    if group:
        provenance.append(f"cgroup: {encode(file)}: cgroup_paths")
    return msgspec.structs.replace(
        container,
        pid=init.pid,
        start_time=init.start_time,
        status=oci_status(init, None, freezers(str(group or ""))),
        cgroup=group,
        provenance=tuple(provenance),
    )


def dockerinit(
    reader: Reader, data: str, state: tuple[str, ExecState] | None
) -> Sequence[ContainerMount]:
    """
    Give the bind of Docker's own init, which is in no record of a container.

    The exec driver's record of one that runs has it, else the one version that there is of it.
    """
    file, record = state or ("", ExecState())
    mounts = record.config.mounts if record.config else None
    for mount in mounts or ():
        if mount.destination.endswith(_DOCKERINIT) and mount.source:
            reader.tell(f"{_DOCKERINIT}", file, "config.mounts")
            return (_bind(mount.source),)
    try:
        names = sorted(os.listdir(f"{data}/init"))
    except OSError:
        return ()
    found = [name for name in names if name.startswith("dockerinit")]
    if len(found) != 1:
        several = f"{_DOCKERINIT} is one of {len(found)}, and nothing tells which"
        reader.tell(several, f"{data}/init")
        return ()
    reader.tell(f"{_DOCKERINIT}, the only one there is", f"{data}/init/{found[0]}")
    return (_bind(f"{data}/init/{found[0]}"),)


def _bind(source: str) -> ContainerMount:
    return ContainerMount(
        destination=KPath(_DOCKERINIT), type="bind", source=encode(source), readonly=True
    )


def _group(directories: Iterable[str]) -> KPath | None:
    """Give the path of a control group from its directories in hierarchies of version 1."""
    for directory in directories:
        below = directory.removeprefix(f"{CGROUPS}/")
        if below != directory:
            return encode("/" + below.partition("/")[2])
    return None
