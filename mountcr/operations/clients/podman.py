# SPDX-License-Identifier: Apache-2.0
"""
Podman, which restores what lies in `checkpoint` beside the container's `config.json`.

It mounts the root and /dev/shm, and calls the OCI runtime with that directory (libpod/
container_internal_common.go, `restore()`). A link to the images is enough; links to the files in
it are not, because CRIU opens some from within the container.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import journal
from mountcr.criu import binary
from mountcr.engines.roots import Roots
from mountcr.engines.storage.places import storage_places
from mountcr.errors import RefusedError
from mountcr.operations.clients.client import State, call, complaint, failed
from mountcr.paths import fsdecode
from mountcr.programs import locate_program

if TYPE_CHECKING:
    from collections.abc import Generator

    from mountcr.model import Container
    from mountcr.operations.clients.client import Done
    from mountcr.planning.records import Plan

__all__ = ["Podman"]

_DEAD: Final = frozenset({"exited", "created", "configured"})
"""What podman restores; the one that is `stopped` is being cleaned up after."""

_WRITTEN: Final = ("restore.log", "stats-restore")
"""What CRIU and podman write beside the images' directory."""


class _Status(msgspec.Struct):
    status: str = msgspec.field(default="", name="Status")
    pid: int = msgspec.field(default=0, name="Pid")


class _Inspected(msgspec.Struct):
    state: _Status = msgspec.field(default_factory=_Status, name="State")


class Podman:
    """A container of podman."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._command = [locate_program("podman"), *_roots(container)]
        criu = binary.require().command[0]
        path = f"{os.path.dirname(criu)}{os.pathsep}{os.environ.get('PATH', '')}"
        self._environment = {"PATH": path}
        self._bundle = fsdecode(container.bundle) if container.bundle else ""

    def ready(self) -> State:
        """Ask podman, which looks whether the container still runs."""
        state = self.running()
        if os.path.lexists(self._place):
            msg = f"podman has a checkpoint of {self._container.label}: {self._place}"
            raise RefusedError(msg, hint="remove it, or have podman restore it")
        return state

    def running(self) -> State:
        """Ask podman for the state and the pid."""
        done = self._call("container", "inspect", self._container.id)
        if done.status:
            msg = f"podman does not know {self._container.label}: {complaint(done.complaint)}"
            hint = "name its configuration in $CONTAINERS_STORAGE_CONF and $CONTAINERS_CONF"
            raise RefusedError(msg, hint=f"{hint}, or restore without --via engine")
        (found,) = msgspec.json.decode(done.output, type=tuple[_Inspected])
        return State(found.state.status, found.state.pid, found.state.status in _DEAD)

    @contextlib.contextmanager
    def offered(self, images: str) -> Generator[None]:
        """Link to the images, for a block; what podman writes beside goes if all is well."""
        before = {name for name in _WRITTEN if os.path.lexists(f"{self._bundle}/{name}")}
        journal.link(os.fsencode(self._place), os.fsencode(images))
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._place)
        for name in {*_WRITTEN} - before:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._bundle}/{name}")

    def restore(self, plan: Plan) -> None:
        """Restore, and have podman keep its hands off the images."""
        words = ["container", "restore", "--keep"]
        if plan.criu.restore_options.file_locks:
            words.append("--file-locks")
        if plan.criu.restore_options.tcp_established:
            words.append("--tcp-established")
        done = self._call(*words, self._container.id)
        if done.status:
            raise failed("podman", complaint(done.complaint), f"{self._bundle}/restore.log")

    def end(self) -> None:
        """Have podman kill it and take its root apart."""
        self._call("container", "stop", "--time", "0", self._container.id)

    @property
    def _place(self) -> str:
        return f"{self._bundle}/checkpoint"

    def _call(self, *words: str) -> Done:
        return call([*self._command, *words], self._environment)


def _roots(container: Container) -> list[str]:
    """Say which storage, unless podman finds it by itself; its database knows the run root."""
    if container.state_root is None:
        return []
    wanted = fsdecode(container.state_root)
    for place in storage_places(Roots.of_host()):
        if os.path.realpath(place.graph_root) == os.path.realpath(wanted):
            return []
    return ["--root", wanted]
