# SPDX-License-Identifier: Apache-2.0
"""
CRIU is the judge of the rules about mounts: each on a container that breaks it.

CRIU is run by hand with what the plan says, without the cure. Where a rule says that it refuses,
it does with that message; where a rule announces a loss, that is what differs afterwards.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from e2e.test_rules_judged import matches, refusals
from mountcr.demo.launch import BindMount, Tmpfs
from mountcr.graph.diff import diff
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.private import in_namespace_of
from mountcr.mountinfo import parse_table
from mountcr.overlayopts import OverlayOptions
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.conftest import Place

MOVE_MOUNT_SET_GROUP = 0x100


def tmpfs(at: str, source: str = "t", flags: int = 0) -> None:
    """Mount a tmpfs in the container that the caller is in."""
    os.makedirs(at, exist_ok=True)
    syscalls.mount(os.fsencode(source), os.fsencode(at), b"tmpfs", flags, b"")


def bind(source: str, at: str) -> None:
    """Bind a directory or a file there."""
    if os.path.isdir(source):
        os.makedirs(at, exist_ok=True)
    else:
        Path(at).touch()
    syscalls.mount(os.fsencode(source), os.fsencode(at), b"", syscalls.MS_BIND, b"")


def make(at: str, propagation: str) -> None:
    """Change the propagation of a mount there."""
    mounts.set_propagation(encode(at), propagation)


def join_group(member: str, at: str) -> None:
    """Give a mount the propagation of another one, which mount(2) cannot."""
    here = syscalls.AT_FDCWD
    syscalls.move_mount(here, os.fsencode(member), here, os.fsencode(at), MOVE_MOUNT_SET_GROUP)


def steps(*works: Callable[[], object]) -> Callable[[], None]:
    """Do one after the other."""

    def work() -> None:
        for each in works:
            each()

    return work


def deleted(kind: str, *places: str) -> None:
    """Bind something and unlink it."""
    source = "/var/gone"
    if kind == "file":
        Path(source).write_text("kept open by mounts\n")
    else:
        os.makedirs(source)
    for place in places:
        bind(source, place)
    (os.unlink if kind == "file" else os.rmdir)(source)


def nested_overlay(lower: str = "/var/lower") -> None:
    """Mount an overlay of directories of the container."""
    for name in (lower, "/var/below", "/o"):
        os.makedirs(name)
    options = f"lowerdir={lower}:/var/below"
    syscalls.mount(b"overlay", b"/o", b"overlay", 0, os.fsencode(options))


def other_children() -> None:
    """Give two peers different mounts at one place."""
    tmpfs("/a")
    os.mkdir("/a/x")
    bind("/a", "/b")
    make("/a", "shared")
    tmpfs("/a/x", "one")
    tmpfs("/b/x", "two")
    join_group("/a", "/b")


def autofs() -> None:
    """Mount an autofs of a process that has ended since and was not of the container."""
    os.makedirs("/auto")
    _, writer = os.pipe()
    daemon = os.fork()
    if daemon == 0:
        os.setsid()
        os.kill(os.getpid(), signal.SIGSTOP)
    os.waitpid(daemon, os.WUNTRACED)
    options = f"fd={writer},pgrp={daemon},minproto=5,maxproto=5,direct"
    syscalls.mount(b"auto", b"/auto", b"autofs", 0, os.fsencode(options))
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)


def removed_group() -> None:
    """Bind a control group that is removed then."""
    os.makedirs("/groups")
    os.makedirs("/c")
    syscalls.mount(b"groups", b"/groups", b"cgroup2", 0, b"")
    group = f"/groups/mountcr-test-{os.getpid()}"
    os.mkdir(group)
    bind(group, "/c")
    os.rmdir(group)


def tracefs() -> None:
    """Mount a tracefs."""
    os.makedirs("/trace")
    syscalls.mount(b"t", b"/trace", b"tracefs", 0, b"")


def trace_and_child() -> None:
    """Mount a tmpfs on a tracefs."""
    tracefs()
    tmpfs("/trace/instances")


def shared_without_proc() -> None:
    """Have a peer group and no proc."""
    tmpfs("/t")
    make("/t", "shared")
    syscalls.umount2(b"/proc", syscalls.MNT_DETACH)


def readonly_without_proc() -> None:
    """Have a root in which nothing can be made, and no proc."""
    syscalls.umount2(b"/proc", syscalls.MNT_DETACH)
    mounts.set_attributes(encode("/"), ["ro"])


def start(place: Place, work: Callable[[], object], *command: str, **more: Any) -> int:
    """Start a container and do something in its mount namespace."""
    place.mount_overlay()
    pid = place.start(*command, **more)
    in_namespace_of(pid, work)
    return pid


def dump_alone(place: Place, pid: int, *words: str, environment: str = "") -> tuple[bool, str]:
    """Have CRIU dump by hand; give whether it did, and its log."""
    images = place.directory("alone")
    command = (place.criu, "dump", "-t", pid, "-D", images, "-v4", "-o", "dump.log", *words)
    done = place.run(*(("env", environment) if environment else ()), *command)
    return done.status == 0, (images / "dump.log").read_text(errors="replace")


def restore_alone(place: Place, *words: str) -> tuple[bool, str]:
    """Have CRIU restore by hand on the root as it still is on the host."""
    images = place.top / "alone"
    given = ("-D", images, "--root", place.root, "-v4", "-o", "restore.log", "-d", *words)
    done = place.run_criu("restore", *given)
    return done.status == 0, (images / "restore.log").read_text(errors="replace")


def planned(place: Place, pid: int, *words: str) -> Any:
    """Give a plan that is not refused, with some words for CRIU."""
    done = place.mountcr("plan", pid, "--json", "--", *words)
    assert (done.status, done.err) == (0, "")
    return done.document


class Broken(NamedTuple):
    """What breaks a rule in a container: the work, the place that is found, the options."""

    rule: str
    where: str
    work: Callable[[], object]
    words: tuple[str, ...] = ()
    command: tuple[str, ...] = ("/bin/counter",)
    cured: bool = False


AT_DUMP = (
    Broken("T1", "/t/c", steps(lambda: tmpfs("/t"), lambda: tmpfs("/t/c")), ("--skip-mnt", "/t")),
    Broken("T1", "/trace/instances", trace_and_child),
    Broken("S3", "/b/x", other_children),
    Broken("C6", "/auto", autofs, cured=True),
    Broken("P3", r"/n\012l", lambda: tmpfs("/n\nl")),
    Broken("L9", "/proc", readonly_without_proc, command=("/bin/sleeper",)),
    Broken("L9", "/proc", lambda: mounts.set_attributes(encode("/proc"), ["nosymfollow"])),
)


@pytest.mark.parametrize("broken", AT_DUMP, ids=lambda each: f"{each.rule}-{each.where}")
def test_criu_refuses_the_dump(place: Place, broken: Broken) -> None:
    """With the message of the rule; the plan says so, and `dump` does nothing without a cure."""
    pid = start(place, broken.work, *broken.command)
    dumped, log = dump_alone(place, pid, *broken.words)
    assert not dumped
    assert matches(broken.rule, log), [each for each in log.splitlines() if "Error" in each]
    assert place.runs(pid)
    plan = place.mountcr("plan", pid, "--json", "--", *broken.words)
    assert refusals(plan.document) == {(broken.rule, broken.where, broken.cured)}
    assert plan.status == (0 if broken.cured else 4)
    if not broken.cured:
        images = place.top / "images"
        done = place.mountcr("dump", pid, "--images", images, "--", *broken.words)
        assert done.status == 4
        assert not images.exists()
        assert place.runs(pid)


AT_RESTORE = (
    Broken("P3", r"/n\012l", lambda: bind("/etc", "/n\nl")),
    Broken("P3", "/m", steps(lambda: os.makedirs("/n\nl"), lambda: bind("/n\nl", "/m"))),
    Broken("O1", "/o", nested_overlay, cured=True),
    Broken("R15", "/proc", shared_without_proc, cured=True),
    Broken("R16", "/", lambda: make("/", "unbindable")),
    Broken("R16", "/tmp", steps(lambda: tmpfs("/tmp"), lambda: make("/tmp", "unbindable"))),
    Broken("R17", "/d", lambda: deleted("directory", "/c", "/d")),
    Broken("R19", "/c", removed_group),
    Broken("R17", "/d", lambda: deleted("file", "/c", "/d")),
)


@pytest.mark.parametrize("broken", AT_RESTORE, ids=lambda each: f"{each.rule}-{each.where}")
def test_criu_refuses_the_restore(place: Place, broken: Broken) -> None:
    """It dumps and then cannot restore, with the message of the rule; the plan says so before."""
    pid = start(place, broken.work)
    plan = place.mountcr("plan", pid, "--json")
    assert refusals(plan.document) == {(broken.rule, broken.where, broken.cured)}
    dumped, log = dump_alone(place, pid)
    assert dumped, log[-2000:]
    restored, log = restore_alone(place)
    assert not restored
    assert matches(broken.rule, log), [each for each in log.splitlines() if "Error" in each]


def test_the_older_engine_needs_no_proc(place: Place) -> None:
    """R15: with --mntns-compat-mode CRIU restores a peer group without the container's proc."""
    pid = start(place, shared_without_proc)
    dumped, log = dump_alone(place, pid)
    assert dumped, log[-2000:]
    restored, log = restore_alone(place, "--mntns-compat-mode")
    assert restored, log[-2000:]


