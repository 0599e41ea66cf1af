# SPDX-License-Identifier: Apache-2.0
"""The planner is a function of facts: the same plan everywhere, without a look at the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.criu.options import CgroupMode
from mountcr.graph import MountGraph
from mountcr.model import Criu, Facts, InodeType, PathStat
from mountcr.paths import KPath
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan, needed_mountpoints
from mountcr.planning.records import Plan
from mountcr.planning.steps import Mountpoint, Propagation
from mountcr.target import Target

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["docker-overlay2", "podman-fuse", "runc-vfs", "crun-overlay", "docker-btrfs"]

ROOT = "10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w"
HOST = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw"
DIRECTORY = PathStat(dev="8:1", ino=2, mode=0o40755, nlink=2, size=0, type=InodeType.DIRECTORY)


def recorded_facts(name: str) -> Facts:
    """Facts of a recorded container."""
    return builders.facts(builders.recorded(name), builders.recorded(f"{name}.host"))


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_goes_to_json_and_back(name: str) -> None:
    """The plan is the hand-over to other tools: nothing of it is lost in JSON."""
    plan = make_plan(recorded_facts(name))
    copy = msgspec.json.decode(msgspec.json.encode(plan), type=Plan)
    assert copy == plan
    assert json.loads(msgspec.json.encode(plan))["schema"] == "mountcr/plan/1"


@pytest.mark.parametrize("name", NAMES)
def test_facts_of_another_machine_plan_as_the_live_ones(name: str) -> None:
    """What goes through a facts file gives the plan that the facts themselves give."""
    facts = recorded_facts(name)
    copy = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)
    assert make_plan(copy) == make_plan(facts)


AUDIT = """
    import os, sys
    import msgspec
    from mountcr.model import Facts
    from mountcr.planning.choices import Choices
    from mountcr.planning.planner import make_plan

    facts = msgspec.json.decode(sys.stdin.buffer.read(), type=Facts)
    make_plan(facts)  # the rules are read and the drivers found when they are first needed

    def refuse(event, arguments):
        if event.startswith(("open", "os.", "subprocess.", "socket.", "shutil.", "import")):
            raise AssertionError(f"a plan did {event} {arguments}")

    sys.addaudithook(refuse)
    plan = make_plan(facts)
    for choices in (Choices(readonly=True), Choices(upper="/new")):
        make_plan(facts, choices)
    for driver in ("overlay", "vfs", "aufs", "unionfs", "fuse-overlayfs"):
        make_plan(facts, Choices(driver=driver))
    sys.stdout.write(plan.verdict)
"""


@pytest.mark.parametrize("name", NAMES)
def test_planning_touches_nothing(name: str, tmp_path: Path) -> None:
    """Once the rules and drivers are loaded, a plan opens, runs, connects and imports nothing."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AUDIT)],
        input=msgspec.json.encode(recorded_facts(name)),
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == make_plan(recorded_facts(name)).verdict


