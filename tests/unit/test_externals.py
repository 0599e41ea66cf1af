# SPDX-License-Identifier: Apache-2.0
"""The externals of a container are exactly what comes from outside, and no more than needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr import paths
from mountcr.graph import MountGraph
from mountcr.graph.tree import MountTree
from mountcr.model import InodeType
from mountcr.planning.externals import choose_externals, external_nodes, given_nodes
from mountcr.planning.given import Given, parse_given

if TYPE_CHECKING:
    from mountcr.model import Mount
    from mountcr.planning.records import External

ROOT = "10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w"
HOST = """
    1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
    2 1 0:99 / /run/shm rw - tmpfs shm rw
    3 1 8:3 / /whole rw - ext4 /dev/sdc1 rw
"""


def externals(
    mounts: tuple[Mount, ...],
    host: tuple[Mount, ...],
    *,
    cgroup_namespace: bool = False,
    given: Given | None = None,
) -> tuple[External, ...]:
    """The externals of a container with these mounts, one task of which reads from pipe 77."""
    return choose_externals(
        MountGraph([builders.namespace(mounts)]),
        MountTree(host),
        cgroup_namespace=cgroup_namespace,
        own_pipes={"pipe:[77]"},
        given=given,
    )


def of(*lines: str, root: str = ROOT, cgroup_namespace: bool = False) -> dict[str, str | None]:
    """Mountpoints and sources of the externals of a container with some mounts."""
    mounts = builders.table("\n".join([root, *lines]))
    found = externals(mounts, builders.table(HOST), cgroup_namespace=cgroup_namespace)
    return {each.mountpoint: each.source for each in found}


CGROUPS = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"]
CGROUP_BINDS = {f"/sys/fs/cgroup/{each}" for each in CGROUPS}
FILES = {"/data/vol", "/etc/hosts", "/etc/hostname"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docker-overlay2", FILES | {"/etc/resolv.conf"} | CGROUP_BINDS),
        ("docker26-overlay2", FILES | {"/etc/resolv.conf"} | CGROUP_BINDS),
        ("docker-vfs", FILES | {"/etc/resolv.conf"} | CGROUP_BINDS),
        ("docker-btrfs", FILES | {"/etc/resolv.conf"} | CGROUP_BINDS),
        ("podman-overlay", FILES | {"/run/.containerenv", "/dev/shm"} | CGROUP_BINDS),
        ("podman-fuse", FILES | {"/run/.containerenv", "/dev/shm"} | CGROUP_BINDS),
        ("podman-vfs", FILES | {"/run/.containerenv", "/dev/shm"} | CGROUP_BINDS),
        ("podman-btrfs", FILES | {"/run/.containerenv", "/dev/shm"} | CGROUP_BINDS),
        ("runc-overlay", FILES | {"/etc/resolv.conf"}),
        ("runc-overlay-shared", FILES | {"/etc/resolv.conf"}),
        ("runc-unionfs", FILES | {"/etc/resolv.conf"}),
        ("runc-vfs", FILES | {"/etc/resolv.conf"}),
        ("crun-overlay", FILES | {"/etc/resolv.conf", "/proc/keys"}),
    ],
)
def test_recorded_containers(name: str, expected: set[str]) -> None:
    """
    What engines bound from the host: files, volumes, control groups, podman's shared memory.

    Not what the container mounted itself, not what it masks by its own null device. crun masks by
    the host's.
    """
    found = externals(builders.recorded(name), builders.recorded(f"{name}.host"))
    assert {each.mountpoint for each in found} == expected
    for each in found:
        assert each.because
    assert len({each.key for each in found}) == len(expected)


ENGINES = [
    name for name in builders.recorded_names(".host") if not name.startswith(("kernel-", "c"))
]


@pytest.mark.parametrize("host", ENGINES)
def test_recorded_externals_are_what_the_host_has_mounted_too(host: str) -> None:
    """A mount comes from outside exactly if the host has its file system; each place once."""
    root, *mounts = builders.recorded(host.removesuffix(".host"))
    outside = {mount.dev for mount in builders.recorded(host)}
    expected: dict[tuple[str, str], str] = {}
    for mount in mounts:
        carved = mount.dev == root.dev and paths.is_beneath(mount.root, root.root)
        if mount.dev in outside and not carved:
            expected.setdefault((mount.dev, mount.root), mount.mountpoint)
    found = externals((root, *mounts), builders.recorded(host))
    assert {each.mountpoint for each in found} == set(expected.values())


@pytest.mark.parametrize("host", ENGINES)
def test_recorded_sources_show_what_the_container_shows(host: str) -> None:
    """The path of the host leads to the same directory or file of the same device."""
    mounts = {m.mountpoint: m for m in builders.recorded(host.removesuffix(".host"))}
    tree = MountTree(builders.recorded(host))
    for each in externals(tuple(mounts.values()), tree.mounts):
        assert each.source is not None
        lies = tree.lies_on(each.source)
        assert lies is not None
        assert lies.dev == mounts[each.mountpoint].dev
        shown = paths.rebase(each.source, lies.mountpoint, lies.root)
        assert shown == mounts[each.mountpoint].root


def test_recorded_control_groups_in_a_namespace_of_their_own() -> None:
    """CRIU takes what is seen in a cgroup namespace for the whole; nothing of it is external."""
    name = "runc-overlay-cgroupns"
    found = externals(
        builders.recorded(name), builders.recorded(f"{name}.host"), cgroup_namespace=True
    )
    assert {each.mountpoint for each in found} == FILES | {"/etc/resolv.conf"}
    without = externals(builders.recorded(name), builders.recorded(f"{name}.host"))
    assert {each.mountpoint for each in without} >= {"/sys/fs/cgroup/cpu"}


@pytest.mark.parametrize(
    ("line", "source"),
    [
        ("11 10 8:1 /srv/hosts /x rw - ext4 /dev/sda1 rw", "/srv/hosts"),
        ("11 10 8:3 / /x rw - ext4 /dev/sdc1 rw", "/whole"),
        ("11 10 8:9 / /x rw - xfs /dev/sdi1 rw", None),
        ("11 10 0:70 / /x rw - fuse.sshfs far rw,user_id=0", None),
        ("11 10 0:99 / /x rw - tmpfs shm rw", "/run/shm"),
        ("11 10 0:70 / /x rw - nfs4 far:/vol rw,vers=4.2", None),
        ("11 10 0:70 /sub /x rw - nfs4 far:/vol rw,vers=4.2", None),
        ("11 10 0:71 / /x rw master:5 - tmpfs t rw", None),
        ("11 10 0:71 / /x rw shared:6 master:5 - tmpfs t rw", None),
        ("11 10 8:1 /srv/vol /x rw shared:1 - ext4 /dev/sda1 rw", "/srv/vol"),
        ("11 10 8:1 /srv/vol /x rw master:1 - ext4 /dev/sda1 rw", "/srv/vol"),
        ("11 10 0:75 / /x rw - autofs a rw,fd=5,pipe_ino=78", None),
        ("11 10 0:74 / /x rw - overlay overlay rw,lowerdir=/p:/q", None),
        ("11 10 0:4 net:[4026531840] /x rw - nsfs nsfs rw", None),
    ],
)
def test_what_needs_to_be_external(line: str, source: str | None) -> None:
    """
    A part of a file system, a whole one that CRIU cannot mount, FUSE, NFS, a tmpfs of the host, a
    slave, a shared bind of the host, an autofs whose daemon is outside, an overlay.

    The source is a path of the host, or none where no path leads there.
    """
    assert of(line) == {"/x": source}


@pytest.mark.parametrize(
    "line",
    [
        "11 10 0:70 / /proc rw - proc proc rw",
        "11 10 0:71 / /tmp rw - tmpfs t rw",
        "11 10 0:71 / /tmp rw shared:8 - tmpfs t rw",
        "11 10 0:50 /etc /etc2 rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w",
        "11 10 0:72 / /sys rw - sysfs sysfs rw",
        "11 10 0:73 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
        "11 10 0:75 / /auto rw - autofs a rw,fd=5,pipe_ino=77",
    ],
)
def test_what_criu_brings_back_itself(line: str) -> None:
    """Virtual file systems, tmpfs of the container's own, and what its root holds."""
    assert of(line) == {}