def test_a_copy_needs_programs_of_the_host(place: Place) -> None:
    """C3: CRIU starts tar of the host for a tmpfs; without it, it gives up."""
    place.mount_overlay()
    pid = place.start()
    empty = place.directory("empty")
    dumped, log = dump_alone(place, pid, environment=f"PATH={empty}")
    assert not dumped
    assert matches("C3", log) or "tar" in log
    environment = {"PATH": str(empty)}
    plan = place.mountcr("plan", pid, "--json", environment=environment)
    assert refusals(plan.document) == {("C3", "/dev", False)}


class Lost(NamedTuple):
    """What is lost of a container: rule, place, the work, and what differs there afterwards."""

    rule: str
    where: str
    work: Callable[[], object]
    what: str
    words: tuple[str, ...] = ()


def without_symlinks() -> None:
    """Have a tmpfs in which no symbolic link is followed."""
    tmpfs("/t")
    mounts.set_attributes(encode("/t"), ["nosymfollow"])


LOSSES = (
    Lost("F4", "/t", without_symlinks, "options"),
    Lost("F4", "/t", lambda: tmpfs("/t", flags=16), "super options"),
    Lost("F8", "/t", lambda: tmpfs("/t", "a#b"), "source"),
    Lost("F8", "/t", lambda: tmpfs("/t", "a\nb"), "source"),
    Lost("F11", "/trace", tracefs, "mount"),
    Lost("F11", "/t", lambda: tmpfs("/t"), "mount", ("--skip-mnt", "/t")),
)


