# SPDX-License-Identifier: Apache-2.0
"""A container comes back as it was: its processes, descriptors and mounts."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr import mountinfo
from mountcr.demo.launch import BindMount, Devpts, Tmpfs
from mountcr.graph.diff import diff
from mountcr.kernel import mounts
from mountcr.kernel.private import in_namespace_of
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from e2e.conftest import Place

LARGEFILE = 0o100000
"""O_LARGEFILE, which some calls set and which means nothing on 64 bits."""

HOLDER = b"""#!/bin/busybox sh
# holds one descriptor of each kind, counts, and answers when it is asked
cd /srv/deep/er
exec 3</etc/lines
read -r first <&3
exec 4>/srv/written
echo one >&4
exec 5>>/srv/count
exec 6<>/srv/unlinked
echo kept >&6
/bin/busybox rm /srv/unlinked
exec 7<>/run/inner/scratch
echo in memory >&7
exec 8<<EOF
through
the pipe
EOF
exec 9>/proc/self/fd/8
echo later >&9
i=0
while :; do
    i=$((i+1))
    echo $i >&5
    if [ -e /data/ask ]; then
        /bin/busybox rm /data/ask
        read -r line <&3
        read -r piped <&8
        echo two >&4
        echo "$line, $piped, $(pwd)" > /data/answer
    fi
    /bin/busybox sleep 0.02
done
"""


def holder(place: Place, *, readonly: bool) -> int:
    """Start a container with a mount of every kind, whose root may be read-only."""
    place.script("holder", HOLDER)
    (place.layers[2] / "srv/deep/er").mkdir(parents=True)
    shared = place.directory("shared", "seen")
    place.bind(shared, shared, "shared")
    place.mount_overlay()
    pid = place.start(
        "/bin/holder",
        readonly=readonly,
        binds=[
            Devpts(),
            # a part of the root itself, where a read-only one can be written
            *([BindMount(f"{place.root}/srv", "/srv")] if readonly else []),
            BindMount(str(place.write(place.top / "hosts", "10.0.0.1 db\n")), "/etc/hosts"),
            BindMount(str(place.write(place.top / "names", "x\n")), "/etc/names", readonly=True),
            BindMount(str(place.directory("data", "file")), "/data"),
            BindMount(str(place.directory("inner", "deep")), "/data/inner"),
            BindMount(str(place.directory("fixed", "file")), "/fixed", readonly=True),
            BindMount(str(shared), "/mnt/slave", propagation="slave"),
            Tmpfs("/run"),
            Tmpfs("/run/inner"),
            BindMount(str(place.directory("volume", "file")), "/run/volume"),
        ],
    )
    place.wait(lambda: descriptor(pid, 9))
    return pid


def counts(place: Place) -> int:
    """Give how often the holder has counted."""
    return len((place.upper / "srv/count").read_text().split())


def counts_beyond(place: Place, number: int) -> bool:
    """Tell whether the holder has counted more often than that."""
    return counts(place) > number


def descriptor(pid: int, number: int) -> tuple[int, int, str]:
    """Give position, flags and link of a descriptor, the link without what CRIU calls a ghost."""
    info = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
    fields = dict(line.split(":\t", 1) for line in info.splitlines() if ":\t" in line)
    flags = int(fields["flags"], 8) & ~LARGEFILE
    return int(fields["pos"]), flags, os.readlink(f"/proc/{pid}/fd/{number}")


def held(pid: int) -> dict[int, object]:
    """Give what must not change: positions, flags, names and contents."""
    found: dict[int, object] = {}
    while not found or "/srv/count" in str(found[1]):  # while it counts, the shell's output is that
        found = held_now(pid)
    return found


def held_now(pid: int) -> dict[int, object]:
    """Give what is held at this moment."""
    found: dict[int, object] = {}
    for number in (0, 1, 2, 3, 4, 6, 7, 8, 9):
        position, flags, link = descriptor(pid, number)
        content = (
            Path(f"/proc/{pid}/fd/{number}").read_bytes()
            if link.startswith(("/srv", "/run"))
            else b""
        )
        found[number] = (position, flags, link.partition(":[")[0], content)
    found[-1] = os.readlink(f"/proc/{pid}/cwd")
    return found


def answer(place: Place) -> str:
    """Let the holder go on with what it had begun before the first dump."""
    place.write(place.top / "data/ask", "")
    place.wait(lambda: (place.top / "data/answer").read_text().endswith("\n"))
    return (place.top / "data/answer").read_text().strip()


def places_of(pid: int) -> list[tuple[str, ...]]:
    """Give each mount by what may never change, read without mountcr."""
    lines = [line.split(" ") for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return sorted((each[4], each[5], each[each.index("-") + 1]) for each in lines)


@pytest.mark.parametrize("readonly", [False, True])
def test_ten_times(place: Place, readonly: bool) -> None:
    """A container with a mount of every kind is planned, dumped and restored ten times in a row."""
    pid = first = holder(place, readonly=readonly)
    table, before, seen = mountinfo.read(pid), held(pid), places_of(pid)
    assert len(table) > 10
    for turn in range(10):
        plan = place.done("plan", pid)
        assert plan["verdict"] == "ok"
        images = place.dump(pid, f"images{turn}")
        assert not place.runs(pid)
        counted = counts(place)
        pid = place.restore(images)
        assert held(pid) == before
        assert places_of(pid) == seen
        assert diff(table, mountinfo.read(pid)) == []
        place.wait(functools.partial(counts_beyond, place, counted))
    numbers = (place.upper / "srv/count").read_text().split()
    assert numbers == [str(each + 1) for each in range(len(numbers))]
    assert pid != first
    assert answer(place) == "second, through, /srv/deep/er"
    assert (place.upper / "srv/written").read_text() == "one\ntwo\n"
    # what is mounted on the host still arrives
    (place.top / "shared/late").mkdir()
    place.mount("tmpfs", place.top / "shared/late")
    assert ("/mnt/slave/late", "tmpfs") in [(each[0], each[2]) for each in places_of(pid)]


# --- Storage drivers ------------------------------------------------------------------------------


def fingerprint(directory: Path) -> dict[str, tuple[object, ...]]:
    """Give everything in a directory: type, mode, size, times, content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in directory.rglob("*"):
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_rdev, content)
    return found


