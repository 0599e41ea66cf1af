# SPDX-License-Identifier: Apache-2.0
"""Plans and ways that are refused: what is raised then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.errors import RefusedError

if TYPE_CHECKING:
    from mountcr.manifest import Manifest
    from mountcr.planning.records import Plan

__all__ = ["refuse", "refuse_imported"]


def refuse(plan: Plan, what: str) -> None:
    """Raise RefusedError when a plan is refused, naming all reasons."""
    if not plan.refusals:
        return
    lines = [f"{each.rule} {each.mount}: {each.message}" for each in plan.refusals]
    msg = f"{what} is refused: {'; '.join(lines)}"
    raise RefusedError(msg, plan.refusals, hint=plan.refusals[0].cure)


def refuse_imported(manifest: Manifest, way: str) -> None:
    """
    Raise RefusedError for what came in a bundle.

    Where a runtime or an engine would look for the container, the bundle would have said.
    """
    if manifest.facts.imported is not None:
        msg = f"no {way} of this host knows a container that came in a bundle (rule: ways)"
        raise RefusedError(msg, hint=f"restore it without --via {way}")