def test_a_bind_inside_an_external_needs_none() -> None:
    """The wider mount of the same superblock is told of, and the narrow ones follow from it."""
    assert of(
        "11 10 8:1 /srv/vol/sub/deep /c rw - ext4 /dev/sda1 rw",
        "12 10 8:1 /srv/vol/sub /b rw - ext4 /dev/sda1 rw",
        "13 10 8:1 /srv/vol /a rw - ext4 /dev/sda1 rw",
        "14 10 8:1 /srv/volume /d rw - ext4 /dev/sda1 rw",
    ) == {"/a": "/srv/vol", "/d": "/srv/volume"}


def test_a_bind_inside_a_whole_file_system_needs_none() -> None:
    """So it is where the wide one is a file system that CRIU cannot mount."""
    assert of(
        "11 10 8:3 /sub /b rw - ext4 /dev/sdc1 rw", "12 10 8:3 / /a rw - ext4 /dev/sdc1 rw"
    ) == {"/a": "/whole"}


def test_masked_files_and_parts_of_proc() -> None:
    """
    A runtime masks by its own null device, or by the host's, which is external; not by more.

    What it makes read-only of the container's own proc follows from that.
    """
    found = of(
        "11 10 0:60 / /proc rw - proc proc rw",
        "12 11 0:60 /sys /proc/sys ro - proc proc rw",
        "13 11 0:61 / /proc/acpi ro - tmpfs tmpfs ro",
        "14 11 0:6 /null /proc/kcore rw - devtmpfs devtmpfs rw",
        "15 11 0:6 /null /proc/keys rw - devtmpfs devtmpfs rw",
    )
    assert set(found) == {"/proc/kcore"}


