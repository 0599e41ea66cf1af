# SPDX-License-Identifier: Apache-2.0
"""
Containers of the OCI runtimes runc, crun and youki, from the files below their runtime roots.

The runtimes themselves are never run, and nothing is locked or written: what stands in a state
file is compared with /proc, because a runtime learns of the end of a container only when asked.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from mountcr.engines.process import CGROUPS, freezers, init_process, oci_status
from mountcr.engines.reading import Reader, names_in
from mountcr.engines.records import (
    CrunStatus,
    OciSpec,
    RuncState,
    YoukiState,
    glance,
    namespace_paths,
)
from mountcr.engines.spec import with_spec
from mountcr.model import Container
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mountcr.container import Damage
    from mountcr.engines.roots import Roots
    from mountcr.paths import KPath

__all__ = ["Crun", "Runc", "Youki", "recorded_by_runtime"]

_BUNDLE_LABEL: Final = "bundle="


class _Runtime:
    """What the runtimes have in common; `read` gives one container from its state directory."""

    @staticmethod
    def read(root: str, directory: str) -> Container | None:
        """Read a state directory; None if it is none of this runtime."""
        raise NotImplementedError

    def containers(self, roots: Roots) -> Iterator[Container]:
        """Give every container of the runtime below the roots, running or not."""
        for root, directory in _state_directories(roots):
            found = self.read(root, directory)
            if found is not None:
                yield found

    def describe(self, container: Container, roots: Roots) -> Container:  # noqa: ARG002 -- the Protocol's
        """Add what the bundle says: the mounts and labels that it asks for."""
        return with_spec(container)

    def damages(self) -> Sequence[Damage]:
        """Give nothing: what is damaged is a container's."""
        return ()

    def lookup(self, reference: str, roots: Roots) -> Sequence[Container] | None:
        """Answer nothing: an id or a prefix needs the list."""


class Runc(_Runtime):
    """The containers of runc: `<root>/<id>/state.json` with `init_process_pid`."""

    name: ClassVar[str] = "runc"

    @staticmethod
    def read(root: str, directory: str) -> Container | None:
        """Read the state of one container; one that is cut short is a damaged container."""
        file = f"{directory}/state.json"
        state = glance(file, RuncState)
        if state is not None:
            return _from_runc(root, directory, file, state)
        return _damaged(Runc.name, root, file)


class Crun(_Runtime):
    """The containers of crun: `<root>/<id>/status`, and beside it a copy of config.json."""

    name: ClassVar[str] = "crun"

    @staticmethod
    def read(root: str, directory: str) -> Container | None:
        """Read the state of one container; one that is cut short is a damaged container."""
        file = f"{directory}/status"
        status = glance(file, CrunStatus)
        if status is not None:
            return _from_crun(root, directory, file, status)
        return _damaged(Crun.name, root, file)


class Youki(_Runtime):
    """The containers of youki: `<root>/<id>/state.json` with `ociVersion`."""

    name: ClassVar[str] = "youki"

    @staticmethod
    def read(root: str, directory: str) -> Container | None:
        """Read the state of one container."""
        file = f"{directory}/state.json"
        state = glance(file, YoukiState)
        return None if state is None else _from_youki(root, file, state)


def recorded_by_runtime(container: str, roots: Iterable[str]) -> Container | None:
    """Give what an OCI runtime has on record of the container with an id, below some roots."""
    for root in roots:
        directory = f"{root}/{container}"
        if os.path.isdir(directory):
            for runtime in (Runc, Crun, Youki):
                found = runtime.read(root, directory)
                if found is not None and not found.damages:
                    return found
    return None


def _damaged(engine: str, root: str, file: str) -> Container | None:
    """Give a container whose state file is there and ends early; None if nothing is wrong."""
    if not os.path.isfile(file):
        return None
    reader = Reader(encode(root))
    reader.json(file, msgspec.Raw, optional=True)
    if not reader.damages:
        return None
    return Container(
        id=os.path.basename(os.path.dirname(file)),
        engine=engine,
        state_root=encode(root),
        damages=tuple(reader.damages),
    )


def _state_directories(roots: Roots) -> Iterator[tuple[str, str]]:
    """Give each runtime root with each directory in it, in the order of their names."""
    for root in roots.directories():
        for name in names_in(root):
            yield root, f"{root}/{name}"


