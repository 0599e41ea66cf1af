# SPDX-License-Identifier: Apache-2.0
"""
What the shell script docker_cr.sh does wrong is done right, where only a real CRIU can show it.

The other defects are in the file of the same name below tests/unit; the numbers are theirs.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.demo.launch import BindMount, Devpts, Tmpfs

if TYPE_CHECKING:
    from e2e.conftest import Place


@pytest.fixture
def shared(place: Place) -> Path:
    """A volume on a mount that is shared on the host."""
    directory = place.directory("volume", "file")
    place.bind(directory, directory, "shared")
    return directory


def test_4_a_restore_reads_no_log(place: Place) -> None:
    """The log of the dump is for people; a container comes back without it."""
    place.mount_overlay()
    images = place.dump(place.start())
    logs = list(images.glob("*.log"))
    assert logs
    for log in logs:
        log.unlink()
    place.restore(images)
    place.goes_on()


def test_6_and_12_volumes_tmpfs_devices_and_propagation(place: Place, shared: Path) -> None:
    """All of it is in the mount table again as it was, with what was in it."""
    place.mount_overlay()
    pid = place.start(
        "/bin/sleeper",
        binds=[
            BindMount(str(shared), "/volume", propagation="slave"),
            BindMount(str(shared / "file"), "/etc/hosts", readonly=True),
            BindMount("/dev/null", "/etc/masked"),
            Tmpfs("/run"),
            Tmpfs("/dev/shm"),
            Devpts(),
        ],
    )
    place.wait(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    Path(f"/proc/{pid}/root/run/state").write_text("kept")
    pid = place.restore(place.dump(pid))  # which claims that no mount differs
    root = Path(f"/proc/{pid}/root")
    assert (root / "run/state").read_text() == "kept"
    assert (root / "volume/file").read_text() == "file\n"
    assert (root / "etc/hosts").read_text() == "file\n"
    assert stat.S_ISCHR((root / "etc/masked").stat().st_mode)
    place.mount("tmpfs", place.directory("volume/below"))
    place.wait(lambda: any("/volume/below" in line for line in _table(pid)))


def _table(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/mountinfo").read_text().splitlines()


def test_9_nothing_is_asked_of_an_engine(place: Place) -> None:
    """With no program to be found but those that CRIU needs, a container comes back."""
    place.mount_overlay()
    pid = place.start()
    programs = place.directory("programs")
    for name in ("tar", "gzip"):
        (programs / name).symlink_to(str(shutil.which(name)))
    environment = {"PATH": str(programs)}
    images = place.top / "images"
    place.done("dump", pid, "--images", images, environment=environment)
    place.unmount()
    document = place.done("restore", images, environment=environment)
    assert document["differences"] == []
    place.goes_on()


def test_10_a_restore_that_fails_leaves_nothing_mounted(place: Place) -> None:
    """Neither the union nor a bind of it, and no process; the same dump can be restored later."""
    place.mount_overlay()
    images = place.dump(place.start())
    before = place.table()
    pages = images / "pages-1.img"
    pages.rename(place.top / "pages")
    finished = place.mountcr("restore", images, "--root", place.root)
    assert finished.status == 1, finished
    place.wait(lambda: not place.processes())
    assert place.table() == before
    (place.top / "pages").rename(pages)
    place.restore(images)
    place.goes_on()


def test_10_what_was_rebuilt_is_taken_down_whole(place: Place) -> None:
    """One command takes away the union, and whatever was mounted for it."""
    place.mount_overlay()
    images = place.dump(place.start())
    before = place.table()
    assert place.mountcr("rebuild", images, "--at", place.root).status == 0
    assert place.table() != before
    assert place.mountcr("umount", place.root).status == 0
    assert place.table() == before


@pytest.mark.parametrize("name", ["rooX", "root/sub", "root-2"])
def test_8_a_place_that_only_looks_like_it_is_not_unmounted(place: Place, name: str) -> None:
    """What is mounted at a path that a pattern would take for the other one stays."""
    other = place.directory("mounts") / name
    other.mkdir(parents=True)
    place.mount("tmpfs", other)
    wanted = place.directory("mounts/roo.") if name == "rooX" else place.top / "mounts/root"
    wanted.mkdir(exist_ok=True)
    assert place.mountcr("umount", wanted).status == 2
    assert str(other) in place.mounted()


@pytest.mark.parametrize("there", [False, True])
def test_13_nobody_else_reads_the_images(place: Place, *, there: bool) -> None:
    """Memory and files of a container are in them: whatever the umask, they are root's alone."""
    place.mount_overlay()
    pid = place.start()
    images = place.top / "images"
    if there:
        images.mkdir(mode=0o700)
    subprocess.run(
        [sys.executable, "-m", "mountcr", "dump", str(pid), "--images", str(images)],
        umask=0,
        env={**os.environ, "MOUNTCR_CRIU": place.criu},
        check=True,
    )
    assert stat.S_IMODE(images.stat().st_mode) == 0o700
    written = {path.name: stat.S_IMODE(path.stat().st_mode) for path in images.iterdir()}
    assert "mountcr.json" in written
    assert {name for name, mode in written.items() if mode & 0o022} == set()
    assert {written[name] for name in ("mountcr.json", "descriptors.json")} == {0o600}


def test_15_a_refusal_is_told_from_a_failure(place: Place) -> None:
    """Before anything is frozen, with a status of its own; the container goes on."""
    place.mount_overlay()
    pid = place.start()
    finished = place.mountcr("dump", pid, "--images", place.top / "images", "--", "--skip-mnt", "/")
    assert finished.status == 4, finished
    assert finished.out == ""
    assert not (place.top / "images").exists()
    assert place.runs(pid)
    place.goes_on()
