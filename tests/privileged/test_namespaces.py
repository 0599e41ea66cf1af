# SPDX-License-Identifier: Apache-2.0
"""What is observed of mount namespaces is what tasks in them have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.kernel import mounts, syscalls
from mountcr.model import InodeType
from mountcr.observation.namespaces import observe_namespace, observe_namespaces
from mountcr.observation.places import Places
from mountcr.observation.tasks import task
from mountcr.paths import KPath, decode, encode, join
from scratch import HOSTILE, directories, sleeper, tmpfs

if TYPE_CHECKING:
    from mountcr.model import Mount


def at(mounts_: tuple[Mount, ...], place: KPath) -> list[Mount]:
    """The mounts at a path."""
    return [mount for mount in mounts_ if mount.mountpoint == place]


def test_mountpoints_have_a_type_and_a_mode(tmp_path: Path) -> None:
    """A directory or a file, seen through the root of the task and not through ours."""
    base = encode(bytes(tmp_path))

    def prepare() -> None:
        tmpfs(tmp_path)
        (directory,) = directories(base, "directory")
        os.chmod(decode(directory), 0o750)  # noqa: S103 - of a directory of the test
        file = decode(base) + b"/file"
        with open(file, "wb"):
            os.chmod(file, 0o604)
        mounts.bind(encode(file), encode(file))
        tmpfs(decode(directory))

    with sleeper(prepare) as pid:
        found = observe_namespace(pid, 7)
    assert (found.id, found.pid) == (7, pid)
    (file,) = at(found.mounts, join(base, "file"))
    assert (file.type, file.mode) == (InodeType.FILE, 0o100604)
    (directory,) = at(found.mounts, join(base, "directory"))
    assert directory.type is InodeType.DIRECTORY
    assert directory.mode == 0o40755


def test_what_is_hidden_has_no_type(tmp_path: Path) -> None:
    """Of two mounts at a place the upper one is looked at, and what lies below is not guessed."""
    base = encode(bytes(tmp_path))

    def prepare() -> None:
        tmpfs(tmp_path)
        (inside,) = directories(base, "inside")
        tmpfs(decode(inside))
        tmpfs(tmp_path)

    with sleeper(prepare) as pid:
        found = observe_namespace(pid, 7).mounts
    below, above = at(found, base)
    assert (below.type, above.type) == (None, InodeType.DIRECTORY)
    assert at(found, join(base, "inside"))[0].type is None


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_mountpoints_of_any_name(name: bytes, tmp_path: Path) -> None:
    """A name that needs escapes is opened under the bytes that it has."""

    def prepare() -> None:
        (place,) = directories(tmpfs(tmp_path), name)
        tmpfs(decode(place))

    with sleeper(prepare) as pid:
        found = observe_namespace(pid, 7).mounts
    (mount,) = at(found, encode(bytes(tmp_path) + b"/" + name))
    assert mount.type is InodeType.DIRECTORY


def test_through_the_root_of_a_task(tmp_path: Path) -> None:
    """In a root of its own, paths are those of the task, and the root mount is the first."""

    def prepare() -> None:
        root = decode(tmpfs(tmp_path))
        for name in (b"/old", b"/proc"):
            os.mkdir(root + name)
        syscalls.pivot_root(root, root + b"/old")
        os.chdir("/")
        syscalls.umount2(b"/old", syscalls.MNT_DETACH)
        tmpfs(b"/proc")

    with sleeper(prepare) as pid:
        found = observe_namespace(pid, 7).mounts
    assert [(mount.mountpoint, mount.type) for mount in found] == [
        ("/", InodeType.DIRECTORY),
        ("/proc", InodeType.DIRECTORY),
    ]


def test_each_namespace_is_observed_once(tmp_path: Path) -> None:
    """Tasks of one namespace share it; the root task's comes first."""
    with sleeper(lambda: tmpfs(tmp_path)) as first, sleeper(lambda: None) as second:
        path = f"/proc/{first}/ns/mnt"

        def join_first() -> None:
            fd = os.open(path, os.O_RDONLY)
            syscalls.setns(fd, syscalls.CLONE_NEWNS)

        with sleeper(join_first, own=False) as third:
            with Places() as places:
                tasks = tuple(task(pid, places)[0] for pid in (first, second, third))
            found = observe_namespaces(tasks)
    assert [each.pid for each in found] == [first, second]
    assert found[0].id == tasks[0].namespaces["mnt"] == tasks[2].namespaces["mnt"]
    here = encode(bytes(tmp_path))
    assert [bool(at(each.mounts, here)) for each in found] == [True, False]


def test_a_task_that_has_ended() -> None:
    """An OSError, as the kernel says it."""
    with sleeper(lambda: None) as pid, Places() as places:
        seen, _ = task(pid, places)
    with pytest.raises(OSError, match=str(pid)):
        observe_namespaces((seen,))


def test_observing_changes_nothing(tmp_path: Path) -> None:
    """No descriptor is left, and access times are not touched."""
    with sleeper(lambda: tmpfs(tmp_path)) as pid:
        before = (os.listdir("/proc/self/fd"), Path(f"/proc/{pid}/mountinfo").read_bytes())
        observe_namespace(pid, 7)
        assert before == (
            os.listdir("/proc/self/fd"),
            Path(f"/proc/{pid}/mountinfo").read_bytes(),
        )