def test_device_nodes_bound_one_by_one() -> None:
    """In a user namespace a runtime binds the host's nodes, each of which is external."""
    names = ("null", "zero", "full", "random", "urandom", "tty")
    lines = [
        f"{number} 11 0:6 /{name} /dev/{name} rw - devtmpfs devtmpfs rw"
        for number, name in enumerate(names, 12)
    ]
    found = of("11 10 0:61 / /dev rw - tmpfs tmpfs rw", *lines)
    assert set(found) == {f"/dev/{name}" for name in names}


def test_a_slave_settles_what_shows_the_same() -> None:
    """Of two mounts with one root the slave is external, because that settles both."""
    found = of(
        "11 10 8:1 /srv/vol /a rw - ext4 /dev/sda1 rw",
        "12 10 8:1 /srv/vol /b rw master:1 - ext4 /dev/sda1 rw",
    )
    assert set(found) == {"/b"}


def test_a_tmpfs_of_the_host_that_is_stacked() -> None:
    """CRIU cannot be told of one mount of a stack, so the others of it are not external either."""
    found = of(
        "11 10 0:99 / /a rw - tmpfs shm rw",
        "12 11 0:71 / /a rw - tmpfs t rw",
        "13 12 0:99 / /a/x rw - tmpfs shm rw",
    )
    assert found == {}


def test_what_lies_below_its_own_external() -> None:
    """CRIU makes a mount before what is on it, so it cannot be bound from there."""
    found = of(
        "11 10 8:1 /srv /a rw - ext4 /dev/sda1 rw",
        "12 11 8:1 /srv /a/x rw master:1 - ext4 /dev/sda1 rw",
    )
    assert set(found) == {"/a", "/a/x"}


def told(line: str, *words: str) -> set[str]:
    """Mountpoints of the externals where the user gave CRIU some words."""
    mounts = builders.table(f"{ROOT}\n{line}")
    found = externals(mounts, builders.table(HOST), given=parse_given(words))
    return {each.mountpoint for each in found}


