# SPDX-License-Identifier: Apache-2.0
"""Descriptors that lead out of the container are found and named as CRIU names them."""

from __future__ import annotations

import os

import msgspec
import pytest

import builders
from mountcr.model import Facts, FileKind, InodeType, OpenFile, PathStat, Task
from mountcr.paths import KPath
from mountcr.planning.descriptors import external_file_keys, inherited, lonely_pipes
from mountcr.planning.planner import make_plan

ROOT = "10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w"


def file(shown: str, fd: int = 0, **fields: object) -> OpenFile:
    """A descriptor of a regular file with inode 0x264."""
    stat = PathStat(dev="8:1", ino=0x264, mode=0o100644, nlink=1, size=0, type=InodeType.FILE)
    made = OpenFile(kind=FileKind.FD, shown=KPath(shown), fd=fd, mnt_id=0x7F, stat=stat)
    return msgspec.structs.replace(made, **fields)


def facts(*tasks: tuple[OpenFile, ...]) -> Facts:
    """Facts of a container with one task for each argument."""
    whole = builders.facts(ROOT, files=tasks[0])
    more = tuple(
        Task(pid=101 + number, parent=100, start_time=1, command="sh", files=files)
        for number, files in enumerate(tasks[1:])
    )
    return msgspec.structs.replace(whole, tasks=whole.tasks + more)


def test_a_file_on_a_mount_of_the_host() -> None:
    """Its key has the mount id and the inode in hexadecimal, as CRIU reads them."""
    (found,) = inherited(facts((file("/var/log/out", 5),)))
    assert (found.key, found.fd, found.number, found.pid) == ("file[7f:264]", 5, 5, 100)
    assert external_file_keys((found,)) == ("file[7f:264]",)


def test_a_file_that_the_host_does_not_have() -> None:
    """What nobody could open again is not promised: the host has another file by that path."""
    assert inherited(facts((file("/var/log/out", 5, not_on_host=True),))) == ()


@pytest.mark.parametrize(
    "shown",
    ["/memfd:x (deleted)", "/SYSV00000000 (deleted)", "/[aio] (deleted)", "anon_inode:[eventpoll]"],
)
def test_files_that_are_on_no_mount(shown: str) -> None:
    """What the kernel keeps on mounts of its own is CRIU's business."""
    assert inherited(facts((file(shown.replace(" ", r"\040")),))) == ()


def test_files_of_the_container() -> None:
    """A file on a mount of any of its namespaces does not lead out; nor one without mount id."""
    assert inherited(facts((file("/etc/x", mnt_id=10), file("/etc/y", 1, mnt_id=-1)))) == ()


def test_only_descriptors_are_inherited() -> None:
    """A mapping of the host cannot be given through a descriptor."""
    assert inherited(facts((file("/lib/x", kind=FileKind.MAP),))) == ()


def test_a_terminal_of_the_host() -> None:
    """Its key has the device of the terminal and of the file system it lies on, as stat(2)."""
    stat = PathStat(
        dev="0:26", ino=3, mode=0o20620, nlink=1, size=0, rdev="136:0", type=InodeType.CHARACTER
    )
    (found,) = inherited(facts((file("/dev/pts/0", stat=stat),)))
    assert found.key == f"tty[{os.makedev(136, 0):x}:{os.makedev(0, 26):x}]"


def test_a_device_that_is_no_terminal() -> None:
    """It is a file as others are."""
    stat = PathStat(
        dev="0:6", ino=4, mode=0o20666, nlink=1, size=0, rdev="1:3", type=InodeType.CHARACTER
    )
    (found,) = inherited(facts((file("/dev/null", stat=stat),)))
    assert found.key == "file[7f:4]"


@pytest.mark.parametrize(
    ("flags", "lonely"),
    [
        ((os.O_RDONLY,), True),
        ((os.O_WRONLY,), True),
        ((os.O_RDWR,), False),
        ((os.O_RDONLY, os.O_WRONLY), False),
        ((os.O_WRONLY, os.O_WRONLY), True),
        ((os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC,), True),
    ],
)
def test_pipes_with_an_end_outside(flags: tuple[int, ...], lonely: bool) -> None:
    """A pipe leads out if the tasks together hold one end of it only."""
    files = tuple(file("pipe:[12]", fd, flags=each) for fd, each in enumerate(flags))
    assert lonely_pipes(facts(files)) == (frozenset({"pipe:[12]"}) if lonely else frozenset())


def test_the_ends_of_a_pipe_may_be_in_two_tasks() -> None:
    """A pipe between two tasks of the container is complete."""
    reader = file("pipe:[12]", 3, flags=os.O_RDONLY)
    writer = file("pipe:[12]", 4, flags=os.O_WRONLY)
    assert inherited(facts((reader,), (writer,))) == ()


def test_a_pipe_of_the_runtime_is_given_back() -> None:
    """A standard stream is; of another descriptor nobody knows what was at the other end."""
    stream = file("pipe:[12]", 1, flags=os.O_WRONLY)
    other = file("pipe:[13]", 9, flags=os.O_WRONLY)
    (found,) = inherited(facts((stream, other)))
    assert (found.key, found.flags) == ("pipe:[12]", os.O_WRONLY)
    assert "writes" in found.because
    assert external_file_keys((found,)) == ()


def test_a_file_is_given_once() -> None:
    """Two descriptors of the same file are one, that of the first task."""
    one, two = file("pipe:[12]", 1, flags=os.O_WRONLY), file("pipe:[12]", 2, flags=os.O_WRONLY)
    (found,) = inherited(facts((one, two), (one,)))
    assert (found.pid, found.fd) == (100, 1)


def test_two_files_by_one_number() -> None:
    """Descriptors of two tasks with the same number get numbers of their own."""
    first = (file("/a", 3), file("/b", 4, mnt_id=0x80))
    found = inherited(facts(first, (file("/c", 3, mnt_id=0x81),)))
    assert [each.fd for each in found] == [3, 4, 3]
    assert len({each.number for each in found}) == 3


def test_the_plan_tells_criu_on_both_sides() -> None:
    """A file is named at the dump and given at the restore under the same key."""
    plan = make_plan(facts((file("/var/log/out", 5),)))
    assert "file[7f:264]" in plan.criu.dump_options.externals
    assert plan.criu.restore_options.inherit_fds == ((5, "file[7f:264]"),)
    assert "--inherit-fd" in plan.criu.restore_args()
