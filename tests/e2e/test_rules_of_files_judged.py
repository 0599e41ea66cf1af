# SPDX-License-Identifier: Apache-2.0
"""
CRIU is the judge of the rules about tasks and files: each on a container that breaks it.

CRIU is run by hand with what the plan says, without the cure. Where a rule says that it refuses,
it does with that message.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from e2e.test_rules_judged import matches, refusals, sleeper
from e2e.test_rules_of_mounts_judged import bind, dump_alone
from mountcr.demo.launch import BindMount, Devpts
from mountcr.kernel.private import in_namespace_of
from mountcr.observation import elf
from programs import ARCHITECTURE, FLOCK, INOTIFY_ADD_WATCH, INOTIFY_INIT, OPEN, program

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.conftest import Place

pytestmark = pytest.mark.skipif(
    os.uname().machine != ARCHITECTURE, reason=f"its programs are for {ARCHITECTURE}"
)

PROGRAMS = {
    "watcher": program((INOTIFY_INIT,), (INOTIFY_ADD_WATCH, 3, b"/watched", 0x100)),
    "locker": program((OPEN, b"/var/lock", os.O_CREAT | os.O_RDWR, 0o644), (FLOCK, 3, 2)),
}
SLEEP = "\nexec /bin/busybox sleep 1000\n"


class Broken(NamedTuple):
    """What breaks a rule: a script that a container runs, the place found, whether it is cured."""

    rule: str
    where: str
    script: str
    cured: bool = False
    words: tuple[str, ...] = ()


def start(place: Place, script: str, **more: Any) -> int:
    """Start a container that runs a script and then sleeps."""
    place.script("work", f"#!/bin/busybox sh\nset -e\n{script}{SLEEP}".encode())
    for name, code in PROGRAMS.items():
        place.script(name, code)
    place.mount_overlay()
    pid = place.start("/bin/work", **more)
    place.wait(lambda: sleeps(pid))
    return pid


def sleeps(pid: int) -> bool:
    """Tell whether the script is done."""
    return b"sleep\0001000" in Path(f"/proc/{pid}/cmdline").read_bytes()


AT_DUMP = (
    Broken("T4", r"uts:\[\d+\]", "unshare -u sleep 1000 &\nsleep 0.3"),
    Broken("C2", "/mq", "mkdir /mq\nmount -t mqueue q /mq\n: >/mq/full"),
    Broken(
        "L1",
        "/d/f",
        "mkdir /d\necho x >/d/f\nexec 3</d/f\nmount -t tmpfs t /d",
    ),
    Broken(
        "L1",
        r"/var/f\\040\(deleted\)",
        "echo x >/var/f\nln /var/f /var/g\nexec 3</var/f\nrm /var/f",
        cured=True,
    ),
    Broken(
        "L2",
        r"/var/big\\040\(deleted\)",
        "dd if=/dev/zero of=/var/big bs=1M count=3 2>/dev/null\nexec 3</var/big\nrm /var/big",
        cured=True,
    ),
    Broken("L3", "/etc/lines", "exec 3</etc/lines\nmount --bind /etc/motd /etc/lines"),
    Broken("L3", "/d", "mkdir /d\ncd /d\nmount -t tmpfs t /d"),
    Broken(
        "L4",
        "/d/f",
        "mkdir /d\nmount -t tmpfs a /d\necho x >/d/f\nexec 3</d/f\nmount -t tmpfs b /d",
    ),
    Broken("L0", "/f", "mkdir /d\nmount -t tmpfs a /d\nmkdir /d/f\ncd /d/f\numount -l /d"),
    Broken(
        "L0",
        "/busybox",
        "mkdir /d\nmount -t tmpfs a /d\ncp /bin/busybox /d/\n/d/busybox sleep 1000 &\n"
        "sleep 0.3\numount -l /d",
    ),
    Broken("N1", r"inode \d+ on /", "mkdir /watched\n/bin/watcher &\nsleep 0.3"),
    Broken("L6", "/var/lock", "/bin/locker &\nsleep 0.3", cured=True),
    Broken("T6", r"(uts|ipc|mnt):\[\d+\]", "exec unshare -U -r sleep 1000"),
    Broken("T3", "/c", "mkdir /c\nmount --bind / /c\nexec chroot /c /bin/busybox sleep 1000"),
)


@pytest.mark.parametrize("broken", AT_DUMP, ids=lambda each: f"{each.rule}-{each.where}")
def test_criu_refuses_the_dump(place: Place, broken: Broken) -> None:
    """With the message of the rule; the plan says so, and what it has a cure for comes back."""
    pid = start(place, broken.script)
    dumped, log = dump_alone(place, pid)
    assert not dumped
    assert matches(broken.rule, log)
    assert place.runs(pid)
    plan = place.mountcr("plan", pid, "--json")
    assert_refused(plan.document, broken.rule, broken.where, cured=broken.cured)
    assert plan.status == (0 if broken.cured else 4)
    if broken.cured:
        place.restore(place.dump(pid))


def assert_refused(plan: Any, rule: str, where: str, *, cured: bool = False) -> None:
    """Claim that a rule is found there, and that all other refusals are cured."""
    found = {each for each in refusals(plan) if each[0] == rule}
    assert found
    assert all(re.fullmatch(where, each[1]) for each in found)
    assert {each[2] for each in found} == {cured}
    assert {each for each in refusals(plan) - found if not each[2]} == set()


def test_a_watch_is_found_where_the_user_says(place: Place) -> None:
    """N1: CRIU searches where it is told to, and in a few places of its own."""
    pid = start(place, "mkdir /watched\n/bin/watcher &\nsleep 0.3")
    words = ("--irmap-scan-path", "/watched")
    plan = told(place, ("plan", pid), *words)
    assert_refused(plan, "N1", r"inode \d+ on /", cured=True)
    images = place.top / "images"
    told(place, ("dump", pid, "--images", images), *words)
    place.unmount()
    place.restore(images)


def told(place: Place, command: tuple[object, ...], *words: str) -> Any:
    """Run a command of mountcr that succeeds, with words for CRIU; give its document."""
    done = place.mountcr(*command, "--json", "--", *words)
    assert (done.status, done.err) == (0, ""), done
    return done.document


def test_a_watch_that_criu_finds_itself(place: Place) -> None:
    """N1 is no rule for what lies in one of the directories that CRIU searches."""
    pid = start(place, "mkdir -p /etc/a/b\nln -s /etc/a/b /watched\n/bin/watcher &\nsleep 0.3")
    assert refusals(place.done("plan", pid)) == set()
    place.restore(place.dump(pid))


def test_a_link_stays_until_the_restore(place: Place) -> None:
    """F5: with --link-remap a name is left in the writable layer, which the restore removes."""
    pid = start(place, "echo x >/var/f\nln /var/f /var/g\nexec 3</var/f\nrm /var/f")
    notes = [each for each in place.done("plan", pid)["findings"] if each["rule"] == "F5"]
    assert [each["mount"] for each in notes] == [r"/var/f\040(deleted)"]
    images = place.dump(pid)
    assert list((place.upper / "var").glob("link_remap.*"))
    place.restore(images)
    assert not list((place.upper / "var").glob("link_remap.*"))


def open_master(pid: int) -> int:
    """Open a new pseudoterminal of a container; the other end is unlocked, ioctl_tty(2)."""
    master = os.open(f"/proc/{pid}/root/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK
    return master


def test_c4(place: Place) -> None:
    """C4: a console of which somebody outside holds the other end, as engines make them."""
    pid = start(place, "", binds=[Devpts()])
    master = open_master(pid)
    try:
        in_namespace_of(pid, lambda: bind("/dev/pts/0", "/console"))
        dumped, log = dump_alone(place, pid)
        assert not dumped
        assert matches("C4", log)
        assert_refused(place.mountcr("plan", pid, "--json").document, "C4", "/console")
    finally:
        os.close(master)


def test_c5(place: Place) -> None:
    """C5: the other end was opened in a nested mount namespace."""
    script = "unshare -m sh -c 'exec 3<>/dev/pts/ptmx; exec sleep 900' &\nsleep 0.3"
    pid = start(place, script, binds=[Devpts()])
    in_namespace_of(pid, lambda: bind("/dev/pts/0", "/console"))
    dumped, log = dump_alone(place, pid)
    assert not dumped
    assert matches("C5", log)
    assert_refused(place.mountcr("plan", pid, "--json").document, "C5", "/console")


def test_a_console_that_a_task_holds(place: Place) -> None:
    """Neither C4 nor C5 is found, and CRIU dumps it, where a task holds the other end."""
    pid = start(place, "exec 3<>/dev/pts/ptmx", binds=[Devpts()])
    in_namespace_of(pid, lambda: bind("/dev/pts/0", "/console"))
    assert refusals(place.done("plan", pid)) == set()
    dumped, log = dump_alone(place, pid)
    assert dumped, log[-2000:]


# --- Restore --------------------------------------------------------------------------------------


def restore_by_hand(place: Place, images: Path, *words: str) -> str:
    """Have CRIU fail to restore on the root by hand, and give its log."""
    place.mount_overlay()
    done = place.run_criu("restore", "-D", images, "-o", "alone.log", "-v4", "-d", *words)
    place.unmount()
    assert done.status != 0
    return (images / "alone.log").read_text(errors="replace")


def another_build(place: Place) -> None:
    """Change the build-id of busybox and nothing else."""
    path = place.layers[2] / "bin/busybox"
    content = path.read_bytes()
    found = bytes.fromhex(elf.parse(content))
    assert found
    path.write_bytes(content.replace(found, bytes(reversed(found)), 1))


def another_type(place: Place) -> None:
    """Put a file where a directory was."""
    (place.upper / "run").rmdir()
    (place.upper / "run").touch()


@pytest.mark.parametrize(
    ("rule", "where", "change"),
    [("R5", "/run", another_type), ("R10", "/bin/busybox", another_build)],
)
def test_criu_refuses_the_restore(
    place: Place, rule: str, where: str, change: Callable[[Place], None]
) -> None:
    """What is another in the root makes CRIU fail as the rule says; mountcr does not try."""
    images = sleeper(place)
    change(place)
    planned = place.mountcr("plan", images, "--for", "restore", "--json")
    assert_refused(planned.document, rule, where)
    assert matches(rule, restore_by_hand(place, images, "--root", str(place.root)))
    assert place.mountcr("restore", images).status in {4, 5}


def test_r0(place: Place) -> None:
    """R0: without a root there is nothing to put the mounts on."""
    assert matches("R0", restore_by_hand(place, sleeper(place)))


def test_a_name_that_was_given_at_the_dump_is_needed_again(place: Place) -> None:
    """R1: CRIU refuses to restore without; the plan says so, and with it all comes back."""
    hosts = place.write(place.top / "hosts", "10.0.0.1 db\n")
    pid = start(place, "", binds=[BindMount(str(hosts), "/etc/hosts")])
    images = place.top / "images"
    told(place, ("dump", pid, "--images", images), "--external", "mnt[/etc/hosts]:h")
    place.unmount()
    planned = place.mountcr("plan", images, "--for", "restore", "--json")
    assert_refused(planned.document, "R1", "/etc/hosts")
    assert matches("R1", restore_by_hand(place, images, "--root", str(place.root)))
    document = told(place, ("restore", images), "--external", f"mnt[h]:{hosts}")
    assert document["differences"] == []


def test_what_was_autodetected_is_autodetected_again(place: Place) -> None:
    """R2: CRIU finds the root on the host, and takes what is carved out of it for external."""
    pid = start(place, "mkdir /m\nmount --bind /etc /m")
    images = place.top / "images"
    told(place, ("dump", pid, "--images", images), "--external", "mnt[]")
    place.unmount()
    planned = place.mountcr("plan", images, "--for", "restore", "--json")
    assert_refused(planned.document, "R2", "/m")
    assert matches("R2", restore_by_hand(place, images, "--root", str(place.root)))
