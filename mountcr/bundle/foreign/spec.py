# SPDX-License-Identifier: Apache-2.0
"""
The configuration of an OCI runtime in an archive: what of it is asked for, and what is left out.

A configuration is a set of orders to a runtime, programs to start and devices to give among them.
Of one that came from elsewhere only the binds are looked at, as requests. Which of the rest would
have mattered is told by name (OCI runtime-spec 1.2: config.md, config-linux.md).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.bundle.foreign.checkpoint import Dropped, RequestedBind
from mountcr.bundle.foreign.unpacked import container_path
from mountcr.model import InodeType
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mountcr.errors import DocumentError

__all__ = ["Spec", "dropped", "joined", "requested_binds", "with_types"]

_CDI: Final = "cdi.k8s.io/"
"""What begins the annotations that ask for devices by a name of the host (CDI)."""

_CRIU_CONFIG: Final = "org.criu.config"
"""The annotation that names a file of the host which overrides what CRIU is told (runc, crun)."""

_FILES: Final = {
    "/etc/hosts": InodeType.FILE,
    "/etc/hostname": InodeType.FILE,
    "/etc/resolv.conf": InodeType.FILE,
    "/run/.containerenv": InodeType.FILE,
    "/dev/shm": InodeType.DIRECTORY,  # noqa: S108 -- a path in the container
    "/run/secrets": InodeType.DIRECTORY,
    "/dev/termination-log": InodeType.FILE,
}
"""What engines make for every container, whatever an archive says or does not say of it."""

_KINDS: Final = {"network": "net", "mount": "mnt"}
"""What namespaces are called below /proc/<pid>/ns that a configuration calls otherwise."""

_BINDS: Final = frozenset({"bind", "rbind"})


class _OnDisk(msgspec.Struct, frozen=True):
    """Base of the records: immutable; unknown fields are ignored."""


class Hook(_OnDisk, frozen=True):
    """One of `hooks.<kind>`: a program of the host."""

    path: str = ""


class Device(_OnDisk, frozen=True):
    """One of `linux.devices`: a node that is made in the container."""

    path: str = ""


class Namespace(_OnDisk, frozen=True):
    """One of `linux.namespaces`; one with a path is joined."""

    type: str = ""
    path: str | None = None


class Seccomp(_OnDisk, frozen=True, rename="camel"):
    """`linux.seccomp`; the listener is a socket of the host."""

    listener_path: str | None = None


class Linux(_OnDisk, frozen=True, rename="camel"):
    """`linux`."""

    devices: tuple[Device, ...] | None = None
    namespaces: tuple[Namespace, ...] | None = None
    cgroups_path: str = ""
    rootfs_propagation: str = ""
    seccomp: Seccomp | None = None


class Mount(_OnDisk, frozen=True):
    """One of `mounts`."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] | None = None


class Process(_OnDisk, frozen=True):
    """`process`."""

    terminal: bool = False


class Spec(_OnDisk, frozen=True, rename="camel"):
    """As much of a configuration as an archive is asked for; Go writes an empty list as null."""

    oci_version: str = ""
    process: Process | None = None
    hostname: str = ""
    mounts: tuple[Mount, ...] | None = None
    annotations: dict[str, str] | None = None
    hooks: dict[str, tuple[Hook, ...] | None] | None = None
    linux: Linux | None = None

    @property
    def terminal(self) -> bool:
        """Whether the root task had a terminal."""
        return self.process is not None and self.process.terminal


def dropped(spec: Spec, prefix: str = "") -> Iterator[Dropped]:
    """Give what is not done of a configuration; `prefix` is where that stands in the archive."""
    for field, value in _dropped(spec):
        yield Dropped(field=f"{prefix}{field}", value=encode(value))


def _dropped(spec: Spec) -> Iterator[tuple[str, str]]:
    for kind, hooks in (spec.hooks or {}).items():
        for number, hook in enumerate(hooks or ()):
            yield f"hooks.{kind}[{number}]", hook.path
    for name, value in (spec.annotations or {}).items():
        if name == _CRIU_CONFIG or name.startswith(_CDI):
            yield f"annotations.{name}", value
    linux = spec.linux or Linux()
    for number, device in enumerate(linux.devices or ()):
        yield f"linux.devices[{number}]", device.path
    for number, namespace in enumerate(linux.namespaces or ()):
        if namespace.path:
            yield f"linux.namespaces[{number}].path", f"{namespace.type} {namespace.path}"
    if linux.rootfs_propagation:
        yield "linux.rootfsPropagation", linux.rootfs_propagation
    if linux.seccomp and linux.seccomp.listener_path:
        yield "linux.seccomp.listenerPath", linux.seccomp.listener_path


def joined(spec: Spec) -> dict[str, KPath]:
    """Give the paths of the namespaces that were made before the container, by their kinds."""
    namespaces = spec.linux.namespaces if spec.linux else None
    return {
        _KINDS.get(each.type, each.type): encode(each.path)
        for each in namespaces or ()
        if each.path
    }


def requested_binds(spec: Spec, wrong: Callable[[str], DocumentError]) -> tuple[RequestedBind, ...]:
    """
    Give the binds of a configuration, in its order.

    `wrong` makes the error that is raised for a destination that is no absolute path, or leads out
    of the root.
    """
    found: list[RequestedBind] = []
    for number, mount in enumerate(spec.mounts or ()):
        options = mount.options or ()
        if mount.type != "bind" and not _BINDS & set(options):
            continue
        destination = container_path(mount.destination)
        if destination is None:
            what = f"mounts[{number}].destination: {encode(mount.destination)} is no path"
            raise wrong(what)
        found.append(
            RequestedBind(
                destination=destination,
                source=_source(mount.source),
                type=_FILES.get(destination),
                options=tuple(options),
            )
        )
    return tuple(found)


def with_types(
    binds: Iterable[RequestedBind], known: Iterable[RequestedBind]
) -> tuple[RequestedBind, ...]:
    """Give binds with what another list tells of the same destinations, then the rest of that."""
    told = {each.destination: each for each in known}
    found = [
        msgspec.structs.replace(
            each, type=told[each.destination].type, mode=told[each.destination].mode
        )
        if each.destination in told
        else each
        for each in binds
    ]
    there = {each.destination for each in found}
    return (*found, *(each for each in told.values() if each.destination not in there))


def _source(text: str) -> KPath:
    return encode(os.path.normpath(text)) if text else KPath("")