def counting(place: Place) -> int:
    """Start a counter with a volume on what is mounted at `root`."""
    pid = place.start(binds=[BindMount(str(place.directory("data")), "/data"), Tmpfs("/run")])
    place.wait((place.root / "var/count").read_text)
    return pid


def flatten(place: Place) -> Path:
    """Put the root into one directory, as the vfs driver has it."""
    place.mount_overlay()
    flat = place.top / "flat"
    shutil.copytree(place.root, flat, symlinks=True)
    place.unmount()
    place.bind(flat, place.root)
    return flat


def test_vfs(place: Place) -> None:
    """A container whose root is a plain directory comes back on it."""
    flat = flatten(place)
    pid = counting(place)
    plan = place.done("plan", pid)
    assert (plan["verdict"], plan["rootfs"]["driver"]) == ("ok", "vfs")
    assert plan["rootfs"]["upper"] == str(flat)
    place.restore(place.dump(pid))
    place.goes_on(flat)


@pytest.mark.parametrize("driver", ["vfs", "overlay", None])
def test_other_upper(place: Place, driver: str | None) -> None:
    """On another driver, or with another upper, a container goes on and the original stays."""
    place.mount_overlay()
    images = place.dump(counting(place))
    before = fingerprint(place.upper)
    assert before
    new = place.top / "new"
    words = ["--driver", driver] if driver else []
    pid = place.restore(images, "--upper", new, *words)
    place.goes_on(Path(f"/proc/{pid}/root"))
    assert (new / "var/count").exists()
    assert fingerprint(place.upper) == before
    again = place.restore(place.dump(pid, "again"))
    place.goes_on(Path(f"/proc/{again}/root"))
    assert fingerprint(place.upper) == before


def test_vfs_to_overlay(place: Place) -> None:
    """A plain directory becomes the lower layer of an overlay, and stays as it is."""
    flat = flatten(place)
    images = place.dump(counting(place))
    before = fingerprint(flat)
    pid = place.restore(images, "--driver", "overlay", "--upper", place.top / "new")
    place.goes_on(Path(f"/proc/{pid}/root"))
    assert fingerprint(flat) == before


# --- What is not there any more, or is elsewhere --------------------------------------------------


