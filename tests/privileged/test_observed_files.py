# SPDX-License-Identifier: Apache-2.0
"""What is observed of the files of a task is where the files are."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from mountcr import mountinfo
from mountcr.kernel import mounts, syscalls
from mountcr.model import FileKind, OpenFile
from mountcr.observation import fdinfo
from mountcr.observation.files import task_files
from mountcr.observation.namespaces import observe_namespace
from mountcr.observation.places import Places
from mountcr.observation.source import LiveSource
from mountcr.observation.tasks import namespaces, task
from mountcr.paths import encode
from scratch import sleeper, tmpfs

if TYPE_CHECKING:
    from pathlib import Path

    from mountcr.model import Task
    from mountcr.observation.fdinfo import FdInfo


def observed(pid: int) -> Task:
    """Observe a task."""
    with Places() as places:
        return task(pid, places, user=namespaces("thread-self")["user"])[0]


def files(pid: int, shown: str, kind: FileKind = FileKind.FD) -> list[OpenFile]:
    """The files of a task that are shown so."""
    return [each for each in observed(pid).files if (each.shown, each.kind) == (shown, kind)]


def test_what_lies_at_the_path_of_a_file(tmp_path: Path) -> None:
    """The file itself, another one that is mounted there, or nothing; unlinked ones apart."""
    tmpfs(tmp_path)
    names = ("same", "covered", "gone", "unlinked")

    def prepare() -> None:
        for name in names:
            (tmp_path / name).mkdir()
            os.open(tmp_path / name / "file", os.O_CREAT | os.O_RDWR)
        tmpfs(tmp_path / "gone")
        (tmp_path / "other").touch()
        target = encode(bytes(tmp_path / "covered/file"))
        mounts.bind(encode(bytes(tmp_path / "other")), target)
        (tmp_path / "unlinked/file").unlink()

    with sleeper(prepare) as pid:
        found = {name: files(pid, f"{tmp_path}/{name}/file") for name in names}
        unlinked = files(pid, rf"{tmp_path}/unlinked/file\040(deleted)")
    ((same,), (covered,), (gone,)) = (found[name] for name in ("same", "covered", "gone"))
    assert same.at_path == same.stat
    assert not same.missing
    assert covered.at_path
    assert covered.stat
    assert covered.at_path.dev == covered.stat.dev
    assert covered.at_path.ino != covered.stat.ino
    assert (gone.at_path, gone.missing) == (None, True)
    (deleted,) = unlinked
    assert (deleted.at_path, deleted.missing) == (None, False)
    assert deleted.stat
    assert deleted.stat.nlink == 0


class Echoing(LiveSource):
    """Ourselves, who put another file at a descriptor while it is looked at, as a shell does."""

    def __init__(self, places: Places, *turns: tuple[int, int]) -> None:
        super().__init__(os.getpid(), places)
        self.turns = list(turns)

    def fdinfo(self, fd: int) -> FdInfo:
        """Have the next file there before it is read."""
        if self.turns and self.turns[0][1] == fd:
            os.dup2(*self.turns.pop(0))
        return super().fdinfo(fd)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_descriptor_is_of_one_file(turns: int, tmp_path: Path) -> None:
    """Its mount is that of the file that is shown, whatever was there in between."""
    tmpfs(tmp_path)
    (tmp_path / "at").mkdir()
    tmpfs(tmp_path / "at")
    two = [os.open(tmp_path / name, os.O_CREAT | os.O_RDWR) for name in ("one", "at/two")]
    fd = os.dup(two[0])
    with Places() as places:
        source = Echoing(places, *((two[turn % 2], fd) for turn in range(1, turns + 1)))
        (found,) = (each for each in task_files(source)[0] if each.fd == fd)
    assert source.turns == []
    there = two[turns % 2]
    assert found.shown == os.readlink(f"/proc/self/fd/{there}")
    assert found.mnt_id == fdinfo.mount_id(there)


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    """What became a symbolic link on the way is followed below the task's root only."""
    tmpfs(tmp_path)

    def prepare() -> None:
        (tmp_path / "d").mkdir()
        os.open(tmp_path / "d/file", os.O_CREAT | os.O_RDWR)
        (tmp_path / "d").rename(tmp_path / "e")
        (tmp_path / "e/file").rename(tmp_path / "e/moved")
        (tmp_path / "e/moved").rename(tmp_path / "e/file")
        (tmp_path / "d").symlink_to("e")

    with sleeper(prepare) as pid:
        (file,) = files(pid, f"{tmp_path}/e/file")
    assert file.at_path == file.stat


def test_a_mapping_is_on_its_mount(tmp_path: Path) -> None:
    """The mount id of mappings and of the working directory is that of mountinfo."""
    held: list[mmap.mmap] = []

    def prepare() -> None:
        tmpfs(tmp_path)
        (tmp_path / "mapped").write_bytes(bytes(3 * mmap.PAGESIZE))
        fd = os.open(tmp_path / "mapped", os.O_RDWR)
        held.append(mmap.mmap(fd, mmap.PAGESIZE))
        held.append(mmap.mmap(fd, mmap.PAGESIZE, offset=2 * mmap.PAGESIZE))
        os.close(fd)
        os.chdir(tmp_path)

    with sleeper(prepare) as pid:
        table = mountinfo.read(pid)
        mapped = files(pid, f"{tmp_path}/mapped", FileKind.MAP)
        cwd = files(pid, str(tmp_path), FileKind.CWD)
    (here,) = (int(each.id) for each in table if each.mountpoint == str(tmp_path))
    assert sorted(each.offset for each in mapped) == [0, 2 * mmap.PAGESIZE]
    assert {each.mnt_id for each in (*mapped, *cwd)} == {here}
    assert len({each.start for each in mapped}) == 2


def test_a_root_of_its_own(tmp_path: Path) -> None:
    """Paths are from the root of the namespace: nothing is looked up from another root."""

    def prepare() -> None:
        tmpfs(tmp_path)
        (tmp_path / "file").touch()
        os.chroot(tmp_path)
        os.open("/file", os.O_RDONLY)

    with sleeper(prepare) as pid:
        (file,) = files(pid, f"{tmp_path}/file")
    assert (file.at_path, file.missing) == (None, False)


def test_who_owns_the_namespaces() -> None:
    """A task in a user namespace of its own tells who owns its other namespaces."""
    ours = namespaces("thread-self")["user"]

    def prepare() -> None:
        syscalls.unshare(syscalls.CLONE_NEWUTS)
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        syscalls.unshare(syscalls.CLONE_NEWIPC)

    with sleeper(prepare, own=False) as pid:
        found = observed(pid)
    assert found.owners["uts"] == ours
    assert found.owners["ipc"] == found.namespaces["user"] != ours
    with sleeper(lambda: None) as pid:
        assert observed(pid).owners == {}


def test_queues_are_counted(tmp_path: Path) -> None:
    """How many names are in a mqueue is in no mount table; of others nobody asks."""

    def prepare() -> None:
        syscalls.unshare(syscalls.CLONE_NEWIPC)
        os.mkdir(tmp_path / "queues")
        syscalls.mount(b"q", os.fsencode(tmp_path / "queues"), b"mqueue", 0, b"")
        (tmp_path / "queues/one").touch()

    with sleeper(prepare) as pid:
        found = observe_namespace(pid, 7)
    counted = [each for each in found.mounts if each.entries is not None]
    (queues,) = (each for each in counted if each.mountpoint == f"{tmp_path}/queues")
    assert queues.entries == 1
    assert {each.fstype for each in counted} <= {"mqueue", "pstore"}
