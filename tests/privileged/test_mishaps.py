# SPDX-License-Identifier: Apache-2.0
"""Whatever fails and whenever it is killed: layers are untouched and nothing stays behind."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from faults import Fault
from mishaps.ground import MOUNTCR, OPERATIONS, Ground, interesting
from mountcr import journal
from mountcr.kernel import mounts, syscalls
from mountcr.paths import decode, encode
from scratch import has, needs

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("MOUNTCR_KILLS", "20"))
"""How often an operation is killed, over all of them; `python -m mishaps` does more."""

pytestmark = [
    pytest.mark.requires("overlay"),
    pytest.mark.timeout(600),
    pytest.mark.any_kernel,
]


def operations(*, serving: bool) -> list[str]:
    return [name for name, each in OPERATIONS.items() if serving or not each.serves]


@pytest.mark.parametrize("name", operations(serving=False))
def test_a_call_that_fails(tmp_path: Path, name: str) -> None:
    """
    The first, the last and another one of each call fail, or the command is killed at it.

    The exit status is a documented one and one line says why; or the result is right all the same.
    """
    ground = Ground(tmp_path / "ground")
    for fault in interesting(ground.calls(name)):
        ground.suffer(name, fault)


@pytest.mark.parametrize("name", operations(serving=True))
def test_a_kill_at_any_moment(tmp_path: Path, name: str) -> None:
    """After a clean-up files, mounts and processes are as before; the clean-up can be repeated."""
    programs = OPERATIONS[name].needs
    if programs and not any(map(shutil.which, programs)):
        pytest.skip(f"there is no {programs[0]}")
    if programs:
        needs("open_tree")
    ground = Ground(tmp_path / "ground")
    whole = ground.seconds(name)
    choice = random.Random(name)  # noqa: S311  # has to be the same every time
    for _ in range(max(1, KILLS // len(OPERATIONS))):
        ground.kill(name, choice.uniform(0, whole))


@pytest.mark.parametrize(
    ("name", "call"), [("overlay", "move_mount"), ("vfs", "move_mount"), ("convert", "renameat")]
)
def test_a_kill_at_the_last_step(tmp_path: Path, name: str, call: str) -> None:
    """What is complete, and about to be put into its place, goes too."""
    if call == "move_mount":
        needs("open_tree", "move_mount")
    ground = Ground(tmp_path / "ground")
    last = ground.calls(name)[call]
    assert ground.suffer(name, Fault(call, last, 0)) == -9


def test_no_room_for_the_copy(tmp_path: Path) -> None:
    """A file system that is full ends the rebuild with one line, and is as empty as before."""
    ground = Ground(tmp_path / "ground")
    small = ground.top / "new"
    small.mkdir()
    syscalls.mount(b"small", bytes(small), b"tmpfs", 0, b"size=128k")
    done = subprocess.run(ground.words("vfs"), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(small) == []
    syscalls.umount2(bytes(small))
    small.rmdir()
    ground.unchanged("no room")


def test_a_target_that_is_read_only(tmp_path: Path) -> None:
    """The parent of the new layer and of the mountpoint cannot be written into."""
    ground = Ground(tmp_path / "ground")
    small = ground.top / "new"
    small.mkdir()
    mounts.bind(encode(str(small)), encode(str(small)))
    mounts.set_attributes(encode(str(small)), ["ro"])
    words = ground.words("vfs")
    for command in (words, [str(small / "at") if each.endswith("/at") else each for each in words]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done
        assert "Read-only file system" in done.stderr
        assert "Traceback" not in done.stderr
    syscalls.umount2(bytes(small))
    small.rmdir()
    ground.unchanged("read-only")


def test_a_full_place_for_records(tmp_path: Path) -> None:
    """Without a record nothing is begun: what it makes could not be found."""
    ground = Ground(tmp_path / "ground")
    directory = os.path.dirname(decode(journal.DIRECTORY))
    syscalls.mount(b"small", directory, b"tmpfs", 0, b"size=4k,nr_inodes=1")
    done = subprocess.run(ground.words("vfs"), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert done.stderr.splitlines()[0].startswith("mountcr: the journal ")
    syscalls.umount2(directory)
    ground.unchanged("no room for the record")


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    """When only the worker is killed, as for want of memory, the command undoes what it did."""
    needs("open_tree")  # else there is no worker
    ground = Ground(tmp_path / "ground")
    script = (
        "import os, signal, sys\n"
        "from mountcr.kernel import mounts\n"
        "from mountcr.cli import main\n"
        "main_pid, clone = os.getpid(), mounts.clone\n"
        "def killed(*words, **more):\n"
        "    if os.getpid() != main_pid: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return clone(*words, **more)\n"
        "mounts.clone = killed\n"
        "sys.exit(main())"
    )
    words = ground.words("overlay")[len(MOUNTCR) :]
    command = [MOUNTCR[0], "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert "ended with status -9" in done.stderr
    ground.unchanged("a worker was killed")


def test_faults_are_where_they_should_be(tmp_path: Path) -> None:
    """The library that makes calls fail does: the claims above are about something."""
    ground = Ground(tmp_path / "ground")
    assert ground.suffer("convert", Fault("mkdirat", 1, errno.ENOSPC)) == 1
    calls = ground.calls("convert")
    assert {"mkdirat", "fchown", "utimensat", "mknodat", "linkat"} <= set(calls)
    assert "openat2" in calls or not has("openat2")
