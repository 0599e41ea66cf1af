# SPDX-License-Identifier: Apache-2.0
"""Making a recipe that fails smaller while it fails alike: by leaving out, then by simplifying."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from oracle.recipe import Nested, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oracle.judge import Outcome
    from oracle.recipe import Operation

__all__ = ["shrink"]


def shrink(
    recipe: Recipe, outcome: Outcome, run: Callable[[Recipe], Outcome]
) -> tuple[Recipe, Outcome]:
    """Give the smallest recipe that was found, with the first kind of failure, and its outcome."""
    kind = outcome.failures[0].kind
    going = True
    while going:
        going = False
        for smaller in _smaller(recipe):
            found = run(smaller)
            if any(each.kind == kind for each in found.failures):
                recipe, outcome, going = smaller, found, True
                break
    return recipe, outcome


def _smaller(recipe: Recipe) -> Iterator[Recipe]:
    """Give recipes that are one step simpler, the largest steps first."""
    operations = recipe.operations
    size = len(operations) // 2
    while size:
        for start in range(0, len(operations), size):
            yield replace(recipe, operations=operations[:start] + operations[start + size :])
        size //= 2
    if recipe.propagation != "private":
        yield replace(recipe, propagation="private")
    if recipe.lowers > 1:
        yield replace(recipe, lowers=1)
    for number, operation in enumerate(operations):
        for simpler in _simpler(operation):
            yield replace(
                recipe, operations=(*operations[:number], simpler, *operations[number + 1 :])
            )


def _simpler(operation: Operation) -> Iterator[Operation]:
    if isinstance(operation, Nested):
        for number in range(len(operation.operations)):
            less = operation.operations[:number] + operation.operations[number + 1 :]
            yield replace(operation, operations=less)
        if operation.propagation != "private":
            yield replace(operation, propagation="private")
        return
    assert is_dataclass(operation)
    plain: dict[str, object] = {"attributes": (), "recursive": False, "files": 0, "options": b""}
    for each in fields(operation):
        if each.name in plain and getattr(operation, each.name) != plain[each.name]:
            yield cast(
                "Operation", replace(cast("Any", operation), **{each.name: plain[each.name]})
            )