@pytest.mark.parametrize(
    "words",
    [
        ("--enable-fs", "xfs"),
        ("--enable-fs=ext4,xfs",),
        ("--enable-fs", "all"),
        ("--external", "dev[8/9]:disk"),
        ("--external", "mnt[/x]:mine"),
        ("-M/x:mine",),
        ("--ext-mount-map", "/x:mine"),
    ],
)
def test_what_the_user_told_criu_is_not_told_again(words: tuple[str, ...]) -> None:
    """Nor is it looked at as external, unless by its key."""
    line = "11 10 8:9 / /x rw - xfs /dev/sdi1 rw"
    assert told(line) == {"/x"}
    assert told(line, *words) == set()


@pytest.mark.parametrize(
    "words", [("--enable-fs", "ext4"), ("--external", "mnt[/x/]:y"), ("--external", "mnt[]")]
)
def test_words_that_say_nothing_of_a_mount(words: tuple[str, ...]) -> None:
    """Another type, another key, and autodetection, in whose place a key comes back anywhere."""
    assert told("11 10 8:9 / /x rw - xfs /dev/sdi1 rw", *words) == {"/x"}


@pytest.mark.parametrize(
    ("line", "words", "expected"),
    [
        ("11 10 8:1 /srv /x rw - ext4 /dev/sda1 rw", ("mnt[]",), True),
        ("11 10 8:3 /sub /x rw - ext4 /dev/sdc1 rw", ("mnt[]",), True),
        ("11 10 8:9 / /x rw - xfs /dev/sdi1 rw", ("mnt[]",), False),
        ("11 10 8:1 /srv /x rw - ext4 /dev/sda1 rw,errors=panic", ("mnt[]",), False),
        ("11 10 8:1 /srv /x rw master:1 - ext4 /dev/sda1 rw", ("mnt[]",), False),
        ("11 10 8:1 /srv /x rw master:1 - ext4 /dev/sda1 rw", ("mnt[]:m",), True),
        ("11 10 8:1 /srv /x rw master:9 - ext4 /dev/sda1 rw", ("mnt[]:m",), False),
        ("11 10 8:1 /srv /x rw shared:1 - ext4 /dev/sda1 rw", ("mnt[]:m",), False),
        ("11 10 8:1 /srv /x rw shared:1 - ext4 /dev/sda1 rw", ("mnt[]:s",), True),
        ("11 10 8:1 /srv /x rw shared:2 master:1 - ext4 /dev/sda1 rw", ("mnt[]:ms",), False),
        (
            "11 10 8:1 /srv /x rw shared:2 master:1 - ext4 /dev/sda1 rw",
            ("mnt[]:m", "mnt[]:s"),
            True,
        ),
        ("11 10 8:1 /srv /my\\040x rw - ext4 /dev/sda1 rw", ("mnt[/my x]:y",), True),
        ("11 10 8:1 /srv /n\\012x rw - ext4 /dev/sda1 rw", ("mnt[/n\\012x]:y",), True),
        ("11 10 8:1 /srv /n\\012x rw - ext4 /dev/sda1 rw", ("mnt[/n\nx]:y",), False),
        ("11 10 8:1 /srv /a]:b rw - ext4 /dev/sda1 rw", ("mnt[/a]:b]:y",), True),
        ("11 10 8:1 /srv /a rw - ext4 /dev/sda1 rw", ("mnt[/a]:b]:y",), True),
    ],
)
def test_what_criu_takes_for_external_of_what_it_was_told(
    line: str, words: tuple[str, ...], expected: bool
) -> None:
    """By a key, byte for byte; by autodetection with a match on the host, in its peer group too."""
    graph = MountGraph([builders.namespace(f"{ROOT}\n{line}")])
    given = parse_given([part for word in words for part in ("--external", word)])
    found = given_nodes(graph, builders.table(HOST), given)
    assert {node.id for node in found} == ({11} if expected else set())


def test_other_options_are_another_superblock() -> None:
    """For CRIU, mounts that show other options of the superblock hold nothing of each other."""
    found = of(
        "11 10 8:1 /srv /a rw - ext4 /dev/sda1 rw",
        "12 10 8:1 /srv/sub /b rw - ext4 /dev/sda1 rw,errors=panic",
    )
    assert set(found) == {"/a", "/b"}