@pytest.mark.parametrize("lost", LOSSES, ids=lambda each: f"{each.rule}-{each.what}-{each.where}")
def test_what_is_lost_was_announced(place: Place, lost: Lost) -> None:
    """CRIU restores without a word; what differs is at the place that the plan names, only."""
    pid = start(place, lost.work)
    plan = planned(place, pid, *lost.words)
    losses = {(each["rule"], each["mount"]) for each in plan["findings"] if is_loss(each)}
    assert losses == {(lost.rule, lost.where)}
    before = Path(f"/proc/{pid}/mountinfo").read_text()
    dumped, log = dump_alone(place, pid, *lost.words)
    assert dumped, log[-2000:]
    restored, log = restore_alone(place, "--pidfile", str(place.top / "pid"))
    assert restored, log[-2000:]
    after = Path(f"/proc/{(place.top / 'pid').read_text()}/mountinfo").read_text()
    differences = diff(parse_table(before.encode()), parse_table(after.encode()))
    assert (lost.where, lost.what) in {(each.path, each.what) for each in differences}
    assert {each.path for each in differences} == {lost.where}


def is_loss(finding: dict[str, Any]) -> bool:
    """Whether a finding of a plan is a loss that remains."""
    return finding["severity"] == "loss" and not finding["cured"]


def test_what_the_plan_announces_passes_the_comparison(place: Place) -> None:
    """A restore of ours succeeds where all that differs was announced."""
    pid = start(place, steps(lambda: tmpfs("/t", "a#b"), tracefs))
    document = place.done("restore", place.dump(pid))
    assert document["announced"] is True
    found = {(each["path"], each["what"]) for each in document["differences"]}
    assert found == {("/t", "source"), ("/trace", "mount")}
    place.goes_on()


