# SPDX-License-Identifier: Apache-2.0
"""
What the shell script docker_cr.sh of CRIU's contrib directory does wrong is done right here.

One test, or a few, for each of its fifteen known defects, in their order. What takes a kernel or a
CRIU to show is in the files of the same name below tests/privileged and tests/e2e.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

import builders
from mountcr.aufsopts import AufsOptions, Branch, format_options
from mountcr.cli import main
from mountcr.driver import get_driver, recognise
from mountcr.graph.tree import MountTree
from mountcr.model import Facts, InodeType, PathStat
from mountcr.observation.aufs import branches_in_sysfs
from mountcr.paths import KPath
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.planning.rootfs import plan_rootfs
from mountcr.planning.steps import Aufs, Bind, Overlay, Propagation
from mountcr.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mountcr.planning.records import Plan

AT: Final = KPath("/at")
HOST: Final = "1 0 8:1 / / rw - ext4 /dev/sda1 rw"
PROC: Final = "9 10 0:49 / /proc rw - proc proc rw"
ROOT: Final = "10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l2:/l1,upperdir=/u,workdir=/w"

DOCKER: Final = (
    "br:/var/lib/docker/aufs/diff/web=rw:/var/lib/docker/aufs/diff/web-init=ro+wh"
    ":/var/lib/docker/aufs/diff/base=ro+wh,dio,dirperm1,xino=/dev/shm/aufs.xino"
)
"""What Docker 20.10 mounts a container of one layer with."""


def aufs_root(files: dict[str, bytes], options: str = "rw,si=12") -> Facts:
    """A container on AUFS, of which sysfs has these files."""
    (root,) = builders.table(f"10 5 0:50 / / rw - aufs none {options}")
    root = msgspec.structs.replace(root, branches=branches_in_sysfs(files))
    return builders.facts((root, builders.mount(PROC)), HOST)


def aufs_step(facts: Facts) -> Aufs:
    """How its root is mounted again."""
    plan = make_plan(facts)
    assert plan.rootfs is not None
    (step,) = [each for each in plan.rootfs.steps if isinstance(each, Aufs)]
    return step


def planned(*lines: str, host: str = HOST, root: str = ROOT, **more: object) -> Plan:
    """The plan for a container with some mounts."""
    return make_plan(builders.facts("\n".join([root, PROC, *lines]), host), **more)  # type: ignore[arg-type]


def test_1_branch_order_above_ten() -> None:
    """br10 lies below br9, not below br1; the mount has the branches in the order of the kernel."""
    names = ["/u", *(f"/l{number}" for number in range(1, 13))]
    files = {
        f"br{number}": f"{name}={'ro+wh' if number else 'rw'}\n".encode()
        for number, name in enumerate(names)
    }
    assert sorted(files) != list(files)
    step = aufs_step(aufs_root(dict(sorted(files.items()))))
    assert list(step.branches) == names
    (data,) = format_options(
        AufsOptions(branches=tuple(map(Branch, step.branches, step.permissions)))
    )
    assert data.index(b"/l9=") < data.index(b"/l10=")


def test_2_branch_permissions_xino_and_dirperm1() -> None:
    """What is mounted is what Docker mounted, word for word: whiteouts of lower layers count."""
    listed, *others = DOCKER.split(",")
    branches = listed.removeprefix("br:").split(":")
    files = {f"br{number}": f"{each}\n".encode() for number, each in enumerate(branches)}
    files["xi_path"] = b"/dev/shm/aufs.xino\n"
    step = aufs_step(aufs_root(files, "rw,si=12,dio,dirperm1"))
    assert sorted(step.options) == sorted(others)
    again = AufsOptions(
        branches=tuple(map(Branch, step.branches, step.permissions)), others=step.options
    )
    assert format_options(again) == (DOCKER.encode(),)


@pytest.mark.parametrize(
    ("name", "driver", "layers"),
    [
        ("docker-overlay2", "overlay", 4),
        ("docker26-overlay2", "overlay", 4),
        ("docker-btrfs", "vfs", 0),
        ("docker-vfs", "vfs", 0),
    ],
)
def test_3_storage_drivers_of_docker(name: str, driver: str, layers: int) -> None:
    """Recorded containers on overlay2, btrfs and vfs have a root that can be rebuilt."""
    plan = make_plan(builders.facts(builders.recorded(name), builders.recorded(f"{name}.host")))
    assert plan.verdict != "refused"
    assert plan.rootfs is not None
    assert (plan.rootfs.driver, len(plan.rootfs.layers)) == (driver, layers)
    assert plan.rootfs.upper
    assert "/docker" in plan.rootfs.upper or "/dkdata" in plan.rootfs.upper
    assert plan.rootfs.steps


@pytest.mark.parametrize(
    ("root", "mounted"),
    [
        (
            "10 5 0:39 / / rw - zfs tank/docker/4f2 rw",
            "2 1 0:39 / /d/zfs/graph/4f2 rw - zfs tank/docker/4f2 rw",
        ),
        (
            "10 5 253:4 /rootfs / rw - ext4 /dev/mapper/docker-8:1-131-4f2 rw",
            "2 1 253:4 / /d/devicemapper/mnt/4f2 rw - ext4 /dev/mapper/docker-8:1-131-4f2 rw",
        ),
    ],
    ids=["zfs", "devicemapper"],
)
def test_3_storage_drivers_without_a_union(root: str, mounted: str) -> None:
    """The root is a directory of what the graph driver has mounted on the host."""
    plan = planned(root=root, host=f"{HOST}\n{mounted}")
    assert plan.rootfs is not None
    assert plan.rootfs.driver == "vfs"
    wanted = "/d/zfs/graph/4f2" if "zfs" in root else "/d/devicemapper/mnt/4f2/rootfs"
    assert plan.rootfs.upper == wanted


NESTED: Final = "11 10 0:51 / /in rw - overlay overlay rw,lowerdir=/n2:/n1,upperdir=/nu,workdir=/nw"
TWICE: Final = ROOT.replace("10 5 0:50 / / ", "12 10 0:50 / /again ")


@pytest.mark.parametrize(
    ("options", "lowers"),
    [
        ("lowerdir=/l2:/l1,upperdir=/u,workdir=/w", ["/l2", "/l1"]),
        (r"lowerdir=/a\134\054b:/c\134:d,upperdir=/u,workdir=/w", ["/a,b", "/c:d"]),
        ("lowerdir+=/l2,lowerdir+=/l1,upperdir=/u,workdir=/w", ["/l2", "/l1"]),
    ],
    ids=["list", "escaped", "one by one"],
)
def test_4_layers_come_from_the_mount_and_from_no_log(options: str, lowers: list[str]) -> None:
    """
    The root's own layers, in whatever spelling, and not those of an overlay in the container.

    All that is known goes from one host to another in a document; nothing is searched for in text.
    """
    root = f"10 5 0:50 / / rw - overlay overlay rw,{options}"
    facts = builders.facts(f"{root}\n{PROC}\n{NESTED}\n{TWICE}", HOST)
    elsewhere = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)
    plan = make_plan(elsewhere)
    assert plan.rootfs is not None
    first = plan.rootfs.steps[0]
    assert isinstance(first, Overlay)
    assert list(first.lowers) == lowers
    assert (first.upper, first.work) == ("/u", "/w")
    assert "\n" not in json.dumps(plan.rootfs.layers)


@pytest.mark.parametrize(
    ("lower", "named"),
    [("l/ABC:l/DEF", "l/ABC"), ("12/fs:11/fs", "12/fs"), ("3:4:5", "3")],
    ids=["docker", "containerd", "containers/storage"],
)
def test_5_relative_layers_are_never_taken_for_paths(lower: str, named: str) -> None:
    """
    What is relative to a directory that nobody tells, or a number, is refused by its name.

    It would be another directory, or none, from wherever it is mounted again.
    """
    plan = planned(root=ROOT.replace("/l2:/l1", lower))
    assert plan.verdict == "refused"
    (found, *_) = [each for each in plan.refusals if each.rule == "M6"]
    assert found.mount == named
    assert found.cure


def test_6_volumes_and_binds_of_the_user() -> None:
    """All that comes from outside is declared, with its source: no list of names decides."""
    binds = {
        "/data": "/var/lib/docker/volumes/v/_data",
        "/srv/my\\040files": "/home/me/files",
        "/etc/resolv.conf": "/var/lib/docker/containers/web/resolv.conf",
        "/run/secrets/key": "/run/keys/key",
    }
    lines = [
        f"{number} 10 8:1 {source} {target} rw - ext4 /dev/sda1 rw"
        for number, (target, source) in enumerate(binds.items(), 20)
    ]
    plan = planned(*lines)
    assert {each.mountpoint: each.source for each in plan.externals} == binds
    assert plan.verdict == "ok"
    given = [each for each in plan.criu.dump if each.startswith("mnt[")]
    assert [each.partition("]")[0] for each in given] == [f"mnt[{target}" for target in binds]


def test_7_dockerinit_is_a_bind_like_any_other() -> None:
    """A Docker that has none is no error; where it is, it is where the mount table says."""
    assert "dockerinit" not in repr(planned())
    line = "20 10 8:1 /var/lib/docker/init/dockerinit-1.9.1 /.dockerinit ro - ext4 /dev/sda1 rw"
    (external,) = planned(line).externals
    assert external.source == "/var/lib/docker/init/dockerinit-1.9.1"


@pytest.mark.parametrize(
    "mountpoint", ["/srv/aXb", "/srv/a.b/c", "/srv", "/x/srv/a.b", "/srv/a.b-init", "/srv/a"]
)
def test_8_a_mountpoint_is_compared_whole(mountpoint: str) -> None:
    """A path that looks like it, is part of it or fits it as a pattern is another place."""
    host = MountTree(builders.table(f"{HOST}\n2 1 0:70 / {mountpoint} rw - tmpfs t rw"))
    assert host.at(KPath("/srv/a.b")) == ()
    assert [each.mountpoint for each in host.at(KPath(mountpoint))] == [mountpoint]


def test_8_a_root_that_is_mounted_is_found_by_what_it_is() -> None:
    """The same stack is bound; another one at a place of a similar name is not taken for it."""
    stack = recognise(builders.mount(ROOT), MountTree(()))
    assert stack is not None
    line = ROOT.replace("10 5 0:50 / / ", "2 1 0:50 / /d/merged ")
    other = line.replace("/u,", "/u2,").replace("2 1 0:50 / /d/merged", "3 1 0:52 / /d/merged2")
    for host, kind in ((f"{HOST}\n{line}\n{other}", Bind), (f"{HOST}\n{other}", Overlay)):
        tree = MountTree(builders.table(host))
        rootfs = plan_rootfs(stack, AT, tree, Choices(), container="web", root=None)
        assert isinstance(rootfs.steps[0], kind)


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Give a function that runs the command line on facts, or on words as they are."""

    def call(facts: Facts | None, *words: str) -> tuple[int, str]:
        path = tmp_path / "facts.json"
        path.write_bytes(msgspec.json.encode(facts))
        try:
            status = main([str(path) if each == "FACTS" else each for each in words])
        except SystemExit as stop:
            status = int(str(stop.code))
        return status, capfd.readouterr().out

    return call


