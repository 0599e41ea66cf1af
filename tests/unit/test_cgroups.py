# SPDX-License-Identifier: Apache-2.0
"""Control groups: the mode follows from host and container, directories from the mode."""

from __future__ import annotations

import msgspec
import pytest

import builders
from mountcr.criu.options import CgroupMode
from mountcr.graph.tree import MountTree
from mountcr.model import CgroupMember, Facts
from mountcr.paths import KPath
from mountcr.planning.cgroups import (
    cgroup_steps,
    choose_mode,
    layout,
    own_directories,
    source_steps,
)
from mountcr.planning.records import External

ROOT = "10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w"
V1 = """
    1 0 8:1 / / rw - ext4 /dev/sda1 rw
    2 1 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
    3 2 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
    4 2 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
    5 2 0:31 /part /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
"""
V2 = """
    1 0 8:1 / / rw - ext4 /dev/sda1 rw
    2 1 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
"""


def member(hierarchy: int, controllers: str, path: str) -> CgroupMember:
    """One line of /proc/<pid>/cgroup."""
    return CgroupMember(hierarchy=hierarchy, controllers=controllers, path=KPath(path))


def facts(host: str, ours: tuple[CgroupMember, ...], theirs: tuple[CgroupMember, ...]) -> Facts:
    """Facts of a container and an observer in these control groups."""
    whole = builders.facts(ROOT, host)
    return msgspec.structs.replace(
        whole,
        host=msgspec.structs.replace(whole.host, cgroups=ours),
        tasks=(msgspec.structs.replace(whole.tasks[0], cgroups=theirs),),
    )


OURS = (member(1, "cpu,cpuacct", "/"), member(2, "name=systemd", "/user"))
THEIRS = (member(1, "cpu,cpuacct", "/docker/abc"), member(2, "name=systemd", "/docker/abc"))
ON_V1 = facts(V1, OURS, THEIRS)
ON_V2 = facts(V2, (member(0, "", "/user"),), (member(0, "", "/web.slice/web/in"),))


def made(whole: Facts, mode: CgroupMode) -> list[str]:
    """What the steps are called, without the first words."""
    steps = cgroup_steps(whole, MountTree(whole.host.mounts), mode)
    return [step.describe().removeprefix("control group ") for step in steps]


@pytest.mark.parametrize(
    ("host", "name"), [(V1, "v1"), (V2, "v2"), (V1 + V2, "hybrid"), (ROOT, "none")]
)
def test_layout(host: str, name: str) -> None:
    """What is mounted on the host names the layout."""
    assert layout(builders.table(host)) == name


def test_recorded_hosts_are_hybrid() -> None:
    """The hosts of the captures have version 1 with a version 2 beside."""
    assert layout(builders.recorded("docker-overlay2.host")) == "hybrid"


@pytest.mark.parametrize(
    ("whole", "wanted", "mode"),
    [
        (ON_V1, None, CgroupMode.SOFT),
        (ON_V2, None, CgroupMode.SOFT),
        (facts(V1, OURS, OURS), None, CgroupMode.IGNORE),
        (facts(ROOT, OURS, THEIRS), None, CgroupMode.IGNORE),
        (facts(V1, OURS, (member(1, "cpu,cpuacct", "/"),)), None, CgroupMode.IGNORE),
        (facts(ROOT, OURS, THEIRS), CgroupMode.FULL, CgroupMode.FULL),
        (ON_V1, CgroupMode.IGNORE, CgroupMode.IGNORE),
    ],
)
def test_mode(whole: Facts, wanted: CgroupMode | None, mode: CgroupMode) -> None:
    """Groups of the container's own are managed; a choice of the user counts first."""
    chosen, because = choose_mode(whole, wanted)
    assert chosen is mode
    assert because


@pytest.mark.parametrize("mode", [CgroupMode.SOFT, CgroupMode.FULL, CgroupMode.STRICT])
def test_parents_are_made_where_criu_makes_the_rest(mode: CgroupMode) -> None:
    """CRIU fails below a directory that is not there."""
    assert made(ON_V1, mode) == [
        "/sys/fs/cgroup/cpu,cpuacct/docker",
        "/sys/fs/cgroup/systemd/docker",
    ]
    assert made(ON_V2, mode) == ["/sys/fs/cgroup/web.slice", "/sys/fs/cgroup/web.slice/web"]


@pytest.mark.parametrize("mode", [CgroupMode.NONE, CgroupMode.PROPS])
def test_all_is_made_where_criu_makes_nothing(mode: CgroupMode) -> None:
    """Parents before children."""
    assert made(ON_V2, mode) == [
        "/sys/fs/cgroup/web.slice",
        "/sys/fs/cgroup/web.slice/web",
        "/sys/fs/cgroup/web.slice/web/in",
    ]


def test_ignored_groups_need_no_directory() -> None:
    """Nothing is made where CRIU touches nothing."""
    assert made(ON_V1, CgroupMode.IGNORE) == []


def test_hierarchies_that_are_mounted_nowhere_whole() -> None:
    """A part of a hierarchy is no place to make directories in."""
    assert made(facts(V1, OURS, (member(3, "pids", "/a/b"),)), CgroupMode.SOFT) == []


def test_where_the_tasks_own_groups_are() -> None:
    """Each with its hierarchy; one that is mounted in part only is not told."""
    host = MountTree(ON_V1.host.mounts)
    assert own_directories(ON_V1, host) == {
        "/sys/fs/cgroup/cpu,cpuacct/docker/abc": "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup/systemd/docker/abc": "/sys/fs/cgroup/systemd",
    }


@pytest.mark.parametrize(
    ("mode", "paths"),
    [(CgroupMode.IGNORE, ["/docker", "/docker/abc"]), (CgroupMode.SOFT, [])],
)
def test_groups_that_are_mounted_are_made_where_criu_makes_none(
    mode: CgroupMode, paths: list[str]
) -> None:
    """What an engine bound into the container is there again, whoever makes it."""
    external = External(
        mountpoint=KPath("/sys/fs/cgroup/cpu"),
        key="cpu",
        source=KPath("/sys/fs/cgroup/cpu,cpuacct/docker/abc"),
        fstype="cgroup",
        because="",
    )
    steps = source_steps(ON_V1, MountTree(ON_V1.host.mounts), mode, [external])
    top = "control group /sys/fs/cgroup/cpu,cpuacct"
    assert [step.describe() for step in steps] == [f"{top}{path}" for path in paths]