def unbindable_slave() -> None:
    """Have a slave of a peer group of the container that is unbindable too."""
    tmpfs("/a")
    make("/a", "shared")
    for name in ("/b", "/c"):
        bind("/a", name)
    make("/c", "slave")
    make("/b", "unbindable")
    join_group("/c", "/b")


@pytest.mark.parametrize("words", [(), ("--mntns-compat-mode",)])
def test_an_unbindable_slave(place: Place, words: tuple[str, ...]) -> None:
    """F7: the older engine makes it a slave only; the plan says so where that is asked for."""
    pid = start(place, unbindable_slave)
    images = place.dump(pid)
    done = place.mountcr("plan", images, "--for", "restore", "--json", "--", *words)
    losses = {(each["rule"], each["mount"]) for each in done.document["findings"] if is_loss(each)}
    assert losses == ({("F7", "/b")} if words else set())
    restored = place.mountcr("restore", images, "--json", "--", *words).document
    assert restored["announced"] is True
    found = {(each["path"], each["what"]) for each in restored["differences"]}
    assert found == ({("/b", "unbindable")} if words else set())


def test_a_bound_file_that_is_unlinked_comes_back_empty(place: Place) -> None:
    """F13: CRIU makes the file again, without what was in it."""
    pid = start(place, lambda: deleted("file", "/f"))
    assert Path(f"/proc/{pid}/root/f").read_text() == "kept open by mounts\n"
    plan = place.done("plan", pid)
    assert ("F13", "/f") in {(each["rule"], each["mount"]) for each in plan["findings"]}
    restored = place.restore(place.dump(pid))
    assert Path(f"/proc/{restored}/root/f").read_text() == ""


# --- What the user gives --------------------------------------------------------------------------

INNER = """#!/bin/busybox sh
# waits until the outer namespace has not what this one has
MOUNT
echo ready > /var/ready
exec /bin/busybox sleep 1000
"""

OUTER = """#!/bin/busybox sh
# starts a task in a namespace that keeps a mount of ours, and drops it
/bin/busybox unshare -m --propagation PROPAGATION /bin/inner &
while ! [ -e /var/ready ]; do /bin/busybox sleep 0.02; done
/bin/busybox umount /mnt
echo gone > /var/gone
wait
"""


def nested(place: Place, mount: str = "", *, propagation: str = "private") -> int:
    """Start a container of which only a nested namespace has a bind of the host at /mnt."""
    place.script("outer", OUTER.replace("PROPAGATION", propagation).encode())
    place.script("inner", INNER.replace("MOUNT", mount).encode())
    for name in ("mnt", "here"):
        (place.layers[2] / name).mkdir()
    place.mount_overlay()
    volume = place.directory("volume", "file")
    pid = place.start("/bin/outer", binds=[BindMount(str(volume), "/mnt")])
    place.wait((place.upper / "var/gone").read_text)
    return pid


def test_a_key_is_nothing_in_a_nested_namespace(place: Place) -> None:
    """E1, E2, E5: CRIU does not look it up there; autodetection finds it on the host."""
    pid = nested(place)
    key = ("--external", "mnt[/mnt]:volume")
    dumped, log = dump_alone(place, pid, *key)
    assert not dumped
    assert matches("V4", log)
    plan = place.mountcr("plan", pid, "--json", "--", *key).document
    assert refusals(plan) == {("E2", "/mnt", False)}
    assert "E1" in {each["rule"] for each in plan["findings"]}
    auto = ("--external", "mnt[]")
    plan = planned(place, pid, *auto)
    assert refusals(plan) == {("E2", "/mnt", True)}
    assert "E5" in {each["rule"] for each in plan["findings"]}
    dumped, log = dump_alone(place, pid, *auto)
    assert dumped, log[-2000:]
    restored, log = restore_alone(place, *auto)
    assert restored, log[-2000:]


