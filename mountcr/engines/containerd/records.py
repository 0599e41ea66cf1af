# SPDX-License-Identifier: Apache-2.0
"""
Containers of containerd: what its database, the bundle of a task and the OCI runtime say together.

A task has a bundle in the state, `config.json` with `init.pid` and `rootfs`, on which the snapshot
is mounted (core/runtime/v2/bundle.go, cmd/containerd-shim-runc-v2/process/init.go of containerd
2.0). With the task go the bundle and the mount.
"""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.container import Container, Damage, TornDown
from mountcr.engines.containerd import cri, nerdctl
from mountcr.engines.containerd.wire import strings, unwrap
from mountcr.engines.reading import Reader
from mountcr.engines.records import OciSpec, namespace_paths
from mountcr.engines.runtime import with_process
from mountcr.engines.spec import mounts_of_spec, with_spec
from mountcr.overlayhome import is_name
from mountcr.paths import encode, fsdecode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.engines.containerd.metadata import Flaw, Row
    from mountcr.engines.containerd.places import Instance
    from mountcr.engines.containerd.snapshots import Layers
    from mountcr.paths import KPath

__all__ = ["described", "group_path", "listed", "unlisted"]

_ENGINE: Final = "containerd"

_ROOT_OPTION: Final = 7
"""`root` of containerd.runc.v1.Options (api/types/runc/options/oci.proto): that of runc."""

_TASK_DIRECTORIES: Final = (("", 0o700), ("/rootfs", 0o711))
"""What is made for a task below its bundle, and goes with it (core/runtime/v2/bundle.go)."""


def listed(row: Row, instance: Instance) -> Container:
    """Give what tells a container from others, with its process."""
    reader = Reader()
    database = instance.database
    for flaw in row.flaws:
        reader.damaged(database, encode(flaw.field), flaw.what)
    name, names = _names(row)
    container = Container(
        id=row.id,
        engine=_ENGINE,
        name=name,
        names=names,
        image=row.image,
        storage=row.snapshotter,
        state_root=encode(instance.root),
        namespace=row.namespace,
        labels=row.labels,
        provenance=(f"container: {encode(database)}: {encode(row.field)}",),
    )
    if not is_name(row.id) or not is_name(row.namespace):
        reader.damaged(database, encode(row.field), "is no name that a directory can have")
        return _with_damages(container, reader.damages)
    return _running(container, row, instance, reader)


def unlisted(namespace: str, name: str, instance: Instance, flaws: Iterable[Flaw]) -> Container:
    """Give a container that has a bundle, and no record because the database is damaged."""
    bundle = f"{instance.bundles(namespace)}/{name}"
    container = Container(
        id=name,
        engine=_ENGINE,
        state_root=encode(instance.root),
        namespace=namespace,
        provenance=(f"container: {encode(bundle)}",),
    )
    reader = Reader()
    for flaw in flaws:
        reader.damaged(instance.database, encode(flaw.field), flaw.what)
    return _started(container, instance, reader, [f"{instance.runtime}/{namespace}"])


def described(
    container: Container, row: Row | None, instance: Instance, layers: Layers | None
) -> Container:
    """Add the layers of a container, its mounts, and what goes when it ends."""
    reader = Reader()
    found = with_spec(container)
    if found.spec is None and row is not None:
        found = _with_stored_spec(found, row, instance, reader)
    if found.rootfs is None and found.bundle:
        found = msgspec.structs.replace(found, rootfs=encode(f"{fsdecode(found.bundle)}/rootfs"))
    mounts = found.mounts
    try:
        mounts = nerdctl.with_volumes(mounts, container.labels)
    except nerdctl.MountsError as error:
        field = f"{row.field if row else ''}/labels/{nerdctl.MOUNTS}"
        reader.damaged(instance.database, field, str(error))
    damages = (*found.damages, *(layers.damages if layers else ()), *reader.damages)
    return msgspec.structs.replace(
        found,
        stack=layers.stack if layers else None,
        mounts=mounts,
        torn_down=(
            *_torn_down(found.bundle or _bundle(container, instance)),
            *cri.shared_memory(container.labels, found.shm),
        ),
        damages=tuple(dict.fromkeys(damages)),
        provenance=(*found.provenance, *(layers.told if layers else ())),
    )


def _names(row: Row) -> tuple[str, tuple[str, ...]]:
    """Give the name that the tool which made a container has for it, and others."""
    if cri.KIND in row.labels:
        return cri.named(row.labels)
    return row.labels.get(nerdctl.NAME, ""), ()


def _running(container: Container, row: Row, instance: Instance, reader: Reader) -> Container:
    """Add the process: by the OCI runtime, the CRI plugin, or the shim, whoever recorded it."""
    roots = [f"{instance.runtime}/{row.namespace}", f"{instance.state}/runc/{row.namespace}"]
    try:
        options = strings(unwrap(row.runtime_options).value) if row.runtime_options else {}
    except ValueError as error:
        options = {}
        reader.damaged(instance.database, encode(f"{row.field}/runtime/options"), str(error))
    if _ROOT_OPTION in options:
        roots.insert(0, f"{os.fsdecode(options[_ROOT_OPTION])}/{row.namespace}")
    said = cri.NOTHING
    if row.labels.get(cri.KIND) == "container":
        said = cri.recorded(instance.root, row.id, reader.damages)
    container = msgspec.structs.replace(container, recorded=said.state)
    return _started(container, instance, reader, roots, said)


