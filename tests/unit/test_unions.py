# SPDX-License-Identifier: Apache-2.0
"""Overlays inside of a container: where their directories are, and what assembles them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.model import MountNamespace
from mountcr.paths import KPath
from mountcr.planning.planner import make_plan
from mountcr.planning.steps import Directory, Overlay, Scratch
from mountcr.planning.unions import directories_on_host

if TYPE_CHECKING:
    from mountcr.model import Facts
    from mountcr.planning.records import External, Plan

ROOT = "10 1 0:50 / / rw - overlay o rw,lowerdir=/l,upperdir=/u,workdir=/w"
HOST = "1 0 8:1 / / rw - ext4 /dev/sda1 rw"


def facts(*lines: str, inside: tuple[str, ...] = (), outside: tuple[str, ...] = ()) -> Facts:
    """Give facts whose overlays but the root have directories in the container or on the host."""
    found = builders.facts(
        builders.table("\n".join((ROOT, *lines))), builders.table(HOST), cgroup_namespace=True
    )
    mounts = tuple(
        msgspec.structs.replace(
            mount,
            layers_inside=tuple(map(KPath, inside)),
            layers_outside=tuple(map(KPath, outside)),
        )
        if mount.fstype == "overlay" and mount.mountpoint != "/"
        else mount
        for mount in found.namespaces[0].mounts
    )
    namespace = MountNamespace(id=builders.CONTAINER_NS, pid=builders.ROOT_PID, mounts=mounts)
    return msgspec.structs.replace(found, namespaces=(namespace,))


def overlay(at: str, options: str, identity: int = 20) -> str:
    """Give the line of an overlay on the root."""
    return f"{identity} 10 0:{identity} / {at} rw - overlay overlay rw,{options}"


def external(plan: Plan, mountpoint: str) -> External:
    """Give the external at a mountpoint."""
    (found,) = (each for each in plan.externals if each.mountpoint == mountpoint)
    return found


def mounted(plan: Plan) -> list[Overlay]:
    """Give the steps that mount overlays in the container, without the root's."""
    assert plan.rootfs
    steps = plan.rootfs.steps
    return [step for step in steps if isinstance(step, Overlay) and "/unions/" in step.at]


LAYERS = "lowerdir=/a:/b,upperdir=/c,workdir=/d"
ALL = ("/a", "/b", "/c", "/d")


def test_directories_in_the_root() -> None:
    """They are found where the root is assembled; scratch space and a directory come first."""
    plan = make_plan(facts(overlay("/o", LAYERS), inside=ALL))
    found = external(plan, "/o")
    assert found.source == "/run/mountcr/unions/0"
    assert directories_on_host(found) == ()
    (step,) = mounted(plan)
    assert step.lowers == ("/run/mountcr/root/a", "/run/mountcr/root/b")
    assert (step.upper, step.work) == ("/run/mountcr/root/c", "/run/mountcr/root/d")
    assert plan.rootfs
    scratch, directory = plan.rootfs.steps[plan.rootfs.steps.index(step) - 2 :][:2]
    assert isinstance(scratch, Scratch)
    assert isinstance(directory, Directory)
    assert plan.verdict == "ok"
    assert "mnt[o]:/run/mountcr/unions/0" in plan.criu.restore


def test_directories_on_the_host() -> None:
    """Paths that an engine mounted are the host's."""
    plan = make_plan(facts(overlay("/o", LAYERS), outside=ALL))
    (step,) = mounted(plan)
    assert step.lowers == ("/a", "/b")
    assert directories_on_host(external(plan, "/o")) == ("/c", "/a", "/b", "/d")


def test_the_container_comes_before_the_host() -> None:
    """What is in both is taken from where the overlay is."""
    plan = make_plan(facts(overlay("/o", LAYERS), inside=ALL, outside=ALL))
    assert mounted(plan)[0].lowers[0] == "/run/mountcr/root/a"


def test_directories_in_a_volume() -> None:
    """They are found in what the volume comes from."""
    volume = "11 10 8:1 /srv/data /v rw - ext4 /dev/sda1 rw"
    options = "lowerdir=/v/x,upperdir=/v/u,workdir=/v/w"
    plan = make_plan(facts(volume, overlay("/o", options), inside=("/v/x", "/v/u", "/v/w")))
    (step,) = mounted(plan)
    assert (step.lowers, step.upper) == (("/srv/data/x",), "/srv/data/u")


def test_directories_that_criu_brings_back() -> None:
    """On a tmpfs of the container they are not there in time: O1, and nothing is assembled."""
    tmpfs = "11 10 0:60 / /t rw - tmpfs t rw"
    plan = make_plan(facts(tmpfs, overlay("/o", "lowerdir=/t/a:/t/b"), inside=("/t/a", "/t/b")))
    assert [(each.rule, each.mount) for each in plan.refusals] == [("O1", "/o")]
    assert external(plan, "/o").source is None
    assert mounted(plan) == []


def test_directories_that_are_nowhere() -> None:
    """What was covered or moved since is found neither in the container nor on the host."""
    plan = make_plan(facts(overlay("/o", LAYERS)))
    assert [each.rule for each in plan.refusals] == ["O1"]


def test_an_overlay_of_an_overlay() -> None:
    """The one below is assembled first, whatever the order of the table."""
    above = overlay("/above", "lowerdir=/o/x:/a", 20)
    below = overlay("/o", "lowerdir=/a:/b", 21)
    plan = make_plan(facts(above, below, inside=("/o/x", "/a", "/b")))
    first, second = mounted(plan)
    assert first.at == external(plan, "/o").source
    assert second.lowers[0] == f"{first.at}/x"


def test_parts_of_one_overlay() -> None:
    """Two binds of one overlay are bound from one that is assembled once."""
    lines = [
        "20 10 0:20 /x /o rw - overlay overlay rw,lowerdir=/a:/b",
        "21 10 0:20 /y /p rw - overlay overlay rw,lowerdir=/a:/b",
    ]
    plan = make_plan(facts(*lines, inside=("/a", "/b")))
    assert len(mounted(plan)) == 1
    assert external(plan, "/o").source == "/run/mountcr/unions/0/x"
    assert external(plan, "/p").source == "/run/mountcr/unions/0/y"


@pytest.mark.parametrize("inside", [(), ("/run/mountcr/root/a",)])
def test_what_an_earlier_restore_assembled(inside: tuple[str, ...]) -> None:
    """The place of the root stands for the root, so that a container can be dumped again."""
    options = "lowerdir+=/run/mountcr/root/a,lowerdir+=/run/mountcr/root/b"
    plan = make_plan(facts(overlay("/o", options), inside=inside))
    (step,) = mounted(plan)
    assert step.lowers == ("/run/mountcr/root/a", "/run/mountcr/root/b")


def test_a_source_of_the_user_wins() -> None:
    """With --bind nothing is assembled."""
    from mountcr.planning.choices import Choices

    choices = Choices(binds={KPath("/o"): KPath("/srv/o")})
    plan = make_plan(facts(overlay("/o", LAYERS), inside=ALL), choices)
    assert external(plan, "/o").source == "/srv/o"
    assert mounted(plan) == []