def test_a_file_system_that_criu_is_told_to_mount(place: Place) -> None:
    """E2, F12: a ramfs of a nested namespace is refused, or with --enable-fs comes back empty."""
    mount = "/bin/busybox umount /mnt; /bin/busybox mount -t ramfs r /here; echo x > /here/file"
    pid = nested(place, mount)
    dumped, log = dump_alone(place, pid)
    assert not dumped
    assert matches("V3", log)
    assert refusals(place.mountcr("plan", pid, "--json").document) == {("E2", "/here", False)}
    words = ("--enable-fs", "ramfs")
    plan = planned(place, pid, *words)
    assert refusals(plan) == {("E2", "/here", True)}
    assert [(each["rule"], each["mount"]) for each in plan["findings"] if is_loss(each)] == [
        ("F12", "/here")
    ]
    dumped, log = dump_alone(place, pid, *words)
    assert dumped, log[-2000:]
    restored, log = restore_alone(place, *words)
    assert restored, log[-2000:]
    copies = [each for each in place.processes() if has_ramfs(each)]
    assert copies
    assert not (Path(f"/proc/{copies[0]}/root/here") / "file").exists()


def has_ramfs(pid: int) -> bool:
    """Whether a process has a ramfs at /here."""
    return " /here " in Path(f"/proc/{pid}/mountinfo").read_text()


def test_a_key_of_the_users_own(place: Place) -> None:
    """V4: what the user names is not named again, and CRIU takes it."""
    place.mount_overlay()
    hosts = place.write(place.top / "hosts", "10.0.0.1 db\n")
    pid = place.start(binds=[BindMount(str(hosts), "/etc/hosts")])
    key = ("--external", "mnt[/etc/hosts]:mine")
    plan = planned(place, pid, *key)
    assert (plan["externals"], refusals(plan)) == ([], {("V4", "/etc/hosts", True)})
    dumped, log = dump_alone(place, pid, "--leave-running", *key)
    assert dumped, log[-2000:]
    wrong = ("--external", "mnt[/etc/hosts/]:mine")
    plan = planned(place, pid, *wrong)
    assert "E1" in {each["rule"] for each in plan["findings"]}
    assert [each["mountpoint"] for each in plan["externals"]] == ["/etc/hosts"]


def test_autodetection_reads_the_table_of_the_host(place: Place) -> None:
    """P1: a long line there fails every dump that is told to look, of whatever container."""
    place.mount_overlay()
    pid = place.start(binds=[Tmpfs("/t")])
    long = place.directory("n" * 60)
    layers = [long / f"layer{number}" for number in range(60)]
    for layer in layers:
        layer.mkdir()
    far = place.directory("far")
    options = OverlayOptions(lowers=tuple(encode(str(layer)) for layer in layers))
    LiveKernel().mount_overlay(encode(str(far)), options)
    dumped, log = dump_alone(place, pid, "--external", "mnt[]")
    assert not dumped
    assert matches("P1", log)
    plan = place.mountcr("plan", pid, "--json", "--", "--external", "mnt[]")
    assert refusals(plan.document) == {("P1", str(far), False)}
    assert place.done("plan", pid)["verdict"] == "ok"


def test_a_device_that_criu_is_told_of(place: Place) -> None:
    """V3: with `dev[MAJOR/MINOR]:NAME` CRIU mounts the whole of a disk again by itself."""
    place.mount_overlay()
    image = place.top / "image"
    image.touch()
    os.truncate(image, 4 << 20)
    made = place.run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", image)
    loop = place.run("losetup", "--find", "--show", image)
    if made.status or loop.status:
        pytest.skip(f"no ext4 on a loop device: {made.out}{loop.out}")
    device = loop.out.strip()
    try:
        disk = place.directory("disk")
        syscalls.mount(os.fsencode(device), os.fsencode(disk), b"ext4", 0, b"")
        pid = place.start(binds=[BindMount(str(disk), "/mnt")])
        dumped, log = dump_alone(place, pid)
        assert not dumped
        assert matches("V3", log)
        number = os.stat(device).st_rdev
        word = f"dev[{os.major(number)}/{os.minor(number)}]:disk"
        plan = planned(place, pid, "--external", word)
        assert (plan["externals"], refusals(plan)) == ([], {("V3", "/mnt", True)})
        dumped, log = dump_alone(place, pid, "--external", word)
        assert dumped, log[-2000:]
        restored, log = restore_alone(place, "--external", f"dev[disk]:{device}")
        assert restored, log[-2000:]
    finally:
        place.close()
        place.run("losetup", "--detach", device)