def _from_runc(root: str, directory: str, file: str, state: RuncState) -> Container:
    """Read what runc recorded of one container."""
    source = f"{file}: init_process_pid"
    init = init_process(state.init_process_pid, state.init_process_start, source)
    cgroups = state.cgroup_paths or {}
    frozen_by = [
        f"{cgroups[controller]}/{name}"
        for controller, name in (("freezer", "freezer.state"), ("", "cgroup.freeze"))
        if controller in cgroups
    ]
    labels = state.config.labels or ()
    bundle = next(
        (label[len(_BUNDLE_LABEL) :] for label in labels if label.startswith(_BUNDLE_LABEL)), None
    )
    provenance = [init.remark, f"{file}: config.rootfs"]
    if bundle:
        provenance.append(f"{file}: config.labels, {_BUNDLE_LABEL}")
    pinned = namespace_paths(state.config.namespaces)
    if pinned:
        provenance.append(f"{file}: config.namespaces")
    return Container(
        id=state.id,
        engine=Runc.name,
        pid=init.pid,
        start_time=init.start_time,
        status=oci_status(init, directory, frozen_by),
        bundle=encode(bundle) if bundle else None,
        rootfs=encode(state.config.rootfs),
        spec=encode(f"{bundle}/config.json") if bundle else None,
        state_root=encode(root),
        namespace_paths=pinned,
        cgroup=_group(cgroups.values()),
        provenance=tuple(provenance),
    )


def _group(directories: Iterable[str]) -> KPath | None:
    """Give the path of a control group from the directories of each hierarchy that it is in."""
    for directory in directories:
        below = directory.removeprefix(f"{CGROUPS}/")
        if below != directory:
            versioned = os.path.exists(f"{CGROUPS}/cgroup.controllers")
            return encode("/" + (below if versioned else below.partition("/")[2]))
    return None


def _from_crun(root: str, directory: str, file: str, status: CrunStatus) -> Container:
    """Read what crun recorded of one container; the name of the directory is its id."""
    init = init_process(status.pid, status.process_start_time, f"{file}: pid")
    cgroup = status.cgroup_path or ""
    provenance = [init.remark, f"{file}: rootfs", f"{file}: bundle"]
    spec = glance(f"{directory}/config.json", OciSpec)
    pinned = namespace_paths(spec.linux.namespaces if spec and spec.linux else None)
    if pinned:
        provenance.append(f"{directory}/config.json: linux.namespaces")
    return Container(
        id=os.path.basename(directory),
        engine=Crun.name,
        pid=init.pid,
        start_time=init.start_time,
        status=oci_status(init, directory, freezers(cgroup)),
        bundle=encode(status.bundle),
        rootfs=encode(os.path.normpath(os.path.join(status.bundle, status.rootfs))),
        spec=encode(f"{directory}/config.json") if spec else None,
        state_root=encode(root),
        namespace_paths=pinned,
        cgroup=encode("/" + cgroup.strip("/")) if cgroup else None,
        provenance=tuple(provenance),
    )


def _from_youki(root: str, file: str, state: YoukiState) -> Container:
    """Read what youki recorded of one container; the rootfs stands only in the bundle."""
    pid = 0 if state.status == "stopped" else state.pid or 0
    init = init_process(pid, 0, f"{file}: pid")
    provenance = [init.remark, f"{file}: bundle"]
    if init.pid:
        provenance.append(f"{file}: no start time, the pid may be another process by now")
    config = os.path.join(state.bundle, "config.json")
    spec = glance(config, OciSpec)
    pinned = namespace_paths(spec.linux.namespaces if spec and spec.linux else None)
    if spec:
        provenance.append(f"{config}: root.path")
    if pinned:
        provenance.append(f"{config}: linux.namespaces")
    rootfs = os.path.normpath(os.path.join(state.bundle, spec.root.path)) if spec else None
    return Container(
        id=state.id,
        engine=Youki.name,
        pid=init.pid,
        status=state.status if init.pid else "stopped",
        bundle=encode(state.bundle),
        rootfs=encode(rootfs) if rootfs else None,
        spec=encode(config) if spec else None,
        state_root=encode(root),
        namespace_paths=pinned,
        provenance=tuple(provenance),
    )
