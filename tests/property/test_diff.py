# SPDX-License-Identifier: Apache-2.0
"""Laws of comparing tables: renaming is no difference, and every other change is one."""

from __future__ import annotations

import random
from typing import Final

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from mountcr.graph.diff import diff
from mountcr.model import Mount, MountId
from mountcr.paths import KPath
from strategies import tables, tmpfs

RANDOM: Final = st.integers(0, 2**16).map(random.Random)
"""A source of choices; seeded, so that a failing one can be had again."""


def renamed(mounts: list[Mount], chance: random.Random) -> list[Mount]:
    """Give the table with other ids, devices and groups, its lines in any order."""
    numbers = list(range(100, 1000))
    chance.shuffle(numbers)
    ids = {mount.id: MountId(numbers.pop()) for mount in mounts}
    devices = {mount.dev: f"0:{numbers.pop()}" for mount in mounts}
    groups = {group: numbers.pop() for mount in mounts for group in (mount.shared, mount.master)}
    found = [
        msgspec.structs.replace(
            mount,
            id=ids[mount.id],
            parent=ids.get(mount.parent, MountId(1)),
            dev=devices[mount.dev],
            optional=tuple(
                f"{name}:{groups[int(number)]}" if number else name
                for name, _, number in (each.partition(":") for each in mount.optional)
            ),
        )
        for mount in mounts
    ]
    chance.shuffle(found)
    return found


@given(tables(), RANDOM)
def test_renaming_is_no_difference(mounts: list[Mount], chance: random.Random) -> None:
    """Ids, devices, groups and the order of lines are the kernel's to choose."""
    assert diff(mounts, renamed(mounts, chance)) == []


@given(tables(), RANDOM)
def test_another_place_of_the_root_is_no_difference(
    mounts: list[Mount], chance: random.Random
) -> None:
    """The root's directory may be called otherwise, and lie on another device."""
    root = mounts[0]
    moved = [
        msgspec.structs.replace(mount, dev="7:7", root=KPath("/else" + mount.root))
        if mount.dev == root.dev
        else mount
        for mount in mounts
    ]
    assert diff(mounts, renamed(moved, chance)) == []


CHANGES: Final = st.sampled_from(
    [
        {"options": "ro"},
        {"optional": ("unbindable",)},
        {"optional": ()},
        {"optional": ("shared:77",)},
        {"optional": ("master:77",)},
        {"optional": ("master:77", "shared:78")},
    ]
)


@given(tables(), RANDOM, CHANGES)
def test_a_change_of_one_mount_is_found(
    mounts: list[Mount], chance: random.Random, change: dict[str, object]
) -> None:
    """Options and propagation of a single mount, whichever it is."""
    number = chance.randrange(len(mounts))
    other = list(mounts)
    other[number] = msgspec.structs.replace(mounts[number], **change)
    was, now = mounts[number], other[number]
    groups = [each.shared for each in mounts] + [each.master for each in mounts]
    shape = (bool(was.shared), bool(was.master), was.unbindable, was.options) == (
        bool(now.shared), bool(now.master), now.unbindable, now.options,
    )  # fmt: skip
    alone = all(groups.count(group) == 1 for group in (was.shared, was.master) if group)
    # a group of one under another number, the same as a renamed one, is no change
    assume(not (shape and alone))
    found = diff(mounts, renamed(other, chance))
    assert found != []


@given(tables(), RANDOM)
def test_a_missing_and_an_extra_mount_are_found(mounts: list[Mount], chance: random.Random) -> None:
    """A mount that nothing lies on, taken away or added, is named."""
    extra = tmpfs(500, mounts[0].id, KPath("/extra"), dev="9:9")
    (added,) = diff(mounts, renamed([*mounts, extra], chance))
    (missing,) = diff(renamed([*mounts, extra], chance), mounts)
    assert (added.path, added.before) == ("/extra", "")
    assert (missing.path, missing.after) == ("/extra", "")


@given(tables(), RANDOM)
def test_merged_groups_are_found(mounts: list[Mount], chance: random.Random) -> None:
    """Two peer groups that became one, and one that became two, are differences."""
    merged = [
        msgspec.structs.replace(
            mount,
            optional=tuple(each.replace("shared:2", "shared:1") for each in mount.optional),
        )
        for mount in mounts
    ]
    assume({1, 2} <= {mount.shared for mount in mounts})
    for before, after in ((mounts, merged), (merged, mounts)):
        found = diff(before, renamed(after, chance))
        assert "peer group" in {each.what for each in found}


@given(tables(), tables())
def test_differences_are_symmetric(one: list[Mount], other: list[Mount]) -> None:
    """What differs from there to here differs from here to there."""
    assert bool(diff(one, other)) == bool(diff(other, one))
