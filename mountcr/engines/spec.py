# SPDX-License-Identifier: Apache-2.0
"""
What the configuration of an OCI runtime asks for: `config.json` of a bundle, read as far as needed.

Its mounts are what a container was meant to get; what it got is in the mount table of its tasks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.container import ContainerMount
from mountcr.engines.reading import Reader
from mountcr.engines.records import OciSpec, namespace_paths
from mountcr.paths import encode, fsdecode, parent

if TYPE_CHECKING:
    from mountcr.engines.records import OciMount
    from mountcr.model import Container
    from mountcr.paths import KPath

__all__ = ["mounts_of_spec", "with_spec"]

_ORDINARY: Final = frozenset(
    {"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs", "overlay"}
)
"""File systems that every container has, or that hold nothing of the container's."""

_OWN_TMPFS: Final = frozenset({"/dev", "/dev/shm", "/run", "/sys/fs/cgroup"})  # noqa: S108
_FILES: Final = {f"/etc/{name}": name for name in ("hostname", "hosts", "resolv.conf")}
_PROPAGATIONS: Final = frozenset(
    {"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"}
)


def with_spec(container: Container) -> Container:
    """
    Give a container with what its configuration says, where its own record says nothing.

    The configuration is looked for at `spec`, then in the bundle.
    """
    beside = encode(f"{container.bundle}/config.json") if container.bundle else None
    file = container.spec or beside
    if file is None:
        return container
    reader = Reader(parent(file))
    spec = reader.json(fsdecode(file), OciSpec, optional=True)
    damages = tuple(dict.fromkeys((*container.damages, *reader.damages)))
    if spec is None:
        return msgspec.structs.replace(container, spec=None, damages=damages)
    mounts, files, shm = mounts_of_spec(spec, container.bundle)
    reader.tell("mounts", fsdecode(file), "mounts")
    return msgspec.structs.replace(
        container,
        spec=file,
        mounts=container.mounts or mounts,
        files=container.files or files,
        shm=container.shm or shm,
        labels=container.labels or dict(spec.annotations or {}),
        namespace_paths=container.namespace_paths
        or namespace_paths(spec.linux.namespaces if spec.linux else None),
        damages=damages,
        provenance=(*container.provenance, *reader.told),
    )


def mounts_of_spec(
    spec: OciSpec, bundle: KPath | None
) -> tuple[tuple[ContainerMount, ...], dict[str, KPath], KPath | None]:
    """
    Tell the mounts of a configuration apart: volumes and binds, the engine's files, /dev/shm.

    A relative source begins at the bundle.
    """
    mounts: list[ContainerMount] = []
    files: dict[str, KPath] = {}
    shm: KPath | None = None
    for mount in spec.mounts or ():
        source = _source(mount, bundle)
        if mount.destination in _FILES and source:
            files[_FILES[mount.destination]] = source
        elif mount.destination == "/dev/shm":  # noqa: S108 -- a path in the container
            shm = source
        elif mount.type not in _ORDINARY and not _is_own(mount):
            mounts.append(_mount(mount, source))
    return tuple(mounts), files, shm


def _is_own(mount: OciMount) -> bool:
    return mount.type == "tmpfs" and mount.destination in _OWN_TMPFS


def _source(mount: OciMount, bundle: KPath | None) -> KPath | None:
    """Give what is bound, None for what is made anew."""
    options = mount.options or ()
    if not mount.source or not (mount.type in {"bind", ""} or {"bind", "rbind"} & set(options)):
        return None
    base = fsdecode(bundle) if bundle else "/"
    return encode(os.path.normpath(os.path.join(base, mount.source)))


def _mount(mount: OciMount, source: KPath | None) -> ContainerMount:
    options = mount.options or ()
    return ContainerMount(
        destination=encode(os.path.normpath(mount.destination)),
        type="bind" if source else mount.type,
        source=source,
        readonly="ro" in options or "rro" in options,
        propagation=next((each for each in options if each in _PROPAGATIONS), ""),
    )
