# SPDX-License-Identifier: Apache-2.0
"""
A checkpoint of another tool as a dump: the facts and the manifest that mountcr restores from.

What an archive asks for as sources stands in the container's record, where mountcr has it for
containers of this host too; what of it is given is a matter of whoever plans.
"""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.container import Container, ContainerMount
from mountcr.criu.images import ImageSet
from mountcr.criu.options import CgroupMode
from mountcr.graph.tree import MountTree
from mountcr.manifest import Manifest
from mountcr.network import LOOPBACK, Link, Network
from mountcr.observation.images import observe_images
from mountcr.observation.named import named_in_images
from mountcr.paths import KPath, decode, join
from mountcr.planning.cgroups import own_groups
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.bundle.foreign.checkpoint import ForeignCheckpoint
    from mountcr.model import Facts, InodeType
    from mountcr.stack import Stack

__all__ = ["container_of", "facts_of", "manifest_of"]

_FILES: Final = {KPath(f"/etc/{name}"): name for name in ("hostname", "hosts", "resolv.conf")}
_SHM: Final = KPath("/dev/shm")  # noqa: S108 -- a path in the container
_PROPAGATIONS: Final = frozenset(
    {"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"}
)


def container_of(checkpoint: ForeignCheckpoint, stack: Stack | None = None) -> Container:
    """Give the record of a container from what an archive says; `stack` is where its layers are."""
    volumes = {each.destination: each.name for each in checkpoint.volumes}
    sources = {each.destination: each.source for each in checkpoint.binds if each.source}
    return Container(
        id=checkpoint.id,
        engine=checkpoint.engine,
        name=checkpoint.name,
        status="stopped",
        recorded="checkpointed",
        image=checkpoint.image,
        stack=stack,
        mounts=tuple(_mounts(checkpoint, volumes)),
        files={name: sources[path] for path, name in _FILES.items() if path in sources},
        shm=sources.get(_SHM),
        namespace_paths=checkpoint.joined,
        cgroup=checkpoint.cgroup,
        labels=checkpoint.labels,
        provenance=(f"everything: a checkpoint archive of {checkpoint.format}",),
    )


def _mounts(checkpoint: ForeignCheckpoint, volumes: dict[KPath, str]) -> Iterator[ContainerMount]:
    for bind in checkpoint.binds:
        if bind.destination in _FILES or bind.destination == _SHM:
            continue
        name = volumes.get(bind.destination, "")
        yield ContainerMount(
            destination=bind.destination,
            type="volume" if name else "bind",
            source=bind.source or None,
            name=name,
            readonly="ro" in bind.options,
            propagation=next((each for each in bind.options if each in _PROPAGATIONS), ""),
        )


def facts_of(checkpoint: ForeignCheckpoint, images: KPath, *, stack: Stack | None = None) -> Facts:
    """
    Give the facts of a checkpoint whose images were unpacked into a directory.

    Raises ImageError for images that are damaged.
    """
    types: dict[KPath, InodeType] = {
        each.destination: each.type for each in checkpoint.binds if each.type
    }
    facts = observe_images(images, container_of(checkpoint, stack), types=types)
    return msgspec.structs.replace(facts, network=_network(facts))


def _network(facts: Facts) -> Network | None:
    """
    Give the network namespace where it is external in the images: one that was made before.

    runc and crun call it by the key that mountcr has for those too (libcontainer/criu_linux.go).
    What is in it no archive tells, so that it comes back with loopback alone, or is given.
    """
    if "net" not in facts.container.namespace_paths or not facts.tasks:
        return None
    lo = Link(name="lo", index=1, kind=LOOPBACK, up=True)
    return Network(id=facts.tasks[0].namespaces.get("net", 0), links=(lo,))


def manifest_of(
    checkpoint: ForeignCheckpoint, images: KPath, *, stack: Stack | None = None
) -> Manifest:
    """
    Give the manifest with which `mountcr restore` takes the images of a checkpoint.

    It names the files that CRIU will compare, by size and mode, for nobody read their contents at
    the dump. Raises what `facts_of` does.
    """
    facts = facts_of(checkpoint, images, stack=stack)
    mode = CgroupMode.SOFT if own_groups(facts) else CgroupMode.IGNORE
    plan = make_plan(facts, Choices(images=images, cgroups=mode))
    tree = MountTree(facts.namespaces[0].mounts if facts.namespaces else ())
    return Manifest(
        created=checkpoint.checkpointed or _written(images),
        facts=facts,
        rootfs=plan.rootfs,
        externals=plan.externals,
        inherited=plan.inherited,
        cgroups=mode,
        files=named_in_images(ImageSet(images).regular_files(), tree, plan.externals),
        losses=plan.losses,
        standard_streams=checkpoint.standard_streams,
    )


def _written(images: KPath) -> str:
    """Give when CRIU wrote what it writes last, as a manifest has it."""
    at = os.stat(decode(join(images, "inventory.img"))).st_mtime
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds")
