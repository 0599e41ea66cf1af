# SPDX-License-Identifier: Apache-2.0
"""
Restore: look at the target, plan, assemble the root in a private mount namespace, CRIU, compare.

The host's mount table does not change, whatever happens and whenever this process is killed,
unless the root is asked for on the host too; then it is attached there as the last thing. Who
restores, CRIU itself or the container's runtime, is a matter of one step of it. The container's
engine brings the root back itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from mountcr import journal
from mountcr import manifest as manifests
from mountcr.errors import PrivilegeError, UsageError, VerificationError
from mountcr.execute import applied
from mountcr.graph import MountGraph
from mountcr.graph.diff import Difference
from mountcr.kernel import mounts
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.private import in_private_namespace
from mountcr.model import Record
from mountcr.observation import observe_host
from mountcr.observation.layers import look_again
from mountcr.observation.target import observe_target
from mountcr.operations.by_criu import ByCriu
from mountcr.operations.by_engine import ByEngine, without_assembly
from mountcr.operations.by_runtime import ByRuntime
from mountcr.operations.leftovers import recorded
from mountcr.operations.locks import held
from mountcr.operations.network import observe_network_of_target
from mountcr.operations.refusal import refuse
from mountcr.operations.repairs import put_right
from mountcr.operations.restored import compare, is_announced
from mountcr.paths import KPath, decode
from mountcr.planning.choices import RESTORE_ROOT, Choices, new_upper
from mountcr.planning.planner import make_plan, needed_mountpoints
from mountcr.planning.requests import lying, requested_paths
from mountcr.planning.steps import split_preparation
from mountcr.planning.unions import show_unions
from mountcr.planning.whereabouts import Whereabouts
from mountcr.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from mountcr.manifest import Manifest
    from mountcr.model import Host
    from mountcr.planning.records import Plan
    from mountcr.planning.steps import Step
    from mountcr.rootfs.writer import Progress

__all__ = ["RESTORE_SCHEMA", "RestoreResult", "RestoreSeconds", "plan_restore", "restore"]

RESTORE_SCHEMA = "mountcr/restore/1"

_CONTENT_RULES: Final = frozenset({"R8", "R9", "M5", "M7"})
"""Refusals that say that a file is not what it was: a verification that found differences."""


class RestoreSeconds(Record, frozen=True, kw_only=True, omit_defaults=False):
    """How long it took, in seconds."""

    plan: float
    total: float


class RestoreResult(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    The pid of the restored root task on the host, where its root is mounted there, and what in
    its mount table is not as it was; `announced` ones were losses of the plan.
    """

    schema: str = RESTORE_SCHEMA
    pid: int
    root: KPath | None
    differences: tuple[Difference, ...]
    announced: bool
    seconds: RestoreSeconds


class Way(Protocol):
    """
    Who brings the tasks back.

    One that `assembles` restores into the root that mountcr brings back.
    """

    assembles: bool

    def ready(self) -> contextlib.AbstractContextManager[None]:
        """Hold what the restore needs for a block of code."""
        ...

    def restore(self) -> int:
        """Restore, into the root that is assembled, settle, and give the pid of the root task."""
        ...

    def end(self, pid: int) -> None:
        """End what was restored: the root task and all below it."""
        ...


_WAYS: Final[Mapping[str, Callable[[Manifest, Plan, str], Way]]] = {
    "criu": ByCriu,
    "runtime": ByRuntime,
    "engine": ByEngine,
}


def plan_restore(images: KPath, choices: Choices, *, via: str = "criu") -> tuple[Manifest, Plan]:
    """
    Plan a restore from an images directory on this host, `via` as `restore` takes it.

    Raises NotFoundError or DocumentError for what is no images directory, PrivilegeError when
    not root.
    """
    manifest = manifests.read(images)
    if os.geteuid() != 0:
        msg = "looking at a root file system as it will be needs root: it is merged to be looked at"
        raise PrivilegeError(msg, hint="run as root")
    if choices.cgroups is None:
        choices = msgspec.structs.replace(choices, cgroups=manifest.cgroups)
    if choices.tcp is None:
        choices = msgspec.structs.replace(choices, tcp=manifest.tcp)
    choices = msgspec.structs.replace(choices, images=images, dumped=manifest.extra)
    host = observe_host()
    manifest = msgspec.structs.replace(manifest, facts=look_again(manifest.facts, host))
    facts = manifest.facts
    target = _target(manifest, choices, host)
    if via != "engine":
        network = observe_network_of_target(facts, choices, host)
        target = msgspec.structs.replace(target, network=network)
    plan = make_plan(facts, choices, target=target, files=manifest.files)
    return manifest, without_assembly(plan) if via == "engine" else plan


