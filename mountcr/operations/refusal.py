# SPDX-License-Identifier: Apache-2.0
"""What happens to a plan that is refused: nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.errors import RefusedError

if TYPE_CHECKING:
    from mountcr.planning.records import Plan

__all__ = ["refuse"]


def refuse(plan: Plan, what: str) -> None:
    """Raise RefusedError when a plan is refused, naming all reasons."""
    if not plan.refusals:
        return
    lines = [f"{each.rule} {each.mount}: {each.message}" for each in plan.refusals]
    msg = f"{what} is refused: {'; '.join(lines)}"
    raise RefusedError(msg, plan.refusals, hint=plan.refusals[0].cure)
