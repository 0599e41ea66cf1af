# SPDX-License-Identifier: Apache-2.0
"""
A restored root task: completing what CRIU leaves open, comparing its mounts, ending it.

Whoever restored, this is what makes the result one, and it is done while all can be undone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final

from mountcr import mountinfo
from mountcr.errors import VerificationError
from mountcr.graph.diff import Difference, diff_namespaces, match
from mountcr.graph.rebound import without_sources, without_times
from mountcr.graph.tree import MountTree
from mountcr.kernel import mounts
from mountcr.kernel.private import in_namespace_of
from mountcr.observation.tasks import descendants
from mountcr.operations.nested import find_namespaces
from mountcr.operations.streams import keep_appending

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mountcr.manifest import Manifest
    from mountcr.paths import KPath
    from mountcr.planning.records import Plan

__all__ = ["ANNOUNCED", "compare", "end_tasks", "is_announced", "settle"]

ANNOUNCED: Final[Mapping[str, frozenset[str]]] = {
    "F1": frozenset({"host peers", "master"}),
    "F2": frozenset({"master"}),
    "F4": frozenset({"options", "super options"}),
    "F7": frozenset({"unbindable"}),
    "F8": frozenset({"source"}),
    "F9": frozenset({"master"}),
    "F11": frozenset({"mount"}),
}
"""Which differences the loss of a plan announces at its mountpoint, by rule."""

_RESTRICTIONS: Final = frozenset({"ro", "nosuid", "nodev", "noexec"})
"""Attributes of a mount that take something away."""


def settle(manifest: Manifest, plan: Plan, pid: int) -> None:
    """
    Complete and compare a restored root task.

    Raises VerificationError when its mounts differ in a way that no loss of the plan announced.
    """
    _protect(manifest, pid)
    _restrict(manifest, pid)
    keep_appending(pid, plan.inherited)
    differences = compare(manifest, plan, pid, settled=False)
    found = [each for each in differences if not is_announced(plan, each)]
    if found:
        lines = [str(each) for each in found]
        msg = f"the restored mount table differs in {len(lines)} place(s): {'; '.join(lines)}"
        hint = "the restored tasks were killed; the images are as they were"
        raise VerificationError(msg, lines, hint=hint)


def _protect(manifest: Manifest, pid: int) -> None:
    """
    Make the root, and what was bound from it, read-only where it was.

    The plan leaves that of the root to the end, and CRIU gives a bind the attributes of the mount
    it binds only where the images say that they differ (criu/mount-v2.c, `do_bind_mount_v2()`).
    """
    facts = manifest.facts
    root = None if facts.shares_mounts else MountTree(facts.namespaces[0].mounts).root
    if root is None or not root.readonly:
        return
    found, _ = find_namespaces(facts, pid)
    for before, after in zip(facts.namespaces, found, strict=True):
        tree = MountTree(after.mounts)
        places = [
            now.mountpoint
            for was, now in match(before.mounts, after.mounts)
            if was.dev == root.dev and was.readonly and not now.readonly and not tree.hidden(now)
        ]
        if places:
            _set_attributes(after.pid, [(place, ("ro",)) for place in places])


def _restrict(manifest: Manifest, pid: int) -> None:
    """
    Give external mounts the restrictions that the images of another tool say they had.

    Of several that have one key CRIU changes the attributes of the first, and binds the others from
    the source with its attributes (criu/mount-v2.c, `do_bind_mount_v2()`): runc and crun call all
    files that they mask `/dev/null`.
    """
    facts = manifest.facts
    if not facts.of_images or facts.shares_mounts:
        return
    found, _ = find_namespaces(facts, pid)
    tree = MountTree(found[0].mounts)
    missing = [
        (now.mountpoint, tuple(sorted(lacking)))
        for was, now in match(facts.namespaces[0].mounts, found[0].mounts)
        if was.external is not None and not tree.hidden(now)
        if (lacking := _RESTRICTIONS & {*was.options.split(",")} - {*now.options.split(",")})
    ]
    if missing:
        _set_attributes(found[0].pid, missing)


def _set_attributes(pid: int, places: Sequence[tuple[KPath, tuple[str, ...]]]) -> None:
    """Set attributes of mounts that a task sees at some paths, by its own root."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def work() -> None:
        os.fchdir(root)
        os.chroot(".")
        for place, attributes in places:
            mounts.set_attributes(place, attributes)

    try:
        in_namespace_of(pid, work)
    finally:
        os.close(root)


def compare(manifest: Manifest, plan: Plan, pid: int, *, settled: bool = True) -> list[Difference]:
    """
    Compare the mount namespaces below a restored root task with those of the dump.

    A nested namespace is that of the task with the pid that one of its tasks had, as the container
    counts pids. Before all is `settled` a namespace that is missing or was not there is a
    difference; afterwards the tasks go on, which may end a namespace or make one. Only afterwards
    it is also compared which groups have members in the mount namespace of the caller. That an
    external has another file system is no difference if the plan takes it from elsewhere.
    """
    facts = manifest.facts
    if facts.shares_mounts:
        return []
    found, others = find_namespaces(facts, pid)
    before = [each.mounts for each in facts.namespaces]
    after = [each.mounts for each in found]
    if settled:
        # empty on both sides, a namespace that has ended keeps the others in their places
        before = [was if now else () for was, now in zip(before, after, strict=True)]
    else:
        after += [each.mounts for each in others]
    elsewhere = _elsewhere(manifest, plan)
    if facts.of_images:  # which do not tell what file systems externals are of
        elsewhere |= {each.mountpoint for each in plan.externals}
        before, after = without_times(before, after, elsewhere)
    before, after = without_sources(before, after, elsewhere)
    return diff_namespaces(
        before,
        after,
        outside_before=facts.host.mounts if settled else (),
        outside_after=mountinfo.read() if settled else (),
    )


def _elsewhere(manifest: Manifest, plan: Plan) -> frozenset[KPath]:
    """
    Give the mountpoints of externals that come from elsewhere, or are assembled there.

    On another host than that of the dump all of them do.
    """
    moved = manifest.facts.imported is not None
    others = (each.mountpoint for each in plan.externals if moved or each.stack)
    return frozenset((*plan.choices.binds, *others))


def is_announced(plan: Plan, difference: Difference) -> bool:
    """Tell whether a loss of the plan says so."""
    return any(
        loss.mount == difference.path and difference.what in ANNOUNCED.get(loss.rule, ())
        for loss in plan.losses
    )


def end_tasks(pid: int) -> None:
    """Kill what was restored: the root task and all below it."""
    for each in descendants(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
