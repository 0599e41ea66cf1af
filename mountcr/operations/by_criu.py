# SPDX-License-Identifier: Apache-2.0
"""Restore by CRIU itself: the session, in a private mount namespace with the root assembled."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from mountcr.criu import binary
from mountcr.criu.images import find_damage
from mountcr.criu.session import Notification, Session
from mountcr.errors import CriuError
from mountcr.interrupts import hold_back
from mountcr.journal import HandingOver, note
from mountcr.operations.network import ready as ready_network
from mountcr.operations.restored import end_tasks, settle
from mountcr.operations.streams import opened
from mountcr.paths import decode
from mountcr.planning.choices import RESTORE_ROOT

if TYPE_CHECKING:
    from collections.abc import Generator

    from mountcr.manifest import Manifest
    from mountcr.operations.network import ReadyNetwork
    from mountcr.paths import KPath
    from mountcr.planning.records import Plan

__all__ = ["ByCriu"]


class ByCriu:
    """One restore. Raises CapabilityError when there is no CRIU."""

    assembles = True

    def __init__(self, manifest: Manifest, plan: Plan, stdio: str) -> None:
        self._manifest = manifest
        self._plan = plan
        self._stdio = stdio
        self._command = binary.require().command
        self._inherit: dict[int, int] = {}
        self._network: ReadyNetwork
        self._times = (0, 0)

    @contextlib.contextmanager
    def ready(self) -> Generator[None]:
        """Hold the descriptors that CRIU gets open, and say more of its failures, for a block."""
        images = self._plan.choices.images
        given = opened(self._plan.inherited, self._stdio)
        network = ready_network(self._plan.network)
        with _diagnosed(images), binary.blamed(), given as inherit, network as self._network:
            self._inherit = inherit | self._network.descriptors
            yield

    def restore(self) -> int:
        """Have CRIU restore, settle what it restored, and give the pid of the root task."""
        self._network.enter()
        found = os.stat(decode(RESTORE_ROOT))
        self._times = found.st_atime_ns, found.st_mtime_ns
        with Session(self._command) as session:
            return session.restore(
                self._plan.criu.restore_options, {"post-restore": self._settle}, self._inherit
            )

    def end(self, pid: int) -> None:
        """Kill what was restored."""
        end_tasks(pid)

    def _settle(self, stage: Notification) -> None:
        """Complete and compare while CRIU can still undo everything."""
        settle(self._manifest, self._plan, stage.pid)
        self._network.connect()
        self._put_times_back()
        note(HandingOver())
        hold_back()  # from here on CRIU completes what it does; the caller undoes it if it must

    def _put_times_back(self) -> None:
        """
        Give the root the times that it had; no task of the container runs yet.

        CRIU makes a directory in it to put the old root there, and removes that again
        (criu/mount.c, cr_pivot_root).
        """
        root = decode(RESTORE_ROOT)
        if os.stat(root).st_mtime_ns != self._times[1]:
            os.utime(root, ns=self._times)


@contextlib.contextmanager
def _diagnosed(images: KPath) -> Generator[None]:
    """Name a damaged image where CRIU failed; CRIU itself only says `Unexpected EOF`."""
    try:
        yield
    except CriuError as error:
        damage = find_damage(images)
        if damage:
            raise damage from error
        raise
