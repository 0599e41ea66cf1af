# SPDX-License-Identifier: Apache-2.0
"""Whatever fails and whenever it is killed, a set of images is the old one or the new one."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import faults
from mishaps.ground import interesting
from mountcr.kernel import mounts, syscalls
from mountcr.paths import encode

pytestmark = pytest.mark.any_kernel

HELD = Path(__file__).parent.parent / "fixtures/images/held-files-criu-4.1.1"
KILLS = int(os.environ.get("MOUNTCR_KILLS", "20"))
REWRITINGS = {
    "one file": ("--map", "/tmp=/t"),
    "several files": ("--map", "/tmp=/t", "--map-cgroup", "/web=/w", "--name-external", "/data=v"),
}

Snapshot = dict[str, tuple[int, int, bytes]]


class Ground:
    """A set of images in a directory of its own, what it is, and what it is to become."""

    def __init__(self, top: Path, options: tuple[str, ...]) -> None:
        self.top = top / "ground"
        self.directory = self.top / "set"
        self.words = [sys.executable, "-m", "mountcr", "images", str(self.directory), *options]
        self.reset()
        self.old = snapshot(self.directory)
        subprocess.run(self.words, check=True, capture_output=True)
        self.new = snapshot(self.directory)
        assert self.new != self.old
        self.reset()

    def reset(self) -> None:
        """Put the old set there."""
        shutil.rmtree(self.top, ignore_errors=True)
        shutil.copytree(HELD, self.directory)
        (self.directory / "parent").symlink_to("../before")
        self.directory.chmod(0o710)

    def settle(self, what: str) -> None:
        """Claim that the set is one of two, and that the next try makes it new and cleans up."""
        found = snapshot(self.directory, leftovers=False)
        assert found in (self.old, self.new), what
        beside = [name for name in os.listdir(self.top) if name != "set"]
        assert all(name.startswith(".set.mountcr-") for name in beside), what
        done = subprocess.run(self.words, check=False, capture_output=True, text=True)
        assert done.returncode == 0, (what, done.stderr)
        assert snapshot(self.directory) == self.new, what
        assert os.listdir(self.top) == ["set"], what


def snapshot(directory: Path, *, leftovers: bool = True) -> Snapshot:
    """Give mode, number of names and content of a directory and all in it."""
    found: Snapshot = {"": (directory.stat().st_mode, 0, b"")}
    for path in directory.iterdir():
        if not leftovers and ".mountcr-" in path.name:
            continue
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        found[path.name] = (path.lstat().st_mode, 0, content)
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", REWRITINGS)
def test_a_call_that_fails(tmp_path: Path, name: str) -> None:
    """
    The first, the last and another one of each call fail, or the command is killed at it.

    The set is wholly old or wholly new, new if the command says so, and one line says why not;
    then it is the old one, unless it is the disk that fails when all is done.
    """
    ground = Ground(tmp_path, REWRITINGS[name])
    calls = faults.run(ground.words).calls
    ground.reset()
    assert {"openat", "fsync", "write"} < set(calls)
    assert ("renameat2" in calls) == (name == "several files")
    for fault in interesting(calls):
        ran = faults.run(ground.words, fault=fault)
        what = f"{fault}: {ran}"
        if fault.errno:
            assert "Traceback" not in ran.err, what
            assert "internal error" not in ran.err, what
            lines = [line for line in ran.err.splitlines() if not line.startswith("  hint: ")]
            assert (ran.status in {1, 4, 7, 8} and len(lines) == 1) or ran.status == 0, what
        if ran.status == 0:
            assert snapshot(ground.directory) == ground.new, what
        elif ran.status in {1, 7} and fault.call != "fsync":
            assert snapshot(ground.directory, leftovers=False) == ground.old, what
        ground.settle(what)
        ground.reset()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", REWRITINGS)
def test_a_kill_at_any_moment(tmp_path: Path, name: str) -> None:
    """Killed at random moments, the set is wholly old or wholly new, and the next try cleans up."""
    ground = Ground(tmp_path, REWRITINGS[name])
    began = time.monotonic()
    subprocess.run(ground.words, check=True, capture_output=True)
    whole = time.monotonic() - began
    choice = random.Random(name)  # noqa: S311  # has to be the same every time
    for _ in range(max(1, KILLS // len(REWRITINGS))):
        ground.reset()
        process = subprocess.Popen(
            ground.words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        moment = choice.uniform(whole / 2, whole)  # before that Python is still starting
        time.sleep(moment)
        process.kill()
        process.wait()
        ground.settle(f"killed after {moment:.4f} s")


def test_a_set_is_always_there(tmp_path: Path) -> None:
    """Whoever looks while a set is replaced finds a set with every image, at any moment."""
    ground = Ground(tmp_path, REWRITINGS["several files"])
    back = [*ground.words[:5], "--map", "/t=/tmp", "--map-cgroup", "/w=/web"]
    inodes: set[int] = set()
    for words in (ground.words, back) * 3:
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                assert (ground.directory / "inventory.img").exists()
                inodes.add(ground.directory.stat().st_ino)
        assert process.returncode == 0
    assert len(inodes) > 1


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path, REWRITINGS["several files"])


def complaint(ground: Ground) -> str:
    """Claim that the command fails in one line with a hint, and changes nothing; give the line."""
    done = subprocess.run(ground.words, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    line, hint = done.stderr.splitlines()
    assert hint.startswith("  hint: ")
    assert snapshot(ground.directory) == ground.old
    assert [name for name in os.listdir(ground.top) if name.startswith(".")] == []
    return line


def test_a_directory_that_is_a_mountpoint(ground: Ground) -> None:
    """A set that something is mounted on cannot be exchanged, which is said with a hint."""
    place = encode(str(ground.directory))
    mounts.bind(place, place)
    assert "cannot be replaced: it is a mountpoint" in complaint(ground)


def test_a_file_of_another_file_system(ground: Ground) -> None:
    """A file that is bound from elsewhere cannot be linked; it is named and not copied."""
    (ground.directory / "pages-1.img").touch()
    ground.old = snapshot(ground.directory)
    elsewhere = ground.top / "elsewhere"
    elsewhere.mkdir()
    syscalls.mount(b"tmpfs", bytes(elsewhere), b"tmpfs", 0)
    (elsewhere / "pages").touch(0o644)
    mounts.bind(encode(str(elsewhere / "pages")), encode(str(ground.directory / "pages-1.img")))
    assert "pages-1.img cannot be linked into a new set" in complaint(ground)


@pytest.mark.requires("overlay")
def test_a_directory_of_a_lower_layer(tmp_path: Path) -> None:
    """A directory that overlay cannot rename cannot be exchanged, which is said with a hint."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    shutil.copytree(HELD, tmp_path / "lower/ground/set")
    options = b"lowerdir=%b,upperdir=%b,workdir=%b" % tuple(
        bytes(tmp_path / name) for name in ("lower", "upper", "work")
    )
    at = tmp_path / "merged"
    syscalls.mount(b"overlay", bytes(at), b"overlay", 0, options + b",redirect_dir=off")
    found = Ground.__new__(Ground)
    found.top, found.directory = at / "ground", at / "ground/set"
    words = REWRITINGS["several files"]
    found.words = [sys.executable, "-m", "mountcr", "images", str(found.directory), *words]
    found.old = snapshot(found.directory)
    assert "this file system cannot exchange directories" in complaint(found)


def test_no_room(tmp_path: Path) -> None:
    """A file system that is full ends it with one line, and the set is the old one."""
    small = tmp_path / "ground"
    ground = Ground(tmp_path, REWRITINGS["several files"])
    shutil.rmtree(small)
    small.mkdir()
    syscalls.mount(b"small", bytes(small), b"tmpfs", 0, b"size=96k,nr_inodes=40")
    shutil.copytree(HELD, ground.directory)
    old = snapshot(ground.directory)
    with (small / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        file.writelines(b"x" * 4096 for _ in range(100))
    done = subprocess.run(ground.words, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done
    assert "No space left on device" in done.stderr
    assert snapshot(ground.directory) == old
    assert sorted(os.listdir(small)) == ["filler", "set"]