def _started(
    container: Container,
    instance: Instance,
    reader: Reader,
    runtime_roots: Iterable[str],
    said: cri.Recorded = cri.NOTHING,
) -> Container:
    """Add the bundle, if there is one, and the process."""
    bundle = _bundle(container, instance)
    path = fsdecode(bundle)
    pid, source = said.pid, said.source or f"{path}/init.pid"
    is_there = os.path.isdir(path)
    if is_there and not pid:
        source = f"{path}/init.pid"
        pid = _pid(source, instance, reader)
    found = with_process(container, pid, source, runtime_roots)
    if found.bundle and found.bundle != bundle and not _is_of(found.bundle, container, instance):
        found = with_process(container, pid, source, ())
    if is_there:
        found = msgspec.structs.replace(found, bundle=bundle)
    return _with_damages(found, reader.damages)


def _is_of(bundle: KPath, container: Container, instance: Instance) -> bool:
    """
    Tell whether a bundle is of a container of this containerd, and not of the same id in another.

    `work` in it leads to a directory in the root (core/runtime/v2/bundle.go).
    """
    there, here = fsdecode(bundle), fsdecode(_bundle(container, instance))
    work = os.path.realpath(f"{there}/work")
    kept = f"{instance.root}/{os.path.relpath(here, instance.state)}"
    return os.path.realpath(there) == os.path.realpath(here) or work == os.path.realpath(kept)


def _pid(file: str, instance: Instance, reader: Reader) -> int:
    """Read the pid that the runtime wrote for the shim; none before the container is created."""
    state = Reader(encode(instance.state))
    text = state.text(file, optional=True)
    reader.damages.extend(state.damages)
    if text is None:
        return 0
    if text.isascii() and text.isdigit():
        return int(text)
    reader.damaged(file, "", f"no pid: {text[:20]!r}")
    return 0


def _bundle(container: Container, instance: Instance) -> KPath:
    return encode(f"{instance.bundles(container.namespace)}/{container.id}")


def _torn_down(bundle: KPath) -> tuple[TornDown, ...]:
    return tuple(
        TornDown(path=encode(f"{fsdecode(bundle)}{below}"), type="directory", mode=mode)
        for below, mode in _TASK_DIRECTORIES
    )


def _with_stored_spec(
    container: Container, row: Row, instance: Instance, reader: Reader
) -> Container:
    """Add what the configuration in the database says: the one that the next task gets."""
    field = encode(f"{row.field}/spec")
    spec = _stored_spec(row, instance, reader, field)
    if spec is None:
        return container
    bundle = container.bundle or _bundle(container, instance)
    mounts, files, shm = mounts_of_spec(spec, bundle)
    linux = spec.linux
    return msgspec.structs.replace(
        container,
        rootfs=container.rootfs
        or encode(posixpath.normpath(posixpath.join(fsdecode(bundle), spec.root.path))),
        mounts=mounts,
        files=files,
        shm=shm,
        namespace_paths=container.namespace_paths
        or namespace_paths(linux.namespaces if linux else None),
        cgroup=container.cgroup or group_path(linux.cgroups_path if linux else ""),
        provenance=(*container.provenance, f"mounts: {encode(instance.database)}: {field}"),
    )


def _stored_spec(row: Row, instance: Instance, reader: Reader, field: str) -> OciSpec | None:
    if not row.spec:
        if not row.flaws:
            reader.damaged(instance.database, field, "is missing")
        return None
    try:
        return msgspec.json.decode(unwrap(row.spec).value, type=OciSpec)
    except (ValueError, RecursionError) as error:
        reader.damaged(instance.database, field, f"no OCI configuration: {error}")
    return None


def group_path(path: str) -> KPath | None:
    """
    Give the path of a control group from `cgroupsPath`.

    With systemd's cgroup driver that is `SLICE:PREFIX:NAME`, and slices are in those that their
    names begin with (libcontainer/cgroups/systemd of runc 1.1).
    """
    piece, colon, rest = path.partition(":")
    if not colon:
        return encode("/" + path.strip("/")) if path.strip("/") else None
    prefix, _, name = rest.partition(":")
    words = (piece or "system.slice").removesuffix(".slice").split("-")
    slices = ["-".join(words[: count + 1]) + ".slice" for count in range(len(words))]
    return encode("/".join(["", *slices, f"{prefix}-{name}.scope" if prefix else f"{name}.scope"]))


def _with_damages(container: Container, damages: Iterable[Damage]) -> Container:
    return msgspec.structs.replace(
        container, damages=tuple(dict.fromkeys((*container.damages, *damages)))
    )
