# SPDX-License-Identifier: Apache-2.0
"""Two tables differ exactly where something other than the kernel's own numbers has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.graph.diff import Difference, diff, diff_namespaces

if TYPE_CHECKING:
    from mountcr.model import Mount

BEFORE = """
    10 5 0:50 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
    11 10 0:51 / /proc rw,nosuid - proc proc rw
    12 10 0:52 / /dev rw,nosuid - tmpfs tmpfs rw,size=64k
    13 11 0:52 /null /proc/keys rw,nosuid - tmpfs tmpfs rw,size=64k
    14 10 8:1 /srv/vol /data rw,relatime shared:4 - ext4 /dev/sda1 rw
    15 10 8:1 /srv/vol2 /more rw,relatime shared:4 - ext4 /dev/sda1 rw
    16 10 0:50 /etc /etc2 rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
    17 10 0:53 / /tmp rw - tmpfs a rw
    18 17 0:54 / /tmp rw - tmpfs b rw
    19 10 8:1 /srv/vol3 /slave rw,relatime master:7 - ext4 /dev/sda1 rw
    20 10 8:1 /srv/vol4 /alone rw,relatime shared:5 - ext4 /dev/sda1 rw
"""


def changed(old: str, new: str) -> list[Difference]:
    """What differs after one replacement in the text of the table."""
    assert BEFORE.count(old) == 1
    return diff(builders.table(BEFORE), builders.table(BEFORE.replace(old, new)))


def test_a_table_is_equal_to_itself() -> None:
    """Nothing differs where nothing has changed."""
    assert diff(builders.table(BEFORE), builders.table(BEFORE)) == []


@pytest.mark.parametrize(
    ("old", "new", "path", "what"),
    [
        ("/data rw,relatime", "/data ro,relatime", "/data", "options"),
        ("/dev rw,nosuid - tmpfs", "/dev rw,nosuid - ramfs", "/dev", "fstype"),
        ("/srv/vol /data", "/srv/other /data", "/data", "root"),
        ("/etc /etc2", "/usr /etc2", "/etc2", "root"),
        ("/data rw,relatime shared:4", "/data rw,relatime", "/data", "shared"),
        ("/tmp rw - tmpfs a", "/tmp rw shared:9 - tmpfs a", "/tmp", "shared"),
        (" master:7", "", "/slave", "master"),
        ("/proc rw,nosuid -", "/proc rw,nosuid unbindable -", "/proc", "unbindable"),
        ("/tmp rw - tmpfs a", "/tmp rw - tmpfs c", "/tmp", "source"),
        ("/dev rw,nosuid - tmpfs tmpfs rw,size=64k", "/dev rw,nosuid - tmpfs tmpfs rw,size=8k",
         "/dev", "super options"),
        ("/alone rw,relatime shared:5", "/alone rw,relatime shared:4", "/alone", "peer group"),
        ("/more rw,relatime shared:4", "/more rw,relatime shared:6", "/more", "peer group"),
        ("18 17 0:54", "18 17 0:53", "/tmp", "superblock"),
        ("20 10 8:1", "20 10 8:9", "/alone", "superblock"),
        ("rw,relatime master:1", "rw,relatime,nodev master:1", "/", "options"),
        (" master:1", "", "/", "master"),
    ],
)  # fmt: skip
def test_one_change_is_found(old: str, new: str, path: str, what: str) -> None:
    """A change is named with its mountpoint and kind."""
    found = changed(old, new)
    assert (path, what) in {(each.path, each.what) for each in found}
    assert {each.path for each in found} == {path}


@pytest.mark.parametrize("old", ["12 10 0:52", "13 11 0:52"])
def test_a_split_superblock_is_found(old: str) -> None:
    """Two mounts that showed one superblock and show two are both named."""
    found = changed(old, old.replace("0:52", "0:99"))
    assert {each.path for each in found} == {"/dev", "/proc/keys"}
    assert "superblock" in {each.what for each in found}


def test_a_missing_mount_is_found() -> None:
    """It is named with what it was; what lay on it is missing too."""
    gone = "    17 10 0:53 / /tmp rw - tmpfs a rw\n    18 17 0:54 / /tmp rw - tmpfs b rw\n"
    found = changed(gone, "")
    assert found == [
        Difference(path=found[0].path, what="mount", before="tmpfs /"),
        Difference(path=found[0].path, what="mount", before="tmpfs /"),
    ]
    assert found[0].path == "/tmp"
    assert str(found[0]) == "/tmp: mount: tmpfs / -> none"


def test_an_extra_mount_is_found() -> None:
    """So is one that was not there."""
    extra = "    21 10 0:60 / /extra rw - tmpfs x rw\n"
    (found,) = diff(builders.table(BEFORE), builders.table(BEFORE + extra))
    assert (found.path, found.before, found.after) == ("/extra", "", "tmpfs /")


def test_a_mount_that_lies_on_another_one_is_another() -> None:
    """The same mountpoint on a different parent is not the same place."""
    found = changed("18 17 0:54 / /tmp", "18 10 0:54 / /tmp/x")
    assert {(each.path, each.before, each.after) for each in found} == {
        ("/tmp", "tmpfs /", ""),
        ("/tmp/x", "", "tmpfs /"),
    }


def test_numbers_are_the_kernels() -> None:
    """Other ids, devices and groups, and another order of the lines, are no difference."""
    after = """
        110 5 0:80 / / rw,relatime master:3 - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
        120 110 8:2 /x/vol4 /alone rw,relatime shared:9 - ext4 /dev/sda1 rw
        119 110 8:2 /x/vol3 /slave rw,relatime master:6 - ext4 /dev/sda1 rw
        117 110 0:83 / /tmp rw - tmpfs a rw
        118 117 0:84 / /tmp rw - tmpfs b rw
        116 110 0:80 /etc /etc2 rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
        115 110 8:2 /x/vol2 /more rw,relatime shared:8 - ext4 /dev/sda1 rw
        114 110 8:2 /x/vol /data rw,relatime shared:8 - ext4 /dev/sda1 rw
        112 110 0:82 / /dev nosuid,rw - tmpfs tmpfs size=64k,rw
        111 110 0:81 / /proc rw,nosuid - proc proc rw
        113 111 0:82 /null /proc/keys rw,nosuid - tmpfs tmpfs rw,size=64k
    """
    assert diff(builders.table(BEFORE), builders.table(after)) == []


def test_the_root_may_come_back_on_another_driver() -> None:
    """A directory instead of a union is equal, with what is carved out of it."""
    after = BEFORE.replace(
        "0:50 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w",
        "8:1 /var/rootfs / rw,relatime master:1 - ext4 /dev/sda1 rw",
    ).replace(
        "0:50 /etc /etc2 rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w",
        "8:1 /var/rootfs/etc /etc2 rw,relatime - ext4 /dev/sda1 rw",
    )
    assert diff(builders.table(BEFORE), builders.table(after)) == []
    assert diff(builders.table(after), builders.table(BEFORE)) == []


def test_what_is_carved_must_stay_carved() -> None:
    """A part of the root that comes back from elsewhere is another superblock."""
    found = changed(
        "0:50 /etc /etc2 rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w",
        "8:1 /srv/etc /etc2 rw,relatime - ext4 /dev/sda1 rw",
    )
    assert ("/etc2", "superblock") in {(each.path, each.what) for each in found}


def test_a_volume_on_the_device_of_a_plain_root_is_not_carved() -> None:
    """Outside the root's directory, the device may be another one after the restore."""
    before = """
        10 5 8:1 /roots/web / rw - ext4 /dev/sda1 rw
        11 10 8:1 /srv/vol /data rw - ext4 /dev/sda1 rw
    """
    after = """
        10 5 0:9 / / rw - overlay overlay rw,lowerdir=/l
        11 10 8:1 /srv/vol /data rw - ext4 /dev/sda1 rw
    """
    assert diff(builders.table(before), builders.table(after)) == []


