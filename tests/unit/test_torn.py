# SPDX-License-Identifier: Apache-2.0
"""What an engine takes away when its container ends is made again for what comes from it."""

from __future__ import annotations

import msgspec
import pytest

import builders
from mountcr.graph.tree import MountTree
from mountcr.model import Container, TornDown
from mountcr.paths import KPath
from mountcr.planning.planner import make_plan
from mountcr.planning.records import External
from mountcr.planning.steps import Directory, Scratch
from mountcr.planning.torn import torn_steps

ROOT = "10 5 0:50 / / rw - overlay o rw,lowerdir=/l,upperdir=/u,workdir=/w"
SHM = "12 10 0:70 / /dev/shm rw - tmpfs shm rw"
HOST = "1 0 8:1 / / rw - ext4 /dev/a rw"
HOST_SHM = "2 1 0:70 / /d/shm rw - tmpfs shm rw"
OWN = TornDown(path=KPath("/d/shm"), type="tmpfs", options="mode=1777,size=65536")


def _externals(*torn: TornDown, more: str = "") -> list[str]:
    facts = builders.facts(f"{ROOT}\n{SHM}", f"{HOST}\n{HOST_SHM}\n{more}".strip())
    container = msgspec.structs.replace(facts.container, torn_down=torn)
    return [
        each.mountpoint
        for each in make_plan(msgspec.structs.replace(facts, container=container)).externals
    ]


def test_a_tmpfs_that_goes_with_the_container_is_its_own() -> None:
    """CRIU takes its content along; that of a tmpfs of the host stays there."""
    assert _externals(OWN) == []
    assert _externals() == ["/dev/shm"]


def test_a_tmpfs_that_the_host_has_elsewhere_too_is_the_hosts() -> None:
    """Somebody else may use what is mounted at another place as well."""
    assert _externals(OWN, more="3 1 0:70 / /other rw - tmpfs shm rw") == ["/dev/shm"]


def _external(source: str) -> External:
    return External(
        mountpoint=KPath("/dev/shm"), key="shm", source=KPath(source), fstype="tmpfs", because=""
    )


def _container(torn: TornDown) -> Container:
    return Container(id="web", engine="docker", torn_down=(torn,))


def test_a_tmpfs_is_mounted_again_with_its_options() -> None:
    """Once, however many mounts come from it."""
    steps = list(
        torn_steps(
            _container(OWN),
            [_external("/d/shm"), _external("/d/shm/a")],
            MountTree(builders.table(HOST)),
        )
    )
    assert [type(each) for each in steps] == [Scratch]
    (step,) = steps
    assert isinstance(step, Scratch)
    assert (step.at, step.options) == (KPath("/d/shm"), "mode=1777,size=65536")
    assert "docker removes it" in step.because


def test_a_tmpfs_that_is_still_there_is_left_alone() -> None:
    """An engine that was stopped, or tears down later, has it mounted."""
    host = MountTree(builders.table(f"{HOST}\n{HOST_SHM}"))
    assert not list(torn_steps(_container(OWN), [_external("/d/shm")], host))


@pytest.mark.parametrize(("source", "count"), [("/b/rootfs", 1), ("/b/rootfs/x", 1), ("/b", 0)])
def test_a_directory_is_made_for_what_comes_from_it(source: str, count: int) -> None:
    """And for nothing else."""
    torn = TornDown(path=KPath("/b/rootfs"), type="directory")
    steps = list(torn_steps(_container(torn), [_external(source)], MountTree(builders.table(HOST))))
    assert [type(each) for each in steps] == [Directory] * count
