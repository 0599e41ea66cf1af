# SPDX-License-Identifier: Apache-2.0
"""A tree says which mount a path lies on, and which path leads to what a mount shows."""

from __future__ import annotations

import pytest

import builders
from mountcr.graph.tree import MountTree
from mountcr.model import MountId
from mountcr.paths import KPath

TREE = MountTree(
    builders.table("""
        10 5 0:1 / / rw - overlay overlay rw
        11 10 0:2 / /proc rw - proc proc rw
        12 10 8:1 /v /data rw - ext4 /dev/sda1 rw
        13 12 8:1 /w /data/in rw - ext4 /dev/sda1 rw
        14 10 0:3 / /over rw - tmpfs t rw
        15 14 0:4 / /over rw - tmpfs t rw
        16 15 0:5 / /over/deep rw - tmpfs t rw
        17 14 0:6 / /over/deep rw - tmpfs t rw
        18 10 0:7 / /data/in/x rw - tmpfs t rw
    """)
)


@pytest.mark.parametrize(
    ("path", "identity"),
    [
        ("/", 10),
        ("/etc/hosts", 10),
        ("/proc", 11),
        ("/proc/1/x", 11),
        ("/process", 10),
        ("/data", 12),
        ("/data/in", 13),
        ("/data/in/x", 13),
        ("/data/inside", 12),
        ("/over", 15),
        ("/over/deep", 16),
        ("/over/deep/er", 16),
    ],
)
def test_a_path_lies_on_the_mount_that_lookup_ends_at(path: str, identity: int) -> None:
    """The topmost mount counts, and what lies on a covered one is not reached."""
    found = TREE.lies_on(KPath(path))
    assert found is not None
    assert found.id == identity


def test_what_no_path_leads_to_is_hidden() -> None:
    """Below another mount, on a covered one, or attached where another mount now is."""
    assert [mount.id for mount in TREE.mounts if TREE.hidden(mount)] == [14, 17, 18]


def test_parents_and_children() -> None:
    """The root has no parent; children come in the order of the table."""
    by_id = TREE.by_id
    assert TREE.root is by_id[MountId(10)]
    assert TREE.parent(by_id[MountId(10)]) is None
    assert TREE.parent(by_id[MountId(13)]) is by_id[MountId(12)]
    assert [each.id for each in TREE.children(by_id[MountId(10)])] == [11, 12, 14, 18]


def test_order_puts_parents_first() -> None:
    """Also where the table does not, as after mounts were moved."""
    tree = MountTree(
        builders.table("""
            20 30 0:2 / /a rw - tmpfs t rw
            30 31 0:3 / / rw - tmpfs t rw
            31 1 0:4 / / rw - rootfs rootfs rw
            21 20 0:5 / /a/b rw - tmpfs t rw
        """)
    )
    order = [mount.id for mount in tree.walk()]
    assert sorted(order) == [20, 21, 30, 31]
    for mount in tree.mounts:
        parent = tree.parent(mount)
        if parent:
            assert order.index(parent.id) < order.index(mount.id)


def test_the_root_is_the_mount_without_a_parent() -> None:
    """A mount at `/` on top of the root is where paths begin, but not the root."""
    tree = MountTree(
        builders.table("""
            30 31 0:3 / / rw - tmpfs t rw
            31 1 0:4 / / rw - rootfs rootfs rw
        """)
    )
    assert tree.root is tree.mounts[1]
    assert tree.lies_on(KPath("/x")) is tree.mounts[0]


def test_a_table_without_a_root() -> None:
    """Who is outside of a namespace's root sees mounts and no root; no path lies anywhere."""
    tree = MountTree(builders.table("30 31 0:3 / /a rw - tmpfs t rw"))
    assert tree.root is None
    assert tree.lies_on(KPath("/a")) is None
    assert tree.hidden(tree.mounts[0])
    assert MountTree(()).lies_on(KPath("/")) is None


def test_a_root_that_is_its_own_parent() -> None:
    """The very first mount of the kernel shows itself as its parent."""
    tree = MountTree(builders.table("1 1 0:2 / / rw - rootfs rootfs rw"))
    assert tree.root is tree.mounts[0]
    assert tree.parent(tree.mounts[0]) is None


HOST = MountTree(
    builders.table("""
        1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
        2 1 8:1 /srv /mnt rw shared:2 - ext4 /dev/sda1 rw
        3 1 8:1 /srv/data /short rw - ext4 /dev/sda1 rw
        4 1 0:9 / /hidden rw - tmpfs t rw
        5 1 0:10 / /hidden rw - tmpfs u rw
        6 1 8:2 /sub /disk rw - ext4 /dev/sdb1 rw
        7 1 8:3 /gone//deleted /kept rw - ext4 /dev/sdc1 rw
        8 1 8:3 / /whole rw - ext4 /dev/sdc1 rw
    """)
)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("9 8 8:1 /srv/data/x /x rw - ext4 /dev/sda1 rw", "/short/x"),
        ("9 8 8:1 /srv/other /x rw - ext4 /dev/sda1 rw", "/mnt/other"),
        ("9 8 8:1 /etc/hosts /x rw - ext4 /dev/sda1 rw", "/etc/hosts"),
        ("9 8 8:2 /sub/a /x rw - ext4 /dev/sdb1 rw", "/disk/a"),
        ("9 8 8:2 /elsewhere /x rw - ext4 /dev/sdb1 rw", None),
        ("9 8 0:9 / /x rw - tmpfs t rw", None),
        ("9 8 0:10 / /x rw - tmpfs u rw", "/hidden"),
        ("9 8 0:77 / /x rw - tmpfs v rw", None),
        ("9 8 8:3 /gone//deleted /x rw - ext4 /dev/sdc1 rw", "/kept"),
        ("9 8 8:3 /away//deleted /x rw - ext4 /dev/sdc1 rw", None),
    ],
)
def test_path_of(line: str, path: str | None) -> None:
    """The closest mount of the same device whose root is as wide, if a path leads there."""
    assert HOST.path_of(builders.mount(line)) == path


def test_path_of_prefers_peers() -> None:
    """A member of the given peer groups comes before one with a closer root."""
    mount = builders.mount("9 8 8:1 /srv/data/x /x rw master:2 - ext4 /dev/sda1 rw")
    assert HOST.path_of(mount, prefer=[2]) == "/mnt/data/x"
    assert HOST.path_of(mount, prefer=[1]) == "/srv/data/x"


@pytest.mark.parametrize("name", builders.recorded_names())
def test_recorded_tables_hang_together(name: str) -> None:
    """In the table of a real host there is one root, and every mount hangs below it."""
    tree = MountTree(builders.recorded(name))
    assert tree.root is not None
    assert len(list(tree.walk())) == len(tree.mounts)
    assert [mount for mount in tree.mounts if tree.parent(mount) is None] == [tree.root]