def test_mountpoints_are_made(place: Place) -> None:
    """Mountpoints that are gone are made again: in the root, and inside what is bound."""
    pid = holder(place, readonly=False)
    images = place.dump(pid)
    gone = [place.upper / name for name in ("run", "data", "fixed", "mnt/slave", "mnt", "proc")]
    gone += [place.top / "data/inner"]
    for directory in gone:
        directory.rmdir()
    (place.upper / "etc/hosts").unlink()
    plan = place.done("plan", images, "--for", "restore")
    found = {each["mount"] for each in plan["findings"] if each["rule"] == "R4" and each["cured"]}
    assert {"/run", "/data", "/fixed", "/mnt/slave", "/proc", "/etc/hosts"} <= found
    place.restore(images)
    assert all(directory.is_dir() for directory in gone)
    assert (place.upper / "etc/hosts").read_bytes() == b""
    assert answer(place).startswith("second")


def test_bind(place: Place) -> None:
    """An external can come from elsewhere than it came from."""
    place.mount_overlay()
    images = place.dump(counting(place))
    shutil.rmtree(place.top / "data")
    other = place.directory("other", "file")
    pid = place.restore(images, "--bind", f"/data={other}")
    assert Path(f"/proc/{pid}/root/data/file").read_text() == "file\n"


def test_late_external(place: Place) -> None:
    """A bind that is made in the container just before the dump is external too."""
    place.mount_overlay()
    pid = counting(place)
    assert len(place.done("plan", pid)["externals"]) == 1
    late = place.directory("late", "file")
    fd = mounts.clone(encode(str(late)))
    (place.root / "late").mkdir()

    def attach() -> None:
        mounts.attach(fd, KPath("/late"))
        mounts.set_propagation(KPath("/late"), "private")

    in_namespace_of(pid, attach)
    os.close(fd)
    pid = place.restore(place.dump(pid))
    assert Path(f"/proc/{pid}/root/late/file").read_text() == "file\n"


def test_leave_running(place: Place) -> None:
    """A container can go on after its dump; from the images it comes back when it has ended."""
    place.mount_overlay()
    pid = counting(place)
    images = place.top / "images"
    place.done("dump", pid, "--images", images, "--leave-running")
    place.goes_on()
    assert place.runs(pid)
    place.kill(pid)
    place.unmount()
    before = place.count()
    place.restore(images)
    place.wait(lambda: place.count() != before)


# --- Propagation ----------------------------------------------------------------------------------


def slave_root(place: Place) -> Path:
    """Dump a container whose root is a slave of a mount of the host."""
    place.mount_overlay(propagation="shared")
    pid = place.start(root_propagation="slave", binds=[Tmpfs("/run")])
    plan = place.done("plan", pid)
    assert plan["verdict"] == "ok-with-losses"
    assert [each["rule"] for each in plan["findings"] if each["severity"] == "loss"] == ["F9"]
    return place.dump(pid)


def test_slave_root_is_announced(place: Place) -> None:
    """A root that received from the host does not any more, as the plan said."""
    images = slave_root(place)
    document = place.done("restore", images)
    assert document["announced"] is True
    assert {(each["path"], each["what"]) for each in document["differences"]} <= {("/", "master")}
    place.goes_on()


def test_slave_root_is_kept(place: Place) -> None:
    """A root that is mounted on the host too still receives from there."""
    images = slave_root(place)
    pid = place.restore(images, "--root", place.root)
    assert str(place.root) in place.mounted()
    (place.root / "late").mkdir()
    place.mount("tmpfs", place.root / "late")
    assert "/late" in [each[0] for each in places_of(pid)]
    place.goes_on()


def test_slave_of_private_source(place: Place) -> None:
    """A slave whose source is in no peer group any more comes back, and the loss is announced."""
    place.mount_overlay()
    shared = place.directory("shared", "file")
    place.bind(shared, shared, "shared")
    pid = place.start(binds=[BindMount(str(shared), "/mnt", propagation="slave")])
    assert place.done("plan", pid)["verdict"] == "ok"
    images = place.dump(pid)
    place.unmount(shared)
    mounts.set_propagation(encode(str(place.top)), "private")
    plan = place.done("plan", images, "--for", "restore")
    assert plan["verdict"] == "ok-with-losses"
    assert [each["rule"] for each in plan["findings"] if each["severity"] == "loss"] == ["F2"]
    table = place.table()
    document = place.done("restore", images)
    assert document["announced"] is True
    assert {each["path"] for each in document["differences"]} <= {"/mnt"}
    assert place.table() == table
    place.goes_on()
