# SPDX-License-Identifier: Apache-2.0
"""Laws of comparing tables: renaming is no difference, and every other change is one."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Final

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from mountcr.graph.diff import diff, diff_namespaces
from mountcr.model import Mount, MountId
from mountcr.paths import KPath
from strategies import namespaces, tables, tmpfs

RANDOM: Final = st.integers(0, 2**16).map(random.Random)
"""A source of choices; seeded, so that a failing one can be had again."""


def renamed(mounts: list[Mount], chance: random.Random) -> list[Mount]:
    """Give the table with other ids, devices and groups, its lines in another order."""
    (found,) = all_renamed([mounts], chance)
    return found


def all_renamed(tables_: list[list[Mount]], chance: random.Random) -> list[list[Mount]]:
    """Give the tables with other numbers, the same for the same, and their lines reordered."""
    mounts = [mount for table in tables_ for mount in table]
    numbers = list(range(1000, 3000))
    chance.shuffle(numbers)
    ids = {mount.id: MountId(numbers.pop()) for mount in mounts}
    devices = {mount.dev: f"0:{numbers.pop()}" for mount in mounts}
    groups = {
        group: numbers.pop()
        for mount in mounts
        for group in (mount.shared, mount.master, mount.propagate_from)
    }
    namespaces_ = {
        mount.root: KPath(f"{mount.root.partition(':')[0]}:[{numbers.pop()}]")
        for mount in mounts
        if not mount.root.startswith("/")
    }

    def rename(mount: Mount) -> Mount:
        return msgspec.structs.replace(
            mount,
            id=ids[mount.id],
            parent=ids.get(mount.parent, MountId(1)),
            dev=devices[mount.dev],
            root=namespaces_.get(mount.root, mount.root),
            optional=tuple(
                f"{name}:{groups[int(number)]}" if number else name
                for name, _, number in (each.partition(":") for each in mount.optional)
            ),
        )

    return [reordered([rename(mount) for mount in table], chance) for table in tables_]


def reordered(mounts: list[Mount], chance: random.Random) -> list[Mount]:
    """Give the lines in another order, but those of one stack of siblings in theirs."""
    order = list(mounts)
    chance.shuffle(order)
    stacks: dict[tuple[MountId, KPath], list[Mount]] = {}
    for mount in reversed(mounts):
        stacks.setdefault((mount.parent, mount.mountpoint), []).append(mount)
    return [stacks[mount.parent, mount.mountpoint].pop() for mount in order]


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


# --- Several namespaces ---------------------------------------------------------------------------


def replaced(tables_: list[list[Mount]], mount: Mount, **changes: object) -> list[list[Mount]]:
    """Give the tables with one mount changed."""
    other = msgspec.structs.replace(mount, **changes)
    return [[other if each is mount else each for each in table] for table in tables_]


def of_root_device(tables_: list[list[Mount]], mount: Mount) -> bool:
    """Tell whether a mount is on the device of the root, so that less of it is compared."""
    return mount.dev == tables_[0][0].dev


def below(table: list[Mount], top: Mount) -> set[MountId]:
    """Give the ids of a mount and of all that hangs on it."""
    found = {top.id}
    while more := {each.id for each in table if each.parent in found} - found:
        found |= more
    return found


@given(namespaces(), RANDOM)
def test_renaming_over_all_namespaces_is_no_difference(
    before: list[list[Mount]], chance: random.Random
) -> None:
    """Numbers are the kernel's, as long as they are the same in all namespaces."""
    assert diff_namespaces(before, all_renamed(before, chance)) == []


@given(namespaces(), RANDOM)
def test_a_namespace_more_or_less_is_one_difference(
    before: list[list[Mount]], chance: random.Random
) -> None:
    """It is named by its number, and what is in it is not named too."""
    less = before[:-1]
    for was, now in ((before, less), (less, before)):
        (found,) = diff_namespaces(was, all_renamed(now, chance))
        assert (found.what, found.namespace) == ("namespace", len(less))


FIELDS: Final = st.sampled_from(
    [
        {"options": "rw,nodev"},
        {"fstype": "ramfs"},
        {"source": KPath("elsewhere")},
        {"super_options": "ro"},
        {"super_options": "rw,size=4k"},
        {"optional": ("unbindable", "shared:99")},
        {"optional": ("master:98", "shared:99", "propagate_from:2")},
    ]
)


@given(namespaces(), RANDOM, FIELDS, st.data())
def test_a_change_in_any_namespace_is_found(
    before: list[list[Mount]],
    chance: random.Random,
    change: dict[str, object],
    data: st.DataObject,
) -> None:
    """A change of what is compared is found and named with the namespace."""
    number = data.draw(st.integers(0, len(before) - 1))
    mount = data.draw(st.sampled_from(before[number]))
    assume("options" in change or "optional" in change or not of_root_device(before, mount))
    after = all_renamed(replaced(before, mount, **change), chance)
    found = diff_namespaces(before, after)
    assert (mount.mountpoint, number) in {(each.path, each.namespace) for each in found}