def test_a_slave_inside_an_external_slave() -> None:
    """One with the same master follows from the wider one; one with another master does not."""
    found = of(
        "11 10 8:1 /srv /a rw master:5 - ext4 /dev/sda1 rw",
        "12 10 8:1 /srv/sub /b rw master:5 - ext4 /dev/sda1 rw",
        "13 10 8:1 /srv/else /c rw master:6 - ext4 /dev/sda1 rw",
    )
    assert set(found) == {"/a", "/c"}


def test_a_slave_whose_master_is_in_the_container() -> None:
    """Sharing inside of the container needs no external."""
    lines = ["11 10 0:71 / /a rw shared:5 - tmpfs t rw", "12 10 0:71 / /b rw master:5 - tmpfs t rw"]
    assert of(*lines) == {}


def test_volumes_on_the_device_of_a_plain_root() -> None:
    """On the root's own file system, only what lies outside of the root's directory is external."""
    found = of(
        "11 10 8:1 /roots/web/data /in rw - ext4 /dev/sda1 rw",
        "12 10 8:1 /srv/vol /out rw - ext4 /dev/sda1 rw",
        root="10 5 8:1 /roots/web / rw - ext4 /dev/sda1 rw",
    )
    assert found == {"/out": "/srv/vol"}


def test_a_null_device_of_the_containers_own() -> None:
    """A file of the container's own tmpfs masks others without being external."""
    found = of(
        "11 10 0:60 / /dev rw - tmpfs tmpfs rw,size=64k",
        "12 10 0:60 /null /proc/keys rw - tmpfs tmpfs rw,size=64k",
        "13 10 0:6 /null /proc/timer_list rw - devtmpfs devtmpfs rw",
    )
    assert set(found) == {"/proc/timer_list"}


def test_control_groups_without_a_namespace() -> None:
    """A part of a hierarchy is a bind as others are, unless there is a cgroup namespace."""
    line = "11 10 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu"
    assert set(of(line)) == {"/sys/fs/cgroup/cpu"}
    assert of(line, cgroup_namespace=True) == {}


def test_externals_come_in_the_order_of_the_table() -> None:
    """With type and mode of the mountpoint, where they were seen."""
    mounts = list(
        builders.table(f"""
            {ROOT}
            11 10 8:1 /srv/vol/sub /b rw - ext4 /dev/sda1 rw,errors=panic
            12 10 8:1 /srv/vol /a rw - ext4 /dev/sda1 rw
        """)
    )
    found = externals(tuple(mounts), builders.table(HOST))
    assert [each.mountpoint for each in found] == ["/b", "/a"]
    assert [each.type for each in found] == [None, None]
    mounts[1] = msgspec.structs.replace(mounts[1], type=InodeType.FILE, mode=0o100644)
    found = externals(tuple(mounts), builders.table(HOST))
    assert (found[0].type, found[0].mode) == (InodeType.FILE, 0o100644)


def test_the_source_of_a_slave_is_in_its_peer_group() -> None:
    """Where the host shows the place twice, the member of the master's group is taken."""
    host = builders.table("""
        1 0 8:1 / / rw - ext4 /dev/sda1 rw
        2 1 8:1 /srv /srv rw shared:5 - ext4 /dev/sda1 rw
        3 1 8:1 /srv/vol /short rw - ext4 /dev/sda1 rw
    """)
    line = "11 10 8:1 /srv/vol /a rw master:5 - ext4 /dev/sda1 rw"
    (found,) = externals(builders.table(f"{ROOT}\n{line}"), host)
    assert found.source == "/srv/vol"


def test_all_mounts_at_a_named_mountpoint_are_external() -> None:
    """CRIU looks a key up by mountpoint, so a stack of mounts is external as a whole."""
    mounts = builders.table(f"""
        {ROOT}
        11 10 8:1 /srv/vol /a rw - ext4 /dev/sda1 rw
        12 11 8:1 /srv/vol /a rw - ext4 /dev/sda1 rw
    """)
    graph = MountGraph([builders.namespace(mounts)])
    found = choose_externals(graph, MountTree(builders.table(HOST)))
    assert {node.id for node in external_nodes(graph, found)} == {11, 12}