def test_a_group_that_lost_its_members_on_the_host() -> None:
    """Sharing that reached the host before and does not any more is a difference."""
    table = builders.table(BEFORE)
    host = builders.table("1 0 8:1 / /srv/vol rw shared:4 - ext4 /dev/sda1 rw")
    found = diff(table, table, outside_before=host)
    assert {(each.path, each.what, each.before) for each in found} == {
        ("/data", "host peers", "shared:4"),
        ("/more", "host peers", "shared:4"),
    }
    assert diff(table, table, outside_before=host, outside_after=host) == []


def test_bound_namespaces_are_compared_by_kind() -> None:
    """The number of a namespace is the kernel's; its kind is not."""
    before = """
        10 5 0:50 / / rw - overlay o rw
        11 10 0:4 net:[4026531840] /run/netns/a rw - nsfs nsfs rw
        12 10 0:4 net:[4026531841] /run/netns/b rw - nsfs nsfs rw
    """
    after = before.replace("4026531840", "4026539999")
    assert diff(builders.table(before), builders.table(after)) == []
    other = before.replace("net:[4026531841]", "uts:[4026531841]")
    (found,) = diff(builders.table(before), builders.table(other))
    assert (found.path, found.what, found.before, found.after) == (
        "/run/netns/b", "root", "net", "uts",
    )  # fmt: skip