def test_9_no_engine_is_asked(tmp_path: Path) -> None:
    """On a host with no docker, no daemon and no container there is a plan all the same."""
    path = tmp_path / "facts.json"
    recorded = builders.facts(
        builders.recorded("docker-overlay2"), builders.recorded("docker-overlay2.host")
    )
    path.write_bytes(msgspec.json.encode(recorded))
    done = subprocess.run(
        [sys.executable, "-m", "mountcr", "plan", str(path), "--json"],
        env={"PATH": "/nonexistent"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["rootfs"]["driver"] == "overlay"


@pytest.mark.parametrize("driver", ["aufs", "overlay"])
def test_10_what_was_mounted_can_be_undone(driver: str) -> None:
    """Each step that mounts the union knows how it is unmounted; on a failure that is done."""
    from mountcr.execute import Recorder, applied

    root = ROOT if driver == "overlay" else "10 5 0:50 / / rw - aufs none rw,br:/u=rw:/l=ro+wh"
    stack = recognise(builders.mount(root), MountTree(()))
    assert stack is not None
    recorder = Recorder()
    with (
        pytest.raises(RuntimeError),
        applied(get_driver(driver).assemble(stack, AT), recorder),
    ):
        raise RuntimeError
    assert recorder.calls[-1] == ("unmount", "/at")


VOLUME: Final = "20 10 8:1 /srv/vol /data rw - ext4 /dev/sda1 rw"
FILE: Final = PathStat(dev="8:1", ino=3, mode=0o100644, nlink=1, size=0, type=InodeType.FILE)


def test_11_a_key_names_the_same_mount_in_both_directions() -> None:
    """Mountpoint to key at the dump, key to source at the restore; no two mounts share a key."""
    other = "21 10 8:1 /srv/b /data-b rw - ext4 /dev/sda1 rw"
    plan = planned(VOLUME, other, "22 10 8:1 /srv/c /data/b rw - ext4 /dev/sda1 rw")
    keys = [each.key for each in plan.externals]
    assert len(set(keys)) == len(keys) == 3
    for external in plan.externals:
        assert external.key != external.mountpoint
        assert f"mnt[{external.mountpoint}]:{external.key}" in plan.criu.dump
        assert f"mnt[{external.key}]:{external.source}" in plan.criu.restore


@pytest.mark.parametrize("stat", [None, FILE], ids=["missing", "file"])
def test_11_a_source_that_is_missing_or_of_another_type(stat: PathStat | None) -> None:
    """It is found before anything is restored, and said with the option that helps."""
    *others, volume = builders.table(f"{ROOT}\n{PROC}\n{VOLUME}")
    volume = msgspec.structs.replace(volume, type=InodeType.DIRECTORY)
    facts = builders.facts((*others, volume), HOST)
    target = Target(host=facts.host, sources={KPath("/srv/vol"): stat})
    (found,) = [each for each in make_plan(facts, target=target).refusals if each.rule == "M3"]
    assert found.mount == "/data"
    assert "/srv/vol" in found.message
    assert "--bind /data=" in found.cure


def test_12_recorded_mounts_of_docker_are_all_handled() -> None:
    """Its tmpfs, shared memory, masked paths, devices and the propagation of its root."""
    mounts = builders.recorded("docker-overlay2")
    plan = make_plan(builders.facts(mounts, builders.recorded("docker-overlay2.host")))
    assert plan.refusals == ()
    places = {each.mountpoint for each in mounts}
    assert {"/dev/shm", "/scratch", "/proc/keys", "/proc/acpi", "/sys/firmware"} <= places
    external = {each.mountpoint for each in plan.externals}
    # what the container has of its own CRIU brings back; declared, it would be the host's
    assert external & {"/dev/shm", "/scratch", "/proc/keys", "/proc/acpi", "/sys/firmware"} == set()
    assert plan.rootfs is not None
    shared = [each for each in plan.rootfs.steps if isinstance(each, Propagation)]
    assert [each.propagation for each in shared] == ["shared"]


def test_12_devices_and_slaves_of_the_host() -> None:
    """A device and a slave are externals, a slave one that receives; each is known by its type."""
    lines = [
        "20 10 0:6 /null /proc/kcore rw - devtmpfs udev rw",
        "21 10 8:1 /srv/in /in rw master:4 - ext4 /dev/sda1 rw",
    ]
    plan = planned(*lines, host=f"{HOST}\n2 1 0:6 / /dev rw - devtmpfs udev rw")
    assert {each.mountpoint: each.source for each in plan.externals} == {
        "/proc/kcore": "/dev/null",
        "/in": "/srv/in",
    }
    assert not plan.refusals
    assert [each.cured for each in plan.findings if each.rule == "S1"] == [True]


def test_14_every_long_option_is_one_option(run: Callable[..., tuple[int, str]]) -> None:
    """What the help of each command shows is an option each, not a list of them in one word."""
    _, out = run(None, "--help")
    commands = re.findall(r"^    ([a-z]+) ", out, re.MULTILINE)
    assert {"plan", "dump", "restore"} <= set(commands)
    for command in commands:
        status, out = run(None, command, "--help")
        assert status == 0
        options = re.findall(r"^  (?:-\w,? )?(--\S+)", out, re.MULTILINE)
        assert all(re.fullmatch(r"--[a-z][a-z-]*,?", each) for each in options), options
        assert command not in {"plan", "dump", "restore"} or options


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_14_long_options_work(option: str, run: Callable[..., tuple[int, str]]) -> None:
    """In full, as documented."""
    status, out = run(None, option)
    assert status == 0
    assert "mountcr" in out


def test_15_the_exit_status_says_what_happened(run: Callable[..., tuple[int, str]]) -> None:
    """Done, wrong words, not found, refused: each has its own, and standard output stays clean."""
    fine = builders.facts(f"{ROOT}\n{PROC}", HOST)
    refused = builders.facts(f"{ROOT.replace('/l2:/l1', 'l/ABC')}\n{PROC}", HOST)
    assert run(fine, "plan", "FACTS")[0] == 0
    assert run(fine, "plan", "FACTS", "--no-such-option") == (2, "")
    assert run(fine, "plan", "pid:2147483647") == (3, "")
    assert run(refused, "plan", "FACTS")[0] == 4


def test_15_machines_can_read_what_happened(run: Callable[..., tuple[int, str]]) -> None:
    """A plan is a document with a schema, and nothing stands around it."""
    status, out = run(builders.facts(f"{ROOT}\n{PROC}\n{VOLUME}", HOST), "plan", "FACTS", "--json")
    document = json.loads(out)
    assert status == 0
    assert document["schema"] == "mountcr/plan/1"
    assert document["verdict"] == "ok"
    assert [each["mountpoint"] for each in document["externals"]] == ["/data"]
    assert document["criu"]["dump"]
    assert document["rootfs"]["layers"] == ["/l2", "/l1"]
