# SPDX-License-Identifier: Apache-2.0
"""What becomes of a container that CRIU was dumping when somebody stopped waiting for it."""

from __future__ import annotations

import time
from enum import StrEnum

from mountcr import procstat

__all__ = ["PATIENCE", "Fate", "fate_of"]

PATIENCE = 10.0
"""Seconds that CRIU may take to let go of tasks: it cures them one after the other."""


class Fate(StrEnum):
    """Whether a task runs on, has ended or is about to, or is in the hands of who traces it."""

    RUNS = "runs"
    ENDED = "ended"
    TRACED = "traced"


def fate_of(pid: int, start_time: int, *, seconds: float | None = None) -> Fate:
    """
    Say what becomes of a task that was dumped, when its tracer has let go of it or time is up.

    CRIU traces all tasks until it kills them or lets them go on, and does that when mountcr, which
    it asks, was killed too. One with a deadly signal takes a while to give its memory back. Raises
    PermissionError where /proc hides it.
    """
    until = time.monotonic() + (PATIENCE if seconds is None else seconds)
    while True:
        if not procstat.is_same_process(pid, start_time):
            return Fate.ENDED
        try:
            stat, status = procstat.read_stat(pid), procstat.read_status(pid)
        except ProcessLookupError:
            return Fate.ENDED
        if status.killed or stat.exiting:
            return Fate.ENDED
        if not status.tracer:
            return Fate.RUNS
        if time.monotonic() >= until:
            return Fate.TRACED
        time.sleep(0.01)
