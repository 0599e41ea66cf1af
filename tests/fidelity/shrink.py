# SPDX-License-Identifier: Apache-2.0
"""Making a recipe that fails smaller while it fails alike: by leaving out, then by simplifying."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from fidelity.recipe import Directory, File, Layer, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fidelity.judge import Verdict
    from fidelity.recipe import Operation

__all__ = ["shrink"]

_T = TypeVar("_T")


def shrink(
    recipe: Recipe, verdict: Verdict, run: Callable[[Recipe], list[Verdict]]
) -> tuple[Recipe, Verdict]:
    """Give the smallest recipe that was found with a failure of the same kind, and its verdict."""
    going = True
    while going:
        going = False
        for smaller in _smaller(recipe):
            alike = [each for each in run(smaller) if each.kind == verdict.kind]
            if alike:
                recipe, verdict, going = smaller, alike[0], True
                break
    return recipe, verdict


def _smaller(recipe: Recipe) -> Iterator[Recipe]:
    """Give recipes that are one step simpler, the largest steps first."""
    for changes in _less(recipe.changes):
        yield replace(recipe, changes=changes)
    for layers in _less(recipe.layers):
        yield replace(recipe, layers=layers)
    for number, layer in enumerate(recipe.layers):
        for operations in _less(layer.operations):
            yield _with_layer(recipe, number, replace(layer, operations=operations))
        if layer.merged:
            yield _with_layer(recipe, number, replace(layer, merged=False))
    for number, operation in enumerate(recipe.changes):
        for simpler in _simpler(operation):
            yield replace(recipe, changes=_with(recipe.changes, number, simpler))
    for number, layer in enumerate(recipe.layers):
        for at, operation in enumerate(layer.operations):
            for simpler in _simpler(operation):
                operations = _with(layer.operations, at, simpler)
                yield _with_layer(recipe, number, replace(layer, operations=operations))


def _less(all_of_it: tuple[_T, ...]) -> Iterator[tuple[_T, ...]]:
    """Leave out runs, the longest first."""
    size = len(all_of_it)
    while size:
        for start in range(0, len(all_of_it), size):
            yield all_of_it[:start] + all_of_it[start + size :]
        size //= 2


def _with(operations: tuple[Operation, ...], at: int, other: Operation) -> tuple[Operation, ...]:
    return (*operations[:at], other, *operations[at + 1 :])


def _with_layer(recipe: Recipe, at: int, layer: Layer) -> Recipe:
    return replace(recipe, layers=(*recipe.layers[:at], layer, *recipe.layers[at + 1 :]))


def _simpler(operation: Operation) -> Iterator[Operation]:
    if isinstance(operation, File) and operation.size:
        yield replace(operation, size=0, data=())
    if isinstance(operation, File) and operation.mode != 0o644:
        yield replace(operation, mode=0o644)
    if isinstance(operation, Directory) and operation.mode != 0o755:
        yield replace(operation, mode=0o755)