def _target(manifest: Manifest, choices: Choices, host: Host) -> Target:
    """Observe this host as the target of the restore."""
    facts = manifest.facts
    if facts.shares_mounts:
        return Target(host=host)
    graph = MountGraph(facts.namespaces)
    first = make_plan(facts, choices)
    if first.rootfs is None:
        return Target(host=host)
    inside = [
        path for external, path, _ in needed_mountpoints(graph, first.externals) if external is None
    ]
    where = Whereabouts(graph, lying(facts, first.externals), RESTORE_ROOT)
    origin = first.rootfs.origin
    upper = new_upper(choices, facts.container.id, origin)
    return observe_target(
        host,
        origin,
        show_unions(graph, first.externals, origin),
        at=RESTORE_ROOT,
        driver=(choices.driver or origin.driver, upper) if upper else None,
        externals=first.externals,
        mountpoints=inside,
        files=[(file, where.of(file.path)) for file in manifest.files],
        requests=requested_paths(facts, first, choices),
    )


def _check_plan(plan: Plan) -> None:
    """Refuse, or say that files are not what they were, all of them at once."""
    others = [each for each in plan.refusals if each.rule not in _CONTENT_RULES]
    changed = [each for each in plan.refusals if each.rule in _CONTENT_RULES]
    if changed and not others:
        lines = [f"{each.rule} {each.mount}: {each.message}" for each in changed]
        msg = f"{len(lines)} file(s) are not what they were at the dump: {'; '.join(lines)}"
        raise VerificationError(msg, lines, hint=changed[0].cure)
    refuse(plan, "the restore")


def restore(
    images: KPath,
    choices: Choices,
    *,
    stdio: str = "null",
    via: str = "criu",
    progress: Progress | None = None,
) -> RestoreResult:
    """
    Restore what was dumped into `images`, `via` CRIU (`criu`), the container's `runtime` or its
    `engine`.

    `progress` is told what is copied for a root on another driver.

    Raises what `plan_restore` raises, UsageError for a way that is none for this container,
    RefusedError and VerificationError before anything is touched, CapabilityError when CRIU, the
    runtime or the engine does not work here, StepError or CriuError when something failed and was
    undone, and VerificationError when the restored mount table is not the dumped one: then the
    restored tasks are gone. They are gone as well when this is interrupted.
    """
    started = time.monotonic()
    if choices.root_at and not os.path.isdir(decode(choices.root_at)):
        raise UsageError(f"--root {choices.root_at}: no such directory", hint="make it first")
    if via not in _WAYS:
        raise UsageError(f"via {via}: no such way", hint=f"there are {', '.join(_WAYS)}")
    fds: list[int] = []
    with _alone(images, choices), recorded("restore"):
        manifest, plan = plan_restore(images, choices, via=via)
        way = _WAYS[via](manifest, plan, stdio)
        _check_plan(plan)
        put_right(images, plan.rewrites, locked=True)  # unless the dump came to do it
        planned = time.monotonic()
        steps = plan.rootfs.steps if plan.rootfs else ()
        preparation, mounting = split_preparation(steps)
        with way.ready(), applied(preparation, LiveKernel(progress=progress)):
            if way.assembles:
                pid = in_private_namespace(
                    lambda: _assemble_and_restore(mounting, way, fds, choices.root_at),
                    fds=fds,
                    undo=way.end,
                )
            else:
                pid = way.restore()
            found = _settle(manifest, plan, way, pid, fds)
    return RestoreResult(
        pid=pid,
        root=choices.root_at,
        differences=tuple(found),
        announced=all(is_announced(plan, each) for each in found),
        seconds=RestoreSeconds(
            plan=round(planned - started, 4), total=round(time.monotonic() - started, 4)
        ),
    )


@contextlib.contextmanager
def _alone(images: KPath, choices: Choices) -> Generator[None]:
    """
    Keep others from restoring the same images, or into the same writable layer, for a block.

    Raises RefusedError when somebody does, and what reading the manifest raises.
    """
    rootfs = manifests.read(images).rootfs
    own = rootfs is not None and not choices.upper and not choices.driver
    with held(images, rootfs.origin.upper if rootfs and own else None):
        yield


def _settle(manifest: Manifest, plan: Plan, way: Way, pid: int, fds: list[int]) -> list[Difference]:
    """Attach the root where it was asked for, and compare; on failure the tasks are gone."""
    at = plan.choices.root_at
    with contextlib.ExitStack() as undo:
        undo.callback(way.end, pid)
        _attach_root(fds, at)
        if at:
            undo.callback(LiveKernel().unmount, at)
        found = compare(manifest, plan, pid)
        undo.pop_all()
    return found


def _assemble_and_restore(
    steps: Sequence[Step], way: Way, fds: list[int], root_at: KPath | None
) -> int:
    """Do what happens in the private mount namespace; give the pid of the root task."""
    # never removed: rmdir(2) would detach what other restores have mounted on it
    os.makedirs(decode(RESTORE_ROOT), exist_ok=True)
    with applied(steps, LiveKernel()):
        pid = way.restore()
        if root_at:
            fds.append(mounts.clone(RESTORE_ROOT))
        return pid


def _attach_root(fds: list[int], at: KPath | None) -> None:
    """Attach a clone of the root at a directory of the host; closes the descriptors."""
    for fd in fds:
        try:
            if at:
                journal.attaching(fd, at)
                mounts.attach(fd, at)
        finally:
            os.close(fd)
