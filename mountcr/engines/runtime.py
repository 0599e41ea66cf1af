# SPDX-License-Identifier: Apache-2.0
"""
The process of a container, by the records of an engine and of the OCI runtime below it.

An engine records a pid and no start time; the runtime records both. Where the runtime's record is
gone, as after a boot, a process is taken for the container's only if its control group has its id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mountcr.engines.oci import recorded_by_runtime
from mountcr.engines.process import freezers, init_process, oci_status
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import Container

__all__ = ["with_process"]


def with_process(
    container: Container, pid: int, source: str, runtime_roots: Iterable[str]
) -> Container:
    """
    Give a container with its process as it is now.

    `pid` is the one that the engine recorded, 0 if it says that there is none, and `source` the
    file and field that told. `runtime_roots` are where the runtime may have its record; where it
    has one, it tells the process, whatever the engine thinks.
    """
    recorded = recorded_by_runtime(container.id, runtime_roots)
    if recorded is not None:
        return _merged(container, recorded)
    init = init_process(pid, 0, source)
    if init.pid and not _is_in_group_of(init.pid, container.id):
        gone = f"{source}: {pid} is another process by now (its control group is not this one's)"
        init = init._replace(pid=0, start_time=0, remark=gone)
    group = str(container.cgroup) if container.cgroup else ""
    return msgspec.structs.replace(
        container,
        pid=init.pid,
        start_time=init.start_time,
        status=oci_status(init, None, freezers(group)),
        provenance=(*container.provenance, f"pid: {init.remark}"),
    )


def _merged(container: Container, runtime: Container) -> Container:
    """Add what the runtime knows to what the engine does."""
    return msgspec.structs.replace(
        container,
        pid=runtime.pid,
        start_time=runtime.start_time,
        status=runtime.status,
        bundle=container.bundle or runtime.bundle,
        rootfs=container.rootfs or runtime.rootfs,
        spec=container.spec or runtime.spec,
        cgroup=container.cgroup or runtime.cgroup,
        namespace_paths=container.namespace_paths or runtime.namespace_paths,
        provenance=(*container.provenance, *(f"runtime: {each}" for each in runtime.provenance)),
    )


def _is_in_group_of(pid: int, container: str) -> bool:
    """Tell whether a control group of a process has the id of a container in its path."""
    try:
        with open(f"/proc/{pid}/cgroup", "rb", buffering=0) as file:
            return encode(container).encode() in file.read()
    except OSError:
        return False
