# SPDX-License-Identifier: Apache-2.0
"""Paths of a host that a bundle names are requests: nothing is opened or bound unasked."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
import hostile
from mountcr.errors import PlanError, RefusedError
from mountcr.kernel.live import LiveKernel
from mountcr.model import FileKind, Imported, InodeType, OpenFile, PathStat
from mountcr.operations.by_engine import ByEngine
from mountcr.operations.by_runtime import ByRuntime
from mountcr.operations.streams import opened
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.planning.records import Inherited
from mountcr.stack import Stack
from mountcr.target import Target

if TYPE_CHECKING:
    from pathlib import Path

    from mountcr.model import Facts
    from mountcr.planning.records import External

AT = KPath("/var/lib/mountcr/containers/web")
ALLOWED = Choices(allowed=(KPath("/srv/allowed"),))
DIRECTORY = PathStat(dev="8:1", ino=2, mode=0o40755, nlink=2, size=0, type=InodeType.DIRECTORY)


def imported(facts: Facts) -> Facts:
    """Facts of a container that came in a bundle."""
    stack = Stack(driver="vfs", upper=KPath(f"{AT}/upper"))
    return msgspec.structs.replace(facts, imported=Imported(at=AT, stack=stack))


def bound(source: str, fstype: str = "ext4", host: str = "") -> Facts:
    """Facts of a bundle with a bind mount at /data, of a path of its host."""
    device = "0:30" if host else "8:1"
    mount = f"11 10 {device} {source} /data rw - {fstype} x rw"
    return imported(hostile.facts(mount, host and f"{host}\n", cgroup_namespace=not host))


def at_data(facts: Facts, choices: Choices, target: Target | None = None) -> External:
    """Give the external at /data of a plan."""
    plan = make_plan(facts, choices, target=target)
    (found,) = [each for each in plan.externals if each.mountpoint == "/data"]
    return found


def targeted(facts: Facts, real: dict[str, str]) -> Target:
    """Give a target where links lead somewhere, and everything is a directory."""
    links = {KPath(path): KPath(to) for path, to in real.items()}
    sources: dict[KPath, PathStat | None] = dict.fromkeys(links.values(), DIRECTORY)
    return Target(host=facts.host, real=links, sources=sources)


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_layers_that_are_none_are_no_root(driver: str) -> None:
    """A document that was changed may say so; nothing can be mounted then."""
    own = Imported(at=AT, stack=Stack(driver=driver))
    facts = msgspec.structs.replace(bound("/srv/data"), imported=own)
    with pytest.raises(PlanError, match="imported as no directory"):
        make_plan(facts)


def test_a_source_of_a_bundle_is_asked_for() -> None:
    """Nobody has allowed it: it is named, with where it came from."""
    found = at_data(bound("/srv/data"), Choices())
    assert (found.source, found.requested) == (None, "/srv/data")


def test_a_source_in_an_allowed_directory_is_taken() -> None:
    """The user allows what is below a directory, and no name that only begins like it."""
    assert at_data(bound("/srv/allowed/a"), ALLOWED).source == "/srv/allowed/a"
    assert at_data(bound("/srv/allowed-not/a"), ALLOWED).source is None


@pytest.mark.parametrize("spelled", ["..", r"\056\056"])
def test_a_source_does_not_go_up(spelled: str) -> None:
    """Two dots lead out of an allowed directory however they are spelled."""
    assert at_data(bound(f"/srv/allowed/{spelled}/{spelled}/etc"), ALLOWED).source is None


def test_a_link_out_of_an_allowed_directory_is_not_followed() -> None:
    """What was allowed is what lies there; a link inside leads to where it leads, and is that."""
    facts = bound("/srv/allowed/a")
    out = targeted(facts, {"/srv/allowed": "/srv/allowed", "/srv/allowed/a": "/etc"})
    assert at_data(facts, ALLOWED, out).requested == "/srv/allowed/a"
    inside = targeted(facts, {"/srv/allowed": "/mnt", "/srv/allowed/a": "/mnt/b"})
    assert at_data(facts, ALLOWED, inside).source == "/mnt/b"


@pytest.mark.parametrize("fstype", ["cgroup", "cgroup2"])
def test_control_groups_lie_where_they_lie(fstype: str) -> None:
    """That a mount is called one is no reason to bind /etc."""
    facts = bound("/x", fstype, f"8 1 0:30 / /etc rw - {fstype} x rw")
    made = msgspec.structs.replace(
        facts.host, mounts=tuple(each for each in facts.host.mounts if each.id != 7)
    )
    facts = msgspec.structs.replace(facts, host=made)
    assert at_data(facts, Choices()).source is None


def outside(shown: str, fd: int = 7, kind: InodeType = InodeType.FILE, **fields: object) -> Facts:
    """Facts of a bundle with an open file that lay outside of the container."""
    stat = PathStat(dev="8:1", ino=612, mode=0o100644, nlink=1, size=0, type=kind, rdev="1:3")
    file = OpenFile(kind=FileKind.FD, shown=KPath(shown), fd=fd, mnt_id=127, stat=stat)
    file = msgspec.structs.replace(file, **fields)
    return imported(builders.facts(hostile.ROOT, files=(file,)))


@pytest.mark.parametrize("fd", [1, 7])
def test_an_open_file_of_a_bundle_is_asked_for(fd: int) -> None:
    """A file by any name, open for writing, is no file of this host: the plan is refused."""
    plan = make_plan(outside("/etc/shadow", fd, flags=os.O_RDWR))
    (found,) = plan.inherited
    assert (found.requested, found.source) == ("/etc/shadow", None)
    (refusal,) = [each for each in plan.refusals if each.rule == "M3"]
    assert refusal.mount == "/etc/shadow"


def test_an_open_file_in_an_allowed_directory_is_taken() -> None:
    """Of regular files and directories; a terminal or a disk of this host is not."""
    (found,) = make_plan(outside("/srv/allowed/log"), ALLOWED).inherited
    assert (found.requested, found.source) == (None, "/srv/allowed/log")
    facts = outside("/srv/allowed/log", kind=InodeType.BLOCK)
    assert make_plan(facts, ALLOWED).inherited[0].requested == "/srv/allowed/log"


def test_devices_that_every_host_has_are_taken() -> None:
    """/dev/null is /dev/null."""
    (found,) = make_plan(outside("/dev/null", kind=InodeType.CHARACTER)).inherited
    assert found.requested is None


def test_what_was_not_allowed_is_not_opened(tmp_path: Path) -> None:
    """Not even looked at: a FIFO would hold us."""
    os.mkfifo(tmp_path / "fifo")
    path = encode(os.fspath(tmp_path / "fifo"))
    each = Inherited(
        number=7, fd=7, pid=1, key="file[7f:264]", type=InodeType.FILE, shown=path,
        requested=path, because="it was open",
    )  # fmt: skip
    with pytest.raises(RefusedError, match=r"rule: requests"), opened((each,), "null"):
        pass


@pytest.mark.parametrize("way", [ByRuntime, ByEngine])
def test_no_runtime_is_asked_for_what_was_imported(way: type[ByRuntime | ByEngine]) -> None:
    """Its state and its bundle would lie where the document says."""
    dump = hostile.document().dump
    manifest = msgspec.structs.replace(dump, facts=imported(dump.facts))
    with pytest.raises(RefusedError, match=r"rule: ways"):
        way(manifest, make_plan(manifest.facts), "null")


@pytest.mark.parametrize("path", ["/../x", "/a/../../x", r"/\056\056/x", r"/a\057..\057..\057x"])
def test_nothing_is_made_above_a_root(path: str, tmp_path: Path) -> None:
    """A mountpoint or a control group that goes up is refused, however it is spelled."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").mkdir()
    kernel = LiveKernel()
    base = encode(os.fspath(root))
    with pytest.raises(OSError, match=r".") as caught:
        kernel.make_mountpoint(base, KPath(path), directory=True)
    assert caught.value.errno == errno.EXDEV
    with pytest.raises(OSError, match=r".") as caught:
        kernel.make_cgroup(KPath(f"{base}{path}"))
    assert caught.value.errno == errno.EXDEV
    assert os.listdir(tmp_path) == ["root"]


def test_what_an_engine_would_take_down_is_not_made() -> None:
    """A directory of another host that a document names is no directory of this one."""
    from mountcr.model import TornDown

    facts = bound("/srv/allowed/a")
    torn = TornDown(path=KPath("/srv"), type="tmpfs")
    container = msgspec.structs.replace(facts.container, torn_down=(torn,))
    facts = msgspec.structs.replace(facts, container=container)
    target = targeted(facts, {"/srv/allowed": "/srv/allowed", "/srv/allowed/a": "/srv/allowed/a"})
    rootfs = make_plan(facts, ALLOWED, target=target).rootfs
    assert rootfs is not None
    assert not [step for step in rootfs.steps if getattr(step, "at", "") == "/srv"]
