# SPDX-License-Identifier: Apache-2.0
"""
Restore through the container's engine, which knows the running container afterwards.

The engine mounts what it made for the container, its root included, and calls the OCI runtime with
the images as they are: externals are named by their mountpoints, as the runtimes name them, and
`descriptors.json` is there. mountcr assembles nothing, and compares what comes of it all the same.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import procstat
from mountcr.criu.images import find_damage
from mountcr.errors import CriuError, MountcrError, RefusedError, UsageError
from mountcr.interrupts import held_back
from mountcr.operations.clients.containerd import Containerd
from mountcr.operations.clients.docker import Docker
from mountcr.operations.clients.podman import Podman
from mountcr.operations.refusal import refuse_imported
from mountcr.operations.restored import end_tasks, settle
from mountcr.paths import fsdecode
from mountcr.planning.choices import Tcp
from mountcr.planning.descriptors import STANDARD_STREAMS
from mountcr.planning.given import parse_given
from mountcr.planning.network import is_external, made_before

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from mountcr.manifest import Manifest
    from mountcr.model import Container
    from mountcr.operations.clients.client import Client
    from mountcr.paths import KPath
    from mountcr.planning.records import Plan

__all__ = ["ByEngine", "without_assembly"]

_CLIENTS: Final[Mapping[str, Callable[[Container], Client]]] = {
    "containerd": Containerd,
    "docker": Docker,
    "podman": Podman,
}

_NOTICING: Final = 5.0
"""Seconds that an engine may take to notice that its container has died."""


def without_assembly(plan: Plan) -> Plan:
    """Take the steps out of a plan that an engine does itself."""
    plan = msgspec.structs.replace(plan, network=None)
    if plan.rootfs is None:
        return plan
    return msgspec.structs.replace(plan, rootfs=msgspec.structs.replace(plan.rootfs, steps=()))


class ByEngine:
    """
    One restore by an engine.

    Raises UsageError when it is none that can, or for what it cannot be told, CapabilityError when
    its program is missing or it does not answer, RefusedError unless it knows the container and
    that is dead, and for a descriptor that it could not give back.
    """

    assembles = False

    def __init__(self, manifest: Manifest, plan: Plan, stdio: str) -> None:
        self._manifest = manifest
        self._plan = plan
        self._container = manifest.facts.container
        _check(manifest, plan, stdio)
        self._client = _CLIENTS[self._container.engine](self._container)
        self._expect_dead()

    def _expect_dead(self) -> None:
        state = self._client.ready()
        until = time.monotonic() + _NOTICING
        while not state.is_dead and not _runs(state.pid) and time.monotonic() < until:
            time.sleep(0.05)
            state = self._client.ready()
        if not state.is_dead:
            msg = f"{self._container.label} is {state.word}, says {self._container.engine}"
            raise RefusedError(msg, hint="stop it first")

    @contextlib.contextmanager
    def ready(self) -> Generator[None]:
        """Have the images where the engine looks, for a block."""
        with self._client.offered(fsdecode(self._plan.choices.images)):
            yield

    def restore(self) -> int:
        """
        Hand over, settle, and give the pid of the root task.

        A signal that comes meanwhile ends the container again when the engine is done.
        """
        with contextlib.ExitStack() as undo:
            with held_back():
                self._restore()
                undo.callback(self._client.end)
                pid = self._pid()
                settle(self._manifest, self._plan, pid)
            undo.pop_all()
        return pid

    def _restore(self) -> None:
        """Name a damaged image where it failed; CRIU itself only says `Unexpected EOF`."""
        try:
            self._client.restore(self._plan)
        except CriuError as error:
            if damage := find_damage(self._plan.choices.images):
                raise damage from error
            raise

    def end(self, pid: int) -> None:
        """Have the engine end what was restored, and see to it."""
        self._client.end()
        with contextlib.suppress(ProcessLookupError):
            end_tasks(pid)

    def _pid(self) -> int:
        state = self._client.running()
        if not _runs(state.pid):
            msg = f"{self._container.engine} restored {self._container.label}, which has ended"
            raise MountcrError(msg, hint=f"it is {state.word}")
        return state.pid


def _runs(pid: int) -> bool:
    return pid > 0 and procstat.is_same_process(pid, 0)


def _check(manifest: Manifest, plan: Plan, stdio: str) -> None:
    container = manifest.facts.container
    refuse_imported(manifest, "engine")
    if container.engine not in _CLIENTS or container.bundle is None:
        msg = f"{container.engine}:{container.id} has no engine that could take it over"
        hint = "dump it by the name that its engine knows, or restore without --via engine"
        raise UsageError(msg, hint=hint)
    if option := next(_untold(manifest, plan, stdio), None):
        msg = f"{container.engine} cannot be told {option}"
        raise UsageError(msg, hint=f"leave out {option}, or --via engine")
    network = is_external(manifest.facts, parse_given(manifest.extra))
    if network and made_before(container) is None:
        msg = "its network namespace, with links, is not in the images"
        hint = f"{container.engine} would look for it there; restore without --via engine"
        raise RefusedError(msg, hint=hint)
    for kind, path in _joined(manifest):
        if kind == "net" and network:
            continue  # the images say so, and its runtime hands over the one at its path
        msg = f"its {kind} namespace is {path}, and the images hold one of their own"
        hint = f"{container.engine} would not know that one; restore without --via engine"
        raise RefusedError(msg, hint=hint)
    for each in plan.inherited:
        if each.fd not in STANDARD_STREAMS:
            msg = f"descriptor {each.fd} ({each.shown}) leads out of the container"
            hint = f"{container.engine} gives standard streams only; restore without --via engine"
            raise RefusedError(msg, hint=hint)


def _joined(manifest: Manifest) -> Iterator[tuple[str, KPath]]:
    """
    Give the namespaces that were made before the container, and are not the host's.

    Docker records where it has mounted the one for the network that the container made itself.
    """
    facts = manifest.facts
    for kind, path in facts.container.namespace_paths.items():
        is_recorded = (facts.container.engine, kind) == ("docker", "net")
        inside = facts.tasks[0].namespaces.get(kind) if facts.tasks else None
        if not is_recorded and inside != facts.host.namespaces.get(kind):
            yield kind, path


def _untold(manifest: Manifest, plan: Plan, stdio: str) -> Iterator[str]:
    """Give the options that were given and are nothing to an engine."""
    choices, engine = plan.choices, manifest.facts.container.engine
    given = {
        "--driver": choices.driver,
        "--upper": choices.upper,
        "--bind": choices.binds,
        "--root": choices.root_at,
        "--net": choices.net,
        "--bridge": choices.bridges,
        "--tcp-established": choices.tcp is Tcp.ESTABLISHED and engine != "podman",
        "--tcp-close": choices.tcp is Tcp.CLOSE,
        "--cgroup-root": choices.cgroup_root,
        "--manage-cgroups-mode": choices.cgroups != manifest.cgroups,
        "--stdio": stdio != "null",
        "what follows --": choices.extra,
    }
    return (option for option, value in given.items() if value)