@given(namespaces(), RANDOM, st.data())
def test_a_change_of_the_root_is_found(
    before: list[list[Mount]], chance: random.Random, data: st.DataObject
) -> None:
    """Unless a mount is all there is of its superblock, it shows the same part of it."""
    mounts = [mount for table in before for mount in table]
    directories = [each for each in mounts if each.root.startswith("/")]
    devices = Counter(each.dev for each in directories)
    compared = [
        each for each in directories if devices[each.dev] > 1 and not of_root_device(before, each)
    ]
    assume(compared)
    mount = data.draw(st.sampled_from(compared))
    other = KPath("/other" + mount.root)
    after = all_renamed(replaced(before, mount, root=other), chance)
    assert "root" in {each.what for each in diff_namespaces(before, after)}


@given(namespaces(), RANDOM, st.data())
def test_a_root_that_was_deleted_is_found(
    before: list[list[Mount]], chance: random.Random, data: st.DataObject
) -> None:
    """A root that is deleted, and was not, or the other way round."""
    mount = data.draw(st.sampled_from([mount for table in before for mount in table]))
    assume(mount.root.startswith("/") and not mount.deleted)
    after = all_renamed(
        replaced(before, mount, root=KPath(mount.root.rstrip("/") + "//deleted")), chance
    )
    for was, now in ((before, after), (after, before)):
        assert [each.what for each in diff_namespaces(was, now)] == ["deleted"]


@given(namespaces(), RANDOM, st.data())
def test_a_mount_on_another_parent_is_found(
    before: list[list[Mount]], chance: random.Random, data: st.DataObject
) -> None:
    """The same mountpoint on another parent is another place, of all that hangs there too."""
    table = data.draw(st.sampled_from(before))
    assume(len(table) > 1)
    mount = data.draw(st.sampled_from(table[1:]))
    others = [
        each.id for each in table if each.id not in below(table, mount) and each.id != mount.parent
    ]
    assume(others)
    after = replaced(before, mount, parent=data.draw(st.sampled_from(others)))
    assert "mount" in {each.what for each in diff_namespaces(before, all_renamed(after, chance))}


@given(namespaces(), RANDOM, st.data())
def test_a_missing_tree_is_found(
    before: list[list[Mount]], chance: random.Random, data: st.DataObject
) -> None:
    """Of a mount that is gone with all that hung on it, as many are named as are gone."""
    table = data.draw(st.sampled_from(before))
    assume(len(table) > 1)
    gone = below(table, data.draw(st.sampled_from(table[1:])))
    after = all_renamed(
        [[mount for mount in each if mount.id not in gone] for each in before], chance
    )
    for was, now in ((before, after), (after, before)):
        found = diff_namespaces(was, now)
        assert sum(each.what == "mount" for each in found) == len(gone)


@given(namespaces(), RANDOM, st.data())
def test_a_mount_that_left_its_group_is_found(
    before: list[list[Mount]], chance: random.Random, data: st.DataObject
) -> None:
    """Also where those that it was together with are in other namespaces."""
    mounts = [mount for table in before for mount in table]
    kind = data.draw(st.sampled_from(["shared", "master"]))
    members = [mount for mount in mounts if getattr(mount, kind)]
    assume(members)
    mount = data.draw(st.sampled_from(members))
    number = getattr(mount, kind)
    assume(sum((each.shared == number) + (each.master == number) for each in mounts) > 1)
    optional = tuple(f"{kind}:99" if each.startswith(kind) else each for each in mount.optional)
    after = all_renamed(replaced(before, mount, optional=optional), chance)
    for was, now in ((before, after), (after, before)):
        assert "peer group" in {each.what for each in diff_namespaces(was, now)}


@given(namespaces(), RANDOM)
def test_groups_of_namespaces_that_are_cut_off_are_found(
    before: list[list[Mount]], chance: random.Random
) -> None:
    """Each namespace looks the same by itself, but what they shared they do not share any more."""
    used = [
        {group for mount in table for group in (mount.shared, mount.master)} - {0}
        for table in before
    ]
    together = any(one & other for one, other in itertools.combinations(used, 2))
    found = diff_namespaces(before, apart(before, chance))
    assert ("peer group" in {each.what for each in found}) == together


def apart(tables_: list[list[Mount]], chance: random.Random) -> list[list[Mount]]:
    """Give the tables with groups of their own."""
    found = [
        [
            msgspec.structs.replace(
                mount,
                optional=tuple(
                    f"{each}{number}" if ":" in each else each for each in mount.optional
                ),
            )
            for mount in table
        ]
        for number, table in enumerate(tables_)
    ]
    return all_renamed(found, chance)


@given(namespaces(), RANDOM, st.data())
def test_merged_and_split_superblocks_are_found(
    before: list[list[Mount]], chance: random.Random, data: st.DataObject
) -> None:
    """Two superblocks that became one, and one that became two, whichever namespaces show them."""
    mounts = [mount for table in before for mount in table]
    devices = sorted({mount.dev for mount in mounts if not of_root_device(before, mount)})
    assume(len(devices) > 1)
    one, other = data.draw(st.permutations(devices))[:2]
    merged = all_renamed(
        [
            [
                msgspec.structs.replace(mount, dev=one if mount.dev == other else mount.dev)
                for mount in table
            ]
            for table in before
        ],
        chance,
    )
    for was, now in ((before, merged), (merged, before)):
        assert "superblock" in {each.what for each in diff_namespaces(was, now)}


@given(namespaces(), namespaces())
def test_differences_of_namespaces_are_symmetric(
    one: list[list[Mount]], other: list[list[Mount]]
) -> None:
    """What differs from there to here differs from here to there."""
    assert bool(diff_namespaces(one, other)) == bool(diff_namespaces(other, one))