def test_tables_without_a_root_have_nothing_to_compare() -> None:
    """What is seen from outside of the root hangs nowhere."""
    assert diff((), ()) == []


@pytest.mark.parametrize("name", ["crun-overlay", "crun-vfs"])
def test_a_recorded_restore_of_crun_is_equal(name: str) -> None:
    """What CRIU really restored, with other ids, devices and order of lines, is the same table."""
    found = diff(builders.recorded(name), builders.recorded(f"{name}.restored"))
    assert [str(each) for each in found] == []


@pytest.mark.parametrize(
    ("name", "masked"),
    [
        ("runc-overlay", {"/proc/keys"}),
        ("runc-overlay-cgroupns", {"/proc/keys"}),
        ("runc-vfs", {"/proc/keys"}),
        ("docker26-overlay2", {"/proc/keys", "/proc/timer_list"}),
        ("podman-fuse", {"/proc/keys", "/proc/timer_list"}),
    ],
)
def test_a_recorded_restore_of_runc_differs_where_runc_masks(name: str, masked: set[str]) -> None:
    """
    At a restore runc masks files by the null device of the host, where the container's own was.

    That and nothing else is different, and that `/dev` is not their superblock any more.
    """
    found = diff(builders.recorded(name), builders.recorded(f"{name}.restored"))
    assert {each.path for each in found} == masked | {"/dev"}
    assert {each.what for each in found if each.path == "/dev"} == {"superblock"}
    (keys,) = (each for each in found if each.path == "/proc/keys" and each.what == "fstype")
    assert (keys.before, keys.after) == ("tmpfs", "devtmpfs")


# --- What is compared -----------------------------------------------------------------------------


ROOT_LINE = "10 5 0:50 / / rw - overlay o rw"


@pytest.mark.parametrize(
    ("was", "now", "what"),
    [
        ("0:51 /f /m rw - tmpfs t rw", "0:51 /f//deleted /m rw - tmpfs t rw", "deleted"),
        ("0:51 / /m rw - tmpfs t rw", "0:51 / /m rw - tmpfs t ro", "super options"),
        ("0:51 / /m rw master:7 - x t rw", "0:51 / /m rw master:7 propagate_from:2 - x t rw",
         "propagate_from"),
        ("0:51 / /m rw - tmpfs - rw", "0:51 / /m rw - tmpfs  rw", "source"),
        ("0:51 / /m rw,relatime - tmpfs t rw", "0:51 / /m rw - tmpfs t rw", "options"),
    ],
)  # fmt: skip
def test_each_is_compared(was: str, now: str, what: str) -> None:
    """Deleted roots, flags of the superblock and what is left out of a line are compared."""
    before = builders.table(f"{ROOT_LINE}\n11 10 {was}")
    after = builders.table(f"{ROOT_LINE}\n11 10 {now}")
    for one, other in ((before, after), (after, before)):
        assert [each.what for each in diff(one, other)] == [what]


def test_seclabel_is_of_the_host() -> None:
    """The kernel shows it where a security module labels files, whatever was mounted."""
    before = builders.table(f"{ROOT_LINE}\n11 10 0:51 / /m rw - tmpfs t rw,seclabel,size=4k")
    after = builders.table(f"{ROOT_LINE}\n11 10 0:51 / /m rw - tmpfs t rw,size=4k")
    assert diff(before, after) == []


def test_a_directory_whose_name_begins_alike_is_no_part_of_another() -> None:
    """What the mounts of a superblock have in common is told by components of their roots."""
    lines = """
        10 5 0:50 / / rw - overlay o rw
        11 10 8:1 {0} /a rw - ext4 d rw
        12 10 8:1 {0}-b /b rw - ext4 d rw
        13 10 8:1 {0}/c /c rw - ext4 d rw
    """
    before, after = (builders.table(lines.format(base)) for base in ("/v/x", "/elsewhere/x"))
    assert diff(before, after) == []
    (found,) = diff(before, builders.table(lines.format("/v/x").replace("/v/x/c", "/v/x/d")))
    assert (found.path, found.what, found.before, found.after) == ("/c", "root", "x/c", "x/d")


