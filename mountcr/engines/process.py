# SPDX-License-Identifier: Apache-2.0
"""
The init process that an engine recorded, against what /proc shows of it now.

An engine learns of the end of a container only when it runs and is asked, so a recorded pid may be
nobody's, or another process's by now; the start time tells, where somebody recorded it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.procstat import read_stat

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["CGROUPS", "Init", "freezers", "init_process", "oci_status"]

CGROUPS: Final = "/sys/fs/cgroup"

# runc and crun keep this FIFO in the state directory from `create` until `start`.
_WAITS_FOR_START: Final = "exec.fifo"


class Init(NamedTuple):
    """The init process that somebody recorded, as it is now: pid 0 when it has ended."""

    pid: int
    start_time: int
    remark: str


def init_process(pid: int, start_time: int, source: str) -> Init:
    """
    Compare a recorded pid and its start time with /proc; `source` says who recorded them.

    A start time of 0 is one that was not recorded.
    """
    if pid <= 0:
        return Init(0, 0, f"{source}: none")
    try:
        now = read_stat(pid)
    except ProcessLookupError:
        return Init(0, 0, f"{source}: {pid} has ended")
    except PermissionError:
        return Init(pid, start_time, f"{source}: {pid}, which this /proc hides")
    if now.ended:
        return Init(0, 0, f"{source}: {pid} has ended and waits to be reaped")
    if start_time and now.start_time != start_time:
        started = f"started at tick {now.start_time}, recorded {start_time}"
        return Init(0, 0, f"{source}: {pid} is another process by now ({started})")
    return Init(pid, start_time, source)


def oci_status(init: Init, directory: str | None, frozen_by: Iterable[str]) -> str:
    """
    Give the status in the words of the OCI runtime specification.

    `directory` is where a runtime keeps the state of the container, `frozen_by` are the files that
    tell whether its control group is frozen.
    """
    if not init.pid:
        return "stopped"
    if directory and os.path.exists(f"{directory}/{_WAITS_FOR_START}"):
        return "created"
    return "paused" if any(map(_is_frozen, frozen_by)) else "running"


def freezers(cgroup: str) -> Sequence[str]:
    """Give the files that may tell whether a control group is frozen; its path is from the root."""
    path = cgroup.strip("/")
    if not path:
        return ()
    return (
        f"{CGROUPS}/{path}/cgroup.freeze",
        f"{CGROUPS}/freezer/{path}/freezer.state",
        f"{CGROUPS}/unified/{path}/cgroup.freeze",
    )


def _is_frozen(file: str) -> bool:
    """Read freezer.state of cgroups version 1 or cgroup.freeze of version 2, if it is there."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.read(16).strip() in {b"FROZEN", b"1"}
    except OSError:
        return False