def test_the_first_plan_opens_nothing_of_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No path that the facts name is looked at: they are paths of another machine."""
    seen: list[str] = []
    facts = recorded_facts("docker-overlay2")
    for function in ("stat", "lstat", "open", "readlink", "listdir", "scandir"):
        real = getattr(os, function)

        def spy(path: object, *rest: object, _real: object = real, **more: object) -> object:
            seen.append(os.fsdecode(path) if isinstance(path, (str, bytes)) else str(path))
            assert callable(_real)
            return _real(path, *rest, **more)

        monkeypatch.setattr(os, function, spy)
    make_plan(facts)
    monkeypatch.undo()
    assert [path for path in seen if "docker" in path or path.startswith("/srv")] == []


def test_externals_are_told_on_both_sides() -> None:
    """At the dump by mountpoint, at the restore by source, under one key."""
    plan = make_plan(builders.facts(f"{ROOT}\n11 10 8:1 /srv/v /data rw - ext4 /dev/sda1 rw", HOST))
    assert plan.criu.dump_options.externals == ("mnt[/data]:data",)
    assert plan.criu.restore_options.externals == ("mnt[data]:/srv/v",)
    assert {each.option for each in plan.criu.reasons} >= {"--external mnt[/data]:data"}
    assert all(each.because for each in plan.criu.reasons)


def test_an_external_without_a_source_is_told_at_the_dump_only() -> None:
    """CRIU is given no path that is none."""
    plan = make_plan(builders.facts(f"{ROOT}\n11 10 8:9 / /data rw - xfs /dev/sdi1 rw", HOST))
    assert plan.criu.dump_options.externals == ("mnt[/data]:data",)
    assert plan.criu.restore_options.externals == ()


def test_what_the_user_says_counts() -> None:
    """Sources, cgroup mode, images, extra words: taken as they are given."""
    facts = builders.facts(f"{ROOT}\n11 10 8:1 /srv/v /data rw - ext4 /dev/sda1 rw", HOST)
    choices = Choices(
        images=KPath("/img"),
        binds={KPath("/data"): KPath("/else")},
        cgroups=CgroupMode.STRICT,
        extra=("--ghost-limit", "2M"),
    )
    plan = make_plan(facts, choices)
    assert plan.externals[0].source == "/else"
    assert "mnt[data]:/else" in plan.criu.restore_args()
    assert "--manage-cgroups=strict" in plan.criu.dump_args()
    assert plan.criu.dump_args()[-2:] == ["--ghost-limit", "2M"]
    assert "/img" in plan.criu.restore_args()


def test_the_command_is_the_one_of_the_host() -> None:
    """The command lines begin with the CRIU that was found on the host of the facts."""
    facts = builders.facts(ROOT, HOST)
    host = msgspec.structs.replace(facts.host, criu=Criu(command=("/opt/criu",), version="4.1"))
    assert make_plan(msgspec.structs.replace(facts, host=host)).criu.dump_args()[0] == "/opt/criu"
    assert make_plan(facts).criu.dump_args()[0] == "criu"


def test_bytes_that_are_not_utf8() -> None:
    """A path of any bytes goes through the plan, its command line and JSON."""
    line = r"11 10 8:1 /srv/\xff\040v /d\xff rw - ext4 /dev/sda1 rw".replace(r"\xff", "\udcff")
    text = f"{ROOT}\n{line}\n".encode("utf-8", "surrogateescape")
    mounts = builders.parse(text)
    plan = make_plan(builders.facts(mounts, HOST))
    assert plan.externals[0].source == r"/srv/\xff\040v"
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_mountpoints_that_a_restore_needs() -> None:
    """Those on the root and on externals; mounts on what CRIU fills need none."""
    mounts = builders.table(f"""
        {ROOT}
        11 10 0:60 / /dev rw - tmpfs tmpfs rw
        12 11 0:61 / /dev/pts rw - devpts devpts rw
        13 10 8:1 /srv/v /data rw - ext4 /dev/sda1 rw
        14 13 0:62 / /data/in/it rw - tmpfs t rw
        15 13 8:1 /srv/v/x /data/x rw - ext4 /dev/sda1 rw
    """)
    plan = make_plan(builders.facts(mounts, HOST))
    needed = needed_mountpoints(MountGraph([builders.namespace(mounts)]), plan.externals)
    assert [(each and each.mountpoint, path) for each, path, _ in needed] == [
        (None, "/dev"),
        (None, "/data"),
        ("/data", "/in/it"),
        ("/data", "/x"),
    ]


def test_steps_of_a_restore() -> None:
    """Missing mountpoints, those inside of externals, and peer groups for slaves."""
    mounts = builders.table(f"""
        {ROOT}
        13 10 8:1 /srv/v /data rw master:1 - ext4 /dev/sda1 rw
        14 13 0:62 / /data/in rw - tmpfs t rw
    """)
    facts = builders.facts(mounts, HOST)
    target = Target(
        host=builders.facts(ROOT, HOST.replace(" shared:1", "")).host,
        layers={KPath("/l"): DIRECTORY, KPath("/u"): DIRECTORY},
        sources={KPath("/srv/v"): DIRECTORY},
        mountpoints={KPath("/data"): None},
    )
    plan = make_plan(facts, target=target, at=KPath("/at"))
    assert plan.rootfs is not None
    words = [step.describe() for step in plan.rootfs.steps]
    assert words == [
        "overlay of 1 lower at /at, upper /u",
        "mountpoint /data (directory) in /at",
        "mountpoint /in (directory) in /srv/v",
        "propagation shared of /",
    ]
    assert all(step.because for step in plan.rootfs.steps)
    dump = make_plan(facts)
    assert dump.rootfs is not None
    assert not any(isinstance(each, Mountpoint | Propagation) for each in dump.rootfs.steps)


def test_a_container_that_does_not_run() -> None:
    """Without mounts there are no externals, and the root is the directory of the engine."""
    facts = builders.facts(ROOT, HOST, rootfs=KPath("/bundle/rootfs"))
    plan = make_plan(msgspec.structs.replace(facts, tasks=(), namespaces=()))
    assert plan.externals == ()
    assert plan.rootfs is not None
    assert (plan.rootfs.driver, plan.rootfs.upper) == ("vfs", "/bundle/rootfs")


def test_a_task_in_the_mount_namespace_of_the_host() -> None:
    """CRIU dumps no mounts there, so that there are no externals and there is no root."""
    facts = builders.facts(f"{ROOT}\n11 10 8:1 /srv/v /data rw - ext4 /dev/sda1 rw", HOST)
    host = msgspec.structs.replace(facts.host, namespaces={"mnt": builders.CONTAINER_NS})
    plan = make_plan(msgspec.structs.replace(facts, host=host))
    assert (plan.externals, plan.rootfs, plan.verdict) == ((), None, "ok")
    assert plan.criu.restore_options.root is None