def test_the_order_in_a_stack_is_compared() -> None:
    """Two mounts of one parent at one mountpoint are a stack in the order of the lines."""
    before = """
        10 5 0:50 / / rw - overlay o rw
        11 10 0:51 / /m rw - tmpfs lower rw
        12 10 0:52 / /m rw - tmpfs upper rw
    """
    assert diff(builders.table(before), builders.table(before)) == []
    lines = before.strip("\n").splitlines()
    swapped = "\n".join([lines[0], lines[2], lines[1]])
    assert [(each.what, each.before, each.after) for each in diff(
        builders.table(before), builders.table(swapped)
    )] == [("source", "lower", "upper"), ("source", "upper", "lower")]  # fmt: skip


def test_a_stack_of_siblings_is_no_chain() -> None:
    """What hangs beside another mount at a place and what hangs on it are different trees."""
    before = """
        10 5 0:50 / / rw - overlay o rw
        11 10 0:51 / /m rw - tmpfs t rw
        12 10 0:52 / /m rw - tmpfs t rw
    """
    found = diff(builders.table(before), builders.table(before.replace("12 10", "12 11")))
    assert [(each.path, each.what) for each in found] == [("/m", "mount"), ("/m", "mount")]


def test_what_lies_hidden_is_compared() -> None:
    """A mount below another one, and a mount over the root, have their places as others have."""
    before = """
        10 5 0:50 / / rw - overlay o rw
        11 10 0:51 / /m/x rw - tmpfs hidden rw
        12 10 0:52 / /m rw - tmpfs t rw
        13 10 0:53 / / rw - tmpfs over rw
    """
    for old in ("0:51 / /m/x rw", "0:53 / / rw"):
        after = before.replace(old, f"{old},nosuid")
        (found,) = diff(builders.table(before), builders.table(after))
        assert found.what == "options"


def test_one_namespace_that_is_bound_twice_stays_one() -> None:
    """Numbers of bound namespaces correspond one to one."""
    before = """
        10 5 0:50 / / rw - overlay o rw
        11 10 0:4 net:[4026531840] /a rw - nsfs nsfs rw
        12 10 0:4 net:[4026531840] /b rw - nsfs nsfs rw
    """
    after = before.replace("net:[4026531840] /b", "net:[4026531841] /b")
    for one, other in ((before, after), (after, before)):
        (found,) = diff(builders.table(one), builders.table(other))
        assert (found.path, found.what) == ("/b", "bound namespace")


def test_what_a_task_in_a_chroot_sees_is_compared() -> None:
    """A table without a root, whose mounts have parents that it does not show."""
    before = """
        11 10 0:51 / /proc rw - proc proc rw
        12 10 0:52 / /tmp rw - tmpfs t rw
        13 12 0:53 / /tmp/x rw - tmpfs t rw
    """
    assert diff(builders.table(before), builders.table(before)) == []
    (found,) = diff(builders.table(before), builders.table(before.replace("/x rw", "/x ro")))
    assert (found.path, found.what) == ("/tmp/x", "options")


def test_a_tree_may_be_deeper_than_python_can_call() -> None:
    """Thousands of mounts stacked one on the other are compared, and the last is named."""
    lines = [ROOT_LINE]
    lines += [
        f"{number} {number - 1} 0:{number} / /m rw - tmpfs t rw" for number in range(11, 5011)
    ]
    before = builders.table("\n".join(lines))
    after = builders.table("\n".join([*lines[:-1], lines[-1].replace("rw - tmpfs", "ro - tmpfs")]))
    assert [each.what for each in diff(before, after)] == ["options"]
    assert len(diff(before, before[:11])) == 4990


# --- Several namespaces ---------------------------------------------------------------------------


OUTER = """
    10 5 0:50 / / rw - overlay o rw
    11 10 0:51 / /run rw shared:1 - tmpfs t rw
    12 10 8:1 /vol /vol rw master:7 - ext4 d rw
"""
INNER = """
    20 15 0:50 / / rw - overlay o rw
    21 20 0:51 / /run rw shared:1 - tmpfs t rw
    22 20 8:1 /vol /vol rw master:7 - ext4 d rw
    23 20 0:60 / /own rw - tmpfs t rw
    24 20 0:51 /deep /deep rw master:1 - tmpfs t rw
"""


