# SPDX-License-Identifier: Apache-2.0
"""
Restore: look at the target, plan, assemble the root in a private mount namespace, CRIU, compare.

The host's mount table does not change, whatever happens and whenever this process is killed,
unless the root is asked for on the host too; then it is attached there as the last thing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import manifest as manifests
from mountcr import mountinfo
from mountcr.criu import binary
from mountcr.criu.images import find_damage
from mountcr.criu.session import Notification, Session
from mountcr.errors import CriuError, PrivilegeError, UsageError, VerificationError
from mountcr.execute import applied
from mountcr.graph import MountGraph
from mountcr.graph.diff import Difference, diff
from mountcr.graph.tree import MountTree
from mountcr.interrupts import hold_back
from mountcr.kernel import mounts
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.private import in_namespace_of, in_private_namespace
from mountcr.model import Record, Target
from mountcr.observation import observe_host
from mountcr.observation.target import observe_target
from mountcr.observation.tasks import descendants
from mountcr.operations.locks import held
from mountcr.operations.refusal import refuse
from mountcr.operations.streams import keep_appending, opened
from mountcr.paths import ROOT, KPath, decode
from mountcr.planning.choices import RESTORE_ROOT, Choices
from mountcr.planning.planner import make_plan, needed_mountpoints
from mountcr.planning.rootfs import find_stack, plan_rootfs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from mountcr.manifest import Manifest
    from mountcr.planning.records import Plan

__all__ = [
    "RESTORE_SCHEMA",
    "RestoreResult",
    "RestoreSeconds",
    "alone",
    "attach_root",
    "check_plan",
    "compare",
    "end_tasks",
    "is_announced",
    "plan_restore",
    "protect_root",
    "restore",
]

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


def plan_restore(images: KPath, choices: Choices) -> tuple[Manifest, Plan]:
    """
    Plan a restore from an images directory on this host.

    Raises NotFoundError or DocumentError for what is no images directory, PrivilegeError when
    not root.
    """
    manifest = manifests.read(images)
    if os.geteuid() != 0:
        msg = "looking at a root file system as it will be needs root: it is merged to be looked at"
        raise PrivilegeError(msg, hint="run as root")
    if choices.cgroups is None:
        choices = msgspec.structs.replace(choices, cgroups=manifest.cgroups)
    choices = msgspec.structs.replace(choices, images=images)
    facts = manifest.facts
    target = _target(manifest, choices)
    return manifest, make_plan(facts, choices, target=target, files=manifest.files)


def _target(manifest: Manifest, choices: Choices) -> Target:
    """Observe this host as the target of the restore."""
    facts = manifest.facts
    host = observe_host()
    if facts.shares_mounts:
        return Target(host=host)
    tree = MountTree(host.mounts)
    graph = MountGraph(facts.namespaces)
    first = make_plan(facts, choices)
    stack = find_stack(facts.container, graph.root, MountTree(facts.host.mounts))
    if stack is None:
        return Target(host=host)
    view = plan_rootfs(
        stack, RESTORE_ROOT, tree, Choices(readonly=True), container=facts.container.id, root=None
    )
    inside = [
        path for external, path, _ in needed_mountpoints(graph, first.externals) if external is None
    ]
    return observe_target(
        host,
        stack,
        view.steps,
        at=RESTORE_ROOT,
        externals=first.externals,
        mountpoints=inside,
        files=manifest.files,
    )


def check_plan(plan: Plan) -> None:
    """Refuse, or say that files are not what they were, all of them at once."""
    others = [each for each in plan.refusals if each.rule not in _CONTENT_RULES]
    changed = [each for each in plan.refusals if each.rule in _CONTENT_RULES]
    if changed and not others:
        lines = [f"{each.rule} {each.mount}: {each.message}" for each in changed]
        msg = f"{len(lines)} file(s) are not what they were at the dump: {'; '.join(lines)}"
        raise VerificationError(msg, lines, hint=changed[0].cure)
    refuse(plan, "the restore")


def is_announced(plan: Plan, difference: Difference) -> bool:
    """Tell whether a loss of the plan says so."""
    for loss in plan.losses:
        if loss.mount == difference.path and (loss.rule, difference.what) in {
            ("F1", "host peers"),
            ("F2", "master"),
            ("F3", "master"),
        }:
            return True
    return False


def compare(manifest: Manifest, pid: int, *, again: bool = True) -> list[Difference]:
    """Compare the mount table of the restored root task with the one of the dump."""
    if manifest.facts.shares_mounts:
        return []
    return diff(
        manifest.facts.namespaces[0].mounts,
        mountinfo.read(pid),
        outside_before=manifest.facts.host.mounts,
        outside_after=mountinfo.read() if again else (),
    )


def restore(
    images: KPath,
    choices: Choices,
    *,
    stdio: str = "null",
    report: Callable[[str], None] | None = None,
) -> RestoreResult:
    """
    Restore what was dumped into `images`.

    Raises what `plan_restore` raises, RefusedError and VerificationError before anything is
    touched, CapabilityError when CRIU does not work here, StepError or CriuError when something
    failed and was undone, and VerificationError when the restored mount table is not the dumped
    one: then the restored tasks are gone. They are gone as well when this is interrupted.
    """
    started = time.monotonic()
    if choices.root_at and not os.path.isdir(decode(choices.root_at)):
        raise UsageError(f"--root {choices.root_at}: no such directory", hint="make it first")
    fds: list[int] = []
    with alone(images, choices):
        manifest, plan = plan_restore(images, choices)
        check_plan(plan)
        criu = binary.require()
        planned = time.monotonic()
        work = _Restore(manifest, plan, choices, criu.command, report)
        with _diagnosed(images), binary.blamed(), opened(plan.inherited, stdio) as inherit:
            pid = in_private_namespace(lambda: work.run(inherit, fds), fds=fds, undo=end_tasks)
    with contextlib.ExitStack() as undo:
        undo.callback(end_tasks, pid)
        attach_root(fds, choices.root_at)
        if choices.root_at:
            undo.callback(LiveKernel().unmount, choices.root_at)
        found = compare(manifest, pid)
        undo.pop_all()
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
def alone(images: KPath, choices: Choices) -> Generator[None]:
    """
    Keep others from restoring the same images, or into the same writable layer, for a block.

    Raises RefusedError when somebody does, and what reading the manifest raises.
    """
    rootfs = manifests.read(images).rootfs
    own = rootfs is not None and not choices.upper and not choices.driver
    with held(images, rootfs.origin.upper if rootfs and own else None):
        yield


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


def end_tasks(pid: int) -> None:
    """Kill what was restored: the root task and all below it."""
    for each in descendants(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def attach_root(fds: list[int], at: KPath | None) -> None:
    """Attach a clone of the root at a directory of the host; closes the descriptors."""
    for fd in fds:
        try:
            if at:
                mounts.attach(fd, at)
        finally:
            os.close(fd)


def protect_root(manifest: Manifest, pid: int) -> None:
    """Make the root of a restored task read-only if it was; the plan leaves that to the end."""
    root = MountTree(manifest.facts.namespaces[0].mounts).root
    if root is not None and root.readonly:
        in_namespace_of(pid, lambda: mounts.set_attributes(ROOT, ("ro",)))


class _Restore:
    """The part of a restore that runs in the private mount namespace."""

    def __init__(
        self,
        manifest: Manifest,
        plan: Plan,
        choices: Choices,
        command: tuple[str, ...],
        report: Callable[[str], None] | None,
    ) -> None:
        self.manifest = manifest
        self.plan = plan
        self.choices = choices
        self.command = command
        self.report = report

    def run(self, inherit: dict[int, int], fds: list[int]) -> int:
        """Assemble the root, have CRIU restore into it, compare; give the root task's pid."""
        # never removed: rmdir(2) would detach what other restores have mounted on it
        os.makedirs(decode(RESTORE_ROOT), exist_ok=True)
        steps = self.plan.rootfs.steps if self.plan.rootfs else ()
        with applied(steps, LiveKernel()), Session(self.command) as session:
            pid = session.restore(
                self.plan.criu.restore_options, {"post-restore": self._finish}, inherit
            )
            if self.choices.root_at:
                fds.append(mounts.clone(RESTORE_ROOT))
            return pid

    def _finish(self, stage: Notification) -> None:
        """Complete and compare the mounts while CRIU can still undo everything."""
        protect_root(self.manifest, stage.pid)
        keep_appending(stage.pid, self.plan.inherited)
        found = [
            each
            for each in compare(self.manifest, stage.pid, again=False)
            if not is_announced(self.plan, each) and each.what != "host peers"
        ]
        if found:
            lines = [str(each) for each in found]
            msg = f"the restored mount table differs in {len(lines)} place(s): {lines[0]}"
            raise VerificationError(
                msg, lines, hint="the restored tasks were killed; the images are as they were"
            )
        hold_back()  # from here on CRIU completes what it does; the caller undoes it if it must
