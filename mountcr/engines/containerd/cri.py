# SPDX-License-Identifier: Apache-2.0
"""
What Kubernetes' side of containerd, the CRI plugin, records of a container beside `meta.db`.

Labels are those of internal/cri/labels and of the kubelet. `containers/ID/status` below its
directory in the root has the state (internal/cri/store/container/status.go of containerd 2.0); the
directory keeps the name that the plugin had in 1.0. Files of a pod lie in `sandboxes/ID`, and
`/dev/shm` is mounted there in the state; the configuration of each container binds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mountcr.container import TornDown
from mountcr.engines.reading import Reader
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mountcr.container import Damage
    from mountcr.paths import KPath

__all__ = ["KIND", "NOTHING", "Recorded", "named", "recorded", "shared_memory"]

KIND: Final = "io.cri-containerd.kind"
"""The label that the CRI plugin gives its containers: `container` or `sandbox`."""

_DIRECTORY: Final = "io.containerd.grpc.v1.cri"
_SHM_SIZE: Final = "mode=1777,size=65536k"


class Recorded(NamedTuple):
    """The state of a container in the words of the CRI, its pid if it runs, and who told."""

    state: str
    pid: int
    source: str


NOTHING: Final = Recorded("", 0, "")


class _Status(msgspec.Struct, frozen=True, rename="pascal"):
    """`containers/ID/status`; times are nanoseconds, 0 for what has not happened."""

    pid: int = 0
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0


def named(labels: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Give the name that crictl shows, and longer ones with the pod and its namespace."""
    pod = labels.get("io.kubernetes.pod.name", "")
    space = labels.get("io.kubernetes.pod.namespace", "")
    if labels.get(KIND) == "sandbox":
        return pod, (f"{space}/{pod}",) if pod and space else ()
    name = labels.get("io.kubernetes.container.name", "")
    if not name or not pod:
        return name, ()
    return name, (f"{pod}/{name}", *((f"{space}/{pod}/{name}",) if space else ()))


def recorded(root: str, container: str, damages: list[Damage]) -> Recorded:
    """Read the state of a container; a sandbox has none on disk. Damages are added."""
    file = f"{root}/{_DIRECTORY}/containers/{container}/status"
    reader = Reader(encode(root))
    status = reader.json(file, _Status, optional=True)
    damages.extend(reader.damages)
    if status is None:
        return NOTHING
    if status.finished_at:
        return Recorded("CONTAINER_EXITED", 0, f"{file}: FinishedAt")
    state = "RUNNING" if status.started_at else "CREATED" if status.created_at else "UNKNOWN"
    return Recorded(f"CONTAINER_{state}", status.pid, f"{file}: Pid")


def shared_memory(labels: Mapping[str, str], shm: KPath | None) -> tuple[TornDown, ...]:
    """Give what goes with a sandbox: the /dev/shm of its pod (internal/cri/server/podsandbox)."""
    if shm is None or labels.get(KIND) != "sandbox" or f"/{_DIRECTORY}/" not in shm:
        return ()
    return (TornDown(path=shm, type="tmpfs", mode=0o1777, options=_SHM_SIZE),)