def nested(outer: str = OUTER, *inner: str) -> list[tuple[Mount, ...]]:
    """Give the tables of a root task and of what is nested in it."""
    return [builders.table(each) for each in (outer, *inner)]


@pytest.mark.parametrize(
    ("old", "new", "path", "what"),
    [
        ("shared:1", "shared:2", "/run", "peer group"),
        ("0:51 / ", "0:59 / ", "/run", "superblock"),
        ("master:1", "master:8", "/deep", "peer group"),
        ("master:7", "master:8", "/vol", "peer group"),
        ("8:1", "8:2", "/vol", "superblock"),
        ("0:60", "0:51", "/own", "superblock"),
        ("/own rw", "/own ro", "/own", "options"),
    ],
)
def test_namespaces_are_compared_together(old: str, new: str, path: str, what: str) -> None:
    """What a nested namespace shares with the root task's it must still share."""
    before = nested(OUTER, INNER)
    assert diff_namespaces(before, nested(OUTER, INNER)) == []
    found = diff_namespaces(before, nested(OUTER, INNER.replace(old, new)))
    assert (path, what, 1) in {(each.path, each.what, each.namespace) for each in found}
    assert {each.namespace for each in found} == {1}


def test_a_table_that_is_equal_by_itself_may_be_cut_off_from_the_others() -> None:
    """Peers in another namespace are lost although each table has the shape that it had."""
    apart = INNER.replace("shared:1", "shared:2").replace("master:1", "master:2")
    assert diff(builders.table(INNER), builders.table(apart)) == []
    found = diff_namespaces(nested(OUTER, INNER), nested(OUTER, apart))
    assert {(each.path, each.what) for each in found} == {
        ("/run", "peer group"),
        ("/deep", "peer group"),
    }


def test_the_slave_of_a_group_outside_stays_one() -> None:
    """It must not become one of a group inside, nor the other way round."""
    outside = nested(OUTER, INNER.replace("master:1", "master:9"))
    for before, after in (
        (outside, nested(OUTER, INNER)),
        (nested(OUTER, INNER), outside),
    ):
        (found,) = diff_namespaces(before, after)
        assert (found.path, found.what, found.namespace) == ("/deep", "peer group", 1)


def test_the_root_is_that_of_the_root_task() -> None:
    """What is carved out of it in a nested namespace comes back on another driver too."""
    before = nested(OUTER, INNER)
    after = nested(*(
        each.replace("0:50 / / rw - overlay o rw", "8:1 /roots/web / rw - ext4 d rw")
        for each in (OUTER, INNER)
    ))  # fmt: skip
    assert diff_namespaces(before, after) == []


def test_a_missing_namespace_is_one_difference() -> None:
    """An empty table stands for it, so that those behind it keep their places."""
    three = nested(OUTER, INNER, INNER)
    for two in (three[:2], [three[0], (), three[2]]):
        gap = 2 if two[1] else 1
        (missing,) = diff_namespaces(three, two)
        (extra,) = diff_namespaces(two, three)
        assert (missing.what, missing.namespace) == ("namespace", gap)
        assert (missing.before, missing.after) == ("5 mounts", "")
        assert (extra.before, extra.after) == ("", "5 mounts")
        assert str(missing) == f"/ in nested namespace {gap}: namespace: 5 mounts -> none"


def test_peers_on_the_host_are_lost_in_a_nested_namespace_too() -> None:
    """A mount that only the nested namespace has may be in a group of the host."""
    inner = f"{INNER}    25 20 8:1 /x /x rw shared:4 - ext4 d rw\n"
    host = builders.table("1 0 8:1 / / rw shared:4 - ext4 d rw")
    (found,) = diff_namespaces(
        nested(OUTER, inner), nested(OUTER, inner), outside_before=host, outside_after=()
    )
    assert (found.path, found.what, found.namespace) == ("/x", "host peers", 1)


def test_a_difference_in_json_names_the_namespace() -> None:
    """The root task's is 0."""
    found = diff_namespaces(
        nested(OUTER, INNER), nested(OUTER, INNER.replace("/own rw", "/own ro"))
    )
    assert msgspec.json.decode(msgspec.json.encode(found)) == [
        {"path": "/own", "what": "options", "before": "rw", "after": "ro", "namespace": 1}
    ]
