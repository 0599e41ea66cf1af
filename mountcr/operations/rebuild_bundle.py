# SPDX-License-Identifier: Apache-2.0
"""Rebuild the root file system of a bundle: import it, mount it; undone if one of them fails."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from mountcr import paths
from mountcr.operations.importing import import_bundle, plan_bundle
from mountcr.operations.inspected import INSPECTED, mark_inspected
from mountcr.operations.leftovers import recorded
from mountcr.operations.rebuild import plan_rebuild, rebuild
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from mountcr.engines import Roots
    from mountcr.model import Facts
    from mountcr.operations.importing import Check, ImportChoices, ImportResult
    from mountcr.operations.rebuild import RebuildResult
    from mountcr.paths import KPath
    from mountcr.planning.choices import Choices
    from mountcr.planning.steps import Step
    from mountcr.rootfs.batches import Progress

__all__ = ["plan_rebuild_bundle", "rebuild_bundle"]


def plan_rebuild_bundle(
    path: str,
    wanted: ImportChoices,
    choices: Choices,
    at: KPath,
    *,
    roots: Roots | None = None,
    check: Check = lambda _reader: None,
) -> tuple[str, tuple[Step, ...]]:
    """Give driver and steps of `rebuild_bundle`. Raises as that does; nothing is changed."""
    wanted = _wanted(wanted, choices)
    plan = plan_bundle(path, wanted, choices, roots=roots, check=check, at=at)
    return (plan.rootfs.driver, plan.rootfs.steps) if plan.rootfs else ("", ())


def rebuild_bundle(
    path: str,
    wanted: ImportChoices,
    choices: Choices,
    at: KPath,
    *,
    roots: Roots | None = None,
    check: Check = lambda _reader: None,
    report: Callable[[Step], None] | None = None,
    progress: Progress | None = None,
) -> tuple[ImportResult, RebuildResult]:
    """
    Import a bundle and mount its root file system at a directory of the host.

    Read-only, only that is unpacked, it is mounted so that no mark, no setuid and no device in it
    has an effect, and `unmount` removes it. Else the container is imported whole, and stays.
    Raises what `import_bundle` and `rebuild` do; nothing of it is left then.
    """
    facts: list[Facts] = []
    wanted = _wanted(wanted, choices)
    with recorded("rebuild"):
        imported = import_bundle(
            path, wanted, roots=roots, check=check, ready=facts.append, progress=progress
        )
        rootfs = plan_rebuild(make_plan(facts[0], choices), at)
        if wanted.root_only:
            mark_inspected(imported.at, at)
        return imported, rebuild(rootfs, at, report=report, progress=progress)


def _wanted(wanted: ImportChoices, choices: Choices) -> ImportChoices:
    if not choices.readonly or wanted.at is not None:
        return wanted
    at = paths.join(INSPECTED, os.urandom(8).hex())
    return msgspec.structs.replace(wanted, at=at, root_only=True)
