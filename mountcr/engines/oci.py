# SPDX-License-Identifier: Apache-2.0
"""
Containers of the OCI runtimes runc, crun and youki, from the files below their runtime roots.

The runtimes themselves are never run, and nothing is locked or written: what stands in a state
file is compared with /proc, because a runtime learns of the end of a container only when asked.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from mountcr.engines.records import (
    CrunStatus,
    OciSpec,
    RuncState,
    YoukiState,
    glance,
    namespace_paths,
)
from mountcr.model import Container
from mountcr.paths import encode
from mountcr.procstat import read_stat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.engines import Roots

__all__ = ["Crun", "Runc", "Youki"]

_CGROUPS: Final = "/sys/fs/cgroup"

# runc and crun keep this FIFO in the state directory from `create` until `start`.
_WAITS_FOR_START: Final = "exec.fifo"

_BUNDLE_LABEL: Final = "bundle="


class Runc:
    """The containers of runc: `<root>/<id>/state.json` with `init_process_pid`."""

    name: ClassVar[str] = "runc"

    def containers(self, roots: Roots) -> Iterator[Container]:
        """Give every container of runc below the roots, running or not."""
        for root, directory in _state_directories(roots):
            file = f"{directory}/state.json"
            state = glance(file, RuncState)
            if state is not None:
                yield _from_runc(root, directory, file, state)

    def lookup(self, reference: str, roots: Roots) -> Sequence[Container] | None:
        """Answer nothing: an id or a prefix needs the list."""


class Crun:
    """The containers of crun: `<root>/<id>/status`, and beside it a copy of config.json."""

    name: ClassVar[str] = "crun"

    def containers(self, roots: Roots) -> Iterator[Container]:
        """Give every container of crun below the roots, running or not."""
        for root, directory in _state_directories(roots):
            file = f"{directory}/status"
            status = glance(file, CrunStatus)
            if status is not None:
                yield _from_crun(root, directory, file, status)

    def lookup(self, reference: str, roots: Roots) -> Sequence[Container] | None:
        """Answer nothing: an id or a prefix needs the list."""


class Youki:
    """The containers of youki: `<root>/<id>/state.json` with `ociVersion`."""

    name: ClassVar[str] = "youki"

    def containers(self, roots: Roots) -> Iterator[Container]:
        """Give every container of youki below the roots, running or not."""
        for root, directory in _state_directories(roots):
            file = f"{directory}/state.json"
            state = glance(file, YoukiState)
            if state is not None:
                yield _from_youki(root, file, state)

    def lookup(self, reference: str, roots: Roots) -> Sequence[Container] | None:
        """Answer nothing: an id or a prefix needs the list."""


class _Init(NamedTuple):
    """The init process that a state file records, as it is now: pid 0 when it has ended."""

    pid: int
    start_time: int
    remark: str


def _state_directories(roots: Roots) -> Iterator[tuple[str, str]]:
    """Give each runtime root with each directory in it, in the order of their names."""
    for root in roots.directories():
        try:
            names = sorted(os.listdir(root))
        except OSError:
            continue
        for name in names:
            yield root, f"{root}/{name}"


def _init(pid: int, start_time: int, source: str) -> _Init:
    """
    Compare a recorded pid and its start time with /proc; `source` says who recorded them.

    A start time of 0 is one that was not recorded.
    """
    if pid <= 0:
        return _Init(0, 0, f"{source}: none")
    try:
        now = read_stat(pid)
    except ProcessLookupError:
        return _Init(0, 0, f"{source}: {pid} has ended")
    except PermissionError:
        return _Init(pid, start_time, f"{source}: {pid}, which this /proc hides")
    if now.ended:
        return _Init(0, 0, f"{source}: {pid} has ended and waits to be reaped")
    if start_time and now.start_time != start_time:
        started = f"started at tick {now.start_time}, recorded {start_time}"
        return _Init(0, 0, f"{source}: {pid} is another process by now ({started})")
    return _Init(pid, start_time, source)


def _status(init: _Init, directory: str, freezers: Sequence[str]) -> str:
    """Give the status in the words of the OCI runtime specification."""
    if not init.pid:
        return "stopped"
    if os.path.exists(f"{directory}/{_WAITS_FOR_START}"):
        return "created"
    return "paused" if any(map(_is_frozen, freezers)) else "running"


def _is_frozen(file: str) -> bool:
    """Read freezer.state of cgroups version 1 or cgroup.freeze of version 2, if it is there."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.read(16).strip() in {b"FROZEN", b"1"}
    except OSError:
        return False


def _from_runc(root: str, directory: str, file: str, state: RuncState) -> Container:
    """Read what runc recorded of one container."""
    init = _init(state.init_process_pid, state.init_process_start, f"{file}: init_process_pid")
    cgroups = state.cgroup_paths or {}
    freezers = [
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
        status=_status(init, directory, freezers),
        bundle=encode(bundle) if bundle else None,
        rootfs=encode(state.config.rootfs),
        state_root=encode(root),
        namespace_paths=pinned,
        provenance=tuple(provenance),
    )


def _from_crun(root: str, directory: str, file: str, status: CrunStatus) -> Container:
    """Read what crun recorded of one container; the name of the directory is its id."""
    init = _init(status.pid, status.process_start_time, f"{file}: pid")
    cgroup = (status.cgroup_path or "").strip("/")
    freezers = [
        f"{_CGROUPS}/{cgroup}/cgroup.freeze",
        f"{_CGROUPS}/freezer/{cgroup}/freezer.state",
        f"{_CGROUPS}/unified/{cgroup}/cgroup.freeze",
    ]
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
        status=_status(init, directory, freezers if cgroup else ()),
        bundle=encode(status.bundle),
        rootfs=encode(os.path.normpath(os.path.join(status.bundle, status.rootfs))),
        state_root=encode(root),
        namespace_paths=pinned,
        provenance=tuple(provenance),
    )


def _from_youki(root: str, file: str, state: YoukiState) -> Container:
    """Read what youki recorded of one container; the rootfs stands only in the bundle."""
    pid = 0 if state.status == "stopped" else state.pid or 0
    init = _init(pid, 0, f"{file}: pid")
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
        state_root=encode(root),
        namespace_paths=pinned,
        provenance=tuple(provenance),
    )
