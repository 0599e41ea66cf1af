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
from mountcr.graph.diff import Difference, diff
from mountcr.graph.tree import MountTree
from mountcr.kernel import mounts
from mountcr.kernel.private import in_namespace_of
from mountcr.observation.tasks import descendants
from mountcr.operations.streams import keep_appending
from mountcr.paths import ROOT

if TYPE_CHECKING:
    from mountcr.manifest import Manifest
    from mountcr.planning.records import Plan

__all__ = ["compare", "end_tasks", "is_announced", "settle"]

_ANNOUNCED: Final = frozenset({("F1", "host peers"), ("F2", "master"), ("F3", "master")})
"""Which loss of a plan says which difference."""


def settle(manifest: Manifest, plan: Plan, pid: int) -> None:
    """
    Complete and compare a restored root task.

    Raises VerificationError when its mounts differ in a way that no loss of the plan announced.
    """
    _protect_root(manifest, pid)
    keep_appending(pid, plan.inherited)
    found = [each for each in compare(manifest, pid, peers=False) if not is_announced(plan, each)]
    if found:
        lines = [str(each) for each in found]
        msg = f"the restored mount table differs in {len(lines)} place(s): {'; '.join(lines)}"
        hint = "the restored tasks were killed; the images are as they were"
        raise VerificationError(msg, lines, hint=hint)


def _protect_root(manifest: Manifest, pid: int) -> None:
    """Make the root read-only if it was; the plan leaves that to the end, for CRIU's sake."""
    if manifest.facts.shares_mounts:
        return
    root = MountTree(manifest.facts.namespaces[0].mounts).root
    if root is not None and root.readonly:
        in_namespace_of(pid, lambda: mounts.set_attributes(ROOT, ("ro",)))


def compare(manifest: Manifest, pid: int, *, peers: bool = True) -> list[Difference]:
    """
    Compare the mount table of a restored root task with the one of the dump.

    With `peers`, also which groups have members in the mount namespace of the caller.
    """
    facts = manifest.facts
    if facts.shares_mounts:
        return []
    return diff(
        facts.namespaces[0].mounts,
        mountinfo.read(pid),
        outside_before=facts.host.mounts if peers else (),
        outside_after=mountinfo.read() if peers else (),
    )


def is_announced(plan: Plan, difference: Difference) -> bool:
    """Tell whether a loss of the plan says so."""
    return any(
        loss.mount == difference.path and (loss.rule, difference.what) in _ANNOUNCED
        for loss in plan.losses
    )


def end_tasks(pid: int) -> None:
    """Kill what was restored: the root task and all below it."""
    for each in descendants(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
