# SPDX-License-Identifier: Apache-2.0
"""
CRIU is the judge: predictions about containers that nobody wrote by hand.

`python -m oracle` (tox environment `oracle`) judges more of them and says which rules it saw.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from oracle import container as real
from oracle.generator import generate
from oracle.ground import Ground, Place
from oracle.judge import Failure, Outcome, judge
from oracle.recipe import KINDS, Nested, Operation, Propagate, Recipe, show
from oracle.shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mountcr.model import Mount

pytestmark = [pytest.mark.e2e, pytest.mark.requires("criu", "overlay", "busybox")]

BATCH = 6
SEEDS = range(0, 60, BATCH)


@pytest.fixture(name="ground", scope="module")
def _ground(require: Callable[[str], str]) -> Iterator[Ground]:
    with Ground(require("busybox")) as ground:
        yield ground


@pytest.mark.parametrize("first", SEEDS)
def test_every_prediction_is_right(ground: Ground, first: int) -> None:
    """CRIU refuses, loses and restores what the plan says, and nothing else."""
    wrong: list[str] = []
    for seed in range(first, first + BATCH):
        recipe = generate(seed)
        failures = judge(recipe, ground).failures
        if failures:
            wrong.append("\n".join([show(recipe), *map(str, failures)]))
    assert not wrong, "\n\n".join(wrong)


def test_shrinking_keeps_what_fails() -> None:
    """A recipe is shrunk to what its failure needs, and fails as before."""
    recipe = next(each for each in map(generate, range(1000)) if culprits(each))

    def run(smaller: Recipe) -> Outcome:
        failures = [Failure("unbindable")] if culprits(smaller) else []
        return Outcome(smaller.seed, failures=failures)

    smallest, outcome = shrink(recipe, run(recipe), run)
    assert [str(each) for each in outcome.failures] == ["unbindable"]
    assert len(smallest.operations) == 1
    assert smallest.operations[0] in culprits(recipe)


def culprits(recipe: Recipe) -> list[Operation]:
    """Give the operations that are at fault in the test above."""
    return [
        each
        for each in recipe.operations
        if isinstance(each, Propagate) and each.propagation == "unbindable" and not each.recursive
    ]


# --- The generator --------------------------------------------------------------------------------


def flat(recipe: Recipe) -> list[Operation]:
    """Give the operations of a recipe in the order in which their fates are reported."""
    found: list[Operation] = []
    for each in recipe.operations:
        found.append(each)
        if isinstance(each, Nested):
            found += each.operations
    return found


def test_a_seed_is_a_container() -> None:
    """A seed means the same container at any time, and another seed another one."""
    assert [generate(seed) for seed in range(50)] == [generate(seed) for seed in range(50)]
    assert len({show(generate(seed)).partition(":")[2] for seed in range(50)}) == 50


def test_every_kind_of_operation_works(ground: Ground) -> None:
    """Each kind of operation occurs, and the kernel does it, in each of its forms."""
    done: Counter[str] = Counter()
    tables: list[Mount] = []
    nested = 0
    for seed in range(200):
        recipe = generate(seed)
        place = Place(ground, f"k{seed}")
        try:
            place.prepare(recipe)
            container = real.start(recipe, place)
            operations = flat(recipe)
            assert len(container.fates) == len(operations), show(recipe)
            for operation, fate in zip(operations, container.fates, strict=True):
                done.update(forms(operation) if fate == "ok" else ())
            found = real.tables(container.pid)
            real.end(container.pid)
        finally:
            place.close()
        nested += len(found) > 1
        tables += [mount for table in found.values() for mount in table]
    assert not {kind.__name__ for kind in KINDS} - done.keys()
    assert not WANTED - done.keys(), done
    assert nested
    wanted = FSTYPES if ground.loop_device() else FSTYPES - {"ext4"}
    assert not wanted - {mount.fstype for mount in tables}
    assert any(mount.shared and mount.master for mount in tables)
    assert any(mount.master and not mount.shared for mount in tables)
    assert any(mount.unbindable for mount in tables)
    assert any(mount.deleted for mount in tables)
    assert any(mount.readonly for mount in tables)


WANTED = {
    *(f"Pseudo {each}" for each in ("proc", "sysfs", "devpts", "mqueue", "cgroup2")),
    *(f"BindOutside {each}" for each in ("directory", "file", "private", "shared", "tmpfs")),
    *(f"BindOutside {each}" for each in ("shared-tmpfs", "in-tmpfs", "tree", "ramfs", "ext4")),
    *(f"Overlay {each}" for each in ("root", "tmpfs", "host")),
    *(f"Propagate {each}" for each in ("private", "shared", "slave", "unbindable")),
    *(f"Nested {each}" for each in ("private", "slave", "kept")),
}
"""Forms of operations that have to occur too."""

FSTYPES = {"overlay", "ext4", "tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup2", "ramfs"}


def forms(operation: Operation) -> list[str]:
    """Give the kind of an operation, and with its most telling choice."""
    kind = type(operation).__name__
    choices = ("fstype", "layers", "source", "propagation")
    telling = [str(getattr(operation, name)) for name in choices if hasattr(operation, name)]
    return [kind, *(f"{kind} {each}" for each in telling)]
