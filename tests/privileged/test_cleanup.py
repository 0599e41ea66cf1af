# SPDX-License-Identifier: Apache-2.0
"""`mountcr cleanup` removes what a killed operation has made, all of it, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr import journal, mountinfo
from mountcr.errors import PrivilegeError
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.identity import identify, unique_mount_id
from mountcr.kernel.live import LiveKernel
from mountcr.operations import fate
from mountcr.operations.cleanup import CleanupResult, cleanup
from mountcr.operations.fate import Fate, fate_of
from mountcr.operations.leftovers import recorded
from mountcr.paths import KPath, decode, encode
from mountcr.procstat import read_stat
from mountcr.rootfs.partial import Partial
from scratch import kept_namespace, needs, tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

RECORDS = Path(os.fsdecode(decode(journal.DIRECTORY)))


def killed(work: Callable[[], object], *, operation: str = "test") -> None:
    """Do something in an operation that is killed then."""
    child = os.fork()
    if child == 0:
        try:
            with recorded(operation):
                work()
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


class OopsError(Exception):
    """What makes an operation fail."""


def own_records() -> None:
    """Have a /run/mountcr of one's own."""
    RECORDS.parent.mkdir(exist_ok=True)
    tmpfs(RECORDS.parent)


def clean() -> CleanupResult:
    """Clean up; the record is gone then, and nothing is left to do."""
    result = cleanup()
    assert result.left == ()
    assert os.listdir(RECORDS) == []
    assert cleanup() == CleanupResult(removed=(), left=(), running=())
    return result


def kpath(path: Path) -> KPath:
    return encode(str(path))


def test_directories(tmp_path: Path) -> None:
    """Directories that were made go, with what came into the ones that are layers."""
    own_records()
    upper = tmp_path / "new/deep/upper"

    def work() -> None:
        LiveKernel().make_directory(kpath(upper))
        (upper / "sub").mkdir()
        (upper / "sub/file").write_text("x")

    killed(work)
    dry = cleanup(dry_run=True)
    assert upper.is_dir()
    assert dry.removed == tuple(
        f"directory {kpath(each)}" for each in (upper, upper.parent, upper.parent.parent)
    )
    assert clean().removed == dry.removed
    assert os.listdir(tmp_path) == []


def test_a_parent_that_others_use_stays(tmp_path: Path) -> None:
    """Of directories that are no layers only empty ones go."""
    own_records()
    killed(lambda: journal.make_directories(bytes(tmp_path / "a/b/c")))
    (tmp_path / "a/b/others").mkdir()
    assert clean().removed == (f"directory {kpath(tmp_path / 'a/b/c')}",)
    assert (tmp_path / "a/b/others").is_dir()


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    """A directory that had to be made by nobody is in no record."""
    own_records()
    (tmp_path / "there").mkdir()
    killed(lambda: LiveKernel().make_directory(kpath(tmp_path / "there")))
    assert clean().removed == ()
    assert (tmp_path / "there").is_dir()


def test_another_directory_of_the_same_name_stays(tmp_path: Path) -> None:
    """Also when the file system gives it the inode number of the first, as ext4 does at once."""
    own_records()
    upper = tmp_path / "upper"
    killed(lambda: LiveKernel().make_directory(kpath(upper)))
    number = upper.stat().st_ino
    upper.rmdir()
    upper.mkdir()
    (upper / "precious").write_text("x")
    assert clean().removed == ()
    assert (upper / "precious").exists(), f"inode {number}, then {upper.stat().st_ino}"


def test_a_directory_that_is_in_use_stays(tmp_path: Path) -> None:
    """A layer that is mounted by now is named, with where, and its record stays."""
    own_records()
    upper = tmp_path / "upper"
    killed(lambda: LiveKernel().make_directory(kpath(upper)))
    (tmp_path / "at").mkdir()
    mounts.bind(kpath(upper), kpath(tmp_path / "at"))
    result = cleanup()
    assert result.removed == ()
    assert result.left == (f"directory {kpath(upper)} (in use: {kpath(tmp_path / 'at')})",)
    assert upper.is_dir()
    syscalls.umount2(bytes(tmp_path / "at"))
    assert clean().removed == (f"directory {kpath(upper)}",)


def test_a_directory_in_use_where_no_process_is(tmp_path: Path) -> None:
    """A layer may be mounted in a namespace that only a descriptor keeps; that is named too."""
    own_records()
    upper = tmp_path / "upper"
    killed(lambda: LiveKernel().make_directory(kpath(upper)))
    (tmp_path / "at").mkdir()
    at = kpath(tmp_path / "at")
    with kept_namespace(lambda: mounts.bind(kpath(upper), at)) as fd:
        result = cleanup()
        assert result.removed == ()
        where = f"mnt:[{os.fstat(fd).st_ino}], which no process is in"
        assert result.left == (
            f"directory {kpath(upper)} (in use: {at} in the mount namespace {where})",
        )
        assert upper.is_dir()
    assert clean().removed == (f"directory {kpath(upper)}",)


def test_what_a_restored_container_may_have_written_stays(tmp_path: Path) -> None:
    """From where on the container runs, nobody can tell what in its layer is not needed."""
    own_records()
    upper = tmp_path / "upper"

    def work() -> None:
        LiveKernel().make_directory(kpath(upper))
        journal.note(journal.HandingOver())
        (upper / "file").touch()

    killed(work)
    (left,) = cleanup().left
    assert str(upper) in left
    assert (upper / "file").exists()


def test_what_a_restored_container_has_not_written_into_goes(tmp_path: Path) -> None:
    """A mountpoint in a directory of mountpoints holds nothing when what was mounted is gone."""
    own_records()
    top, inner = tmp_path / "made", tmp_path / "made/volume"

    def work() -> None:
        for path in (top, inner):
            LiveKernel().make_directory(kpath(path))
        journal.note(journal.HandingOver())

    killed(work)
    expected = (f"directory {kpath(inner)}", f"directory {kpath(top)}")
    dry = cleanup(dry_run=True)
    assert (dry.removed, dry.left) == (expected, ())
    assert clean().removed == expected
    assert not top.exists()


def test_an_attached_mount(tmp_path: Path) -> None:
    """A mount goes whose record was written before it was attached; one by others stays."""
    own_records()
    needs("open_tree", "move_mount")
    for name in ("source", "at"):
        (tmp_path / name).mkdir()
    at = kpath(tmp_path / "at")
    source = kpath(tmp_path / "source")
    before = mountinfo.read()

    def work() -> None:
        fd = mounts.clone(source)
        journal.attaching(fd, at)
        mounts.attach(fd, at)

    killed(work)
    assert mountinfo.read() != before
    assert clean().removed == (f"mount {at}",)
    assert mountinfo.read() == before


def test_a_mount_that_was_not_attached(tmp_path: Path) -> None:
    """The same bind, made by somebody else at the same place after the kill, stays."""
    own_records()
    needs("open_tree", "move_mount")
    if not unique_mount_id(b"/"):
        pytest.skip("this kernel gives the ids of mounts out again, and has no others (Linux 6.8)")
    for name in ("source", "at"):
        (tmp_path / name).mkdir()
    at, source = kpath(tmp_path / "at"), kpath(tmp_path / "source")
    killed(lambda: journal.attaching(mounts.clone(source), at))
    mounts.bind(source, at)
    assert clean().removed == ()
    assert [each for each in mountinfo.read() if each.mountpoint == at]


def test_a_mount_that_was_not_attached_below_another_one(tmp_path: Path) -> None:
    """
    Somebody else's mount with the id of the first is nothing of ours, under another one either.

    mountinfo cannot tell: it has the same id, device and place.
    """
    own_records()
    needs("open_tree", "move_mount", "statmount", "listmount")
    for name in ("source", "at"):
        (tmp_path / name).mkdir()
    at, source = kpath(tmp_path / "at"), kpath(tmp_path / "source")
    for _ in range(100):  # the lowest id that is free, unless another process was faster
        killed(lambda: journal.attaching(mounts.clone(source), at))
        (record,) = RECORDS.iterdir()
        *_, line = journal.parse(record.read_bytes())
        assert isinstance(line, journal.Attaching)
        mounts.bind(source, at)
        (mount,) = [each for each in mountinfo.read() if each.mountpoint == at]
        if (mount.id, mount.dev) == (line.id, line.dev):
            break
        syscalls.umount2(bytes(tmp_path / "at"))
        record.unlink()
    else:
        raise AssertionError("another process was always faster")
    tmpfs(tmp_path / "at")
    assert clean() == CleanupResult(removed=(), left=(), running=())
    assert len([each for each in mountinfo.read() if each.mountpoint == at]) == 2


def test_a_mount_below_another_one(tmp_path: Path) -> None:
    """What cannot be reached is named, and the exit status says so."""
    own_records()
    for name in ("source", "at"):
        (tmp_path / name).mkdir()
    at = kpath(tmp_path / "at")
    killed(lambda: LiveKernel().bind(kpath(tmp_path / "source"), at))
    tmpfs(tmp_path / "at")
    command = [sys.executable, "-m", "mountcr", "cleanup", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 8
    assert done.stderr.startswith(f"mountcr: could not remove: mount {at} (another mount lies over")
    assert json.loads(done.stdout)["left"] == [f"mount {at} (another mount lies over it)"]
    syscalls.umount2(bytes(tmp_path / "at"))
    assert clean().removed == (f"mount {at}",)


def test_an_operation_that_runs_is_left_alone(tmp_path: Path) -> None:
    """With all that it has made; when it has ended well there is nothing to do."""
    own_records()
    with recorded("rebuild"):
        LiveKernel().make_directory(kpath(tmp_path / "upper"))
        result = cleanup()
        assert result == CleanupResult(
            removed=(), left=(), running=(f"rebuild, pid {os.getpid()}",)
        )
    assert (tmp_path / "upper").is_dir()
    clean()
    assert (tmp_path / "upper").is_dir()


def test_a_worker_that_still_ends(tmp_path: Path) -> None:
    """What a worker makes although its parent was killed goes as well: it is waited for."""
    own_records()

    def work() -> None:
        if os.fork() == 0:
            time.sleep(0.5)
            LiveKernel().make_directory(kpath(tmp_path / "late"))
            os._exit(0)

    killed(work)
    assert clean().removed == (f"directory {kpath(tmp_path / 'late')}",)
    assert os.listdir(tmp_path) == []


def test_an_operation_that_fails(tmp_path: Path) -> None:
    """What it has not undone itself is undone, and there is no record."""
    own_records()

    def fails() -> None:
        LiveKernel().make_directory(kpath(tmp_path / "new/upper"))
        raise OopsError

    with pytest.raises(OopsError), recorded("rebuild"):
        fails()
    assert os.listdir(tmp_path) == []
    assert os.listdir(RECORDS) == []


def test_one_operation_in_another(tmp_path: Path) -> None:
    """The inner one undoes only its own; what it has done well is undone with the outer one."""
    own_records()

    def inner(name: str, *, well: bool) -> None:
        with recorded("inner"):
            LiveKernel().make_directory(kpath(tmp_path / name))
            if not well:
                raise OopsError

    def work() -> None:
        inner("one", well=True)
        with pytest.raises(OopsError):
            inner("two", well=False)
        assert os.listdir(tmp_path) == ["one"]
        assert len(os.listdir(RECORDS)) == 1

    killed(work)
    assert clean().removed == (f"directory {kpath(tmp_path / 'one')}",)


def test_a_ground(tmp_path: Path) -> None:
    """What was mounted in a directory of the operation's own goes with it."""
    own_records()
    ground = tmp_path / "ground"

    def work() -> None:
        journal.make_partial(bytes(ground), bytes(ground), 0o700, ground=True)
        (ground / "at").mkdir()
        tmpfs(ground / "at")
        (ground / "at/file").write_text("x")

    killed(work)
    assert clean().removed == (f"mount {kpath(ground / 'at')}", f"directory {kpath(ground)}")
    assert os.listdir(tmp_path) == []


def test_processes(tmp_path: Path) -> None:
    """A process with the word of the operation in its environment is killed; others are not."""
    own_records()
    word = f"MOUNTCR_TEST={tmp_path}"

    def work() -> None:
        journal.note(journal.Processes(token=word, what="container"))
        environment = {"MOUNTCR_TEST": str(tmp_path)}
        subprocess.Popen(["/bin/sleep", "100"], env=environment)

    killed(work)
    with subprocess.Popen(["/bin/sleep", "100"], env={"OTHER": str(tmp_path)}) as other:
        (removed,) = clean().removed
        assert removed.startswith("container, pid ")
        assert other.poll() is None
        other.kill()


def test_a_record_that_was_being_written(tmp_path: Path) -> None:
    """A line without an end was not acted upon; an empty record is one of nothing."""
    own_records()
    killed(lambda: LiveKernel().make_directory(kpath(tmp_path / "upper")))
    (record,) = RECORDS.iterdir()
    with record.open("ab") as file:
        file.write(b'{"line":"making","partial":"/e')
    (RECORDS / "1-1").touch()
    (RECORDS / "note.txt").touch()
    assert cleanup().removed == (f"directory {kpath(tmp_path / 'upper')}",)
    assert os.listdir(RECORDS) == ["note.txt"]


def test_a_record_that_is_damaged(tmp_path: Path) -> None:
    """It is named, and stays."""
    own_records()
    RECORDS.mkdir(0o700)
    (RECORDS / "1-1").write_text("what?\n")
    (left,) = cleanup().left
    assert left.startswith(f"record {RECORDS}/1-1 (damaged")


def test_records_are_nobody_elses_business(tmp_path: Path) -> None:
    """Directory and records may be read by root only."""
    own_records()
    with recorded("test"):
        (record,) = RECORDS.iterdir()
        assert record.name.startswith(f"{os.getpid()}-")
        assert record.stat().st_mode & 0o777 == 0o600
        assert RECORDS.stat().st_mode & 0o777 == 0o700


def test_directories_in_the_making_of_an_earlier_boot(tmp_path: Path) -> None:
    """What no record tells of goes from the state directories, unless somebody is at work on it."""
    own_records()
    state = Path("/var/lib/mountcr")
    new = not state.exists()
    state.mkdir(parents=True, exist_ok=True)
    tmpfs(state)
    rootfs = state / "rootfs"
    for name in (".old.mountcr-partial", ".busy.mountcr-partial", "whole"):
        (rootfs / name / "sub").mkdir(parents=True)
    with recorded("convert"):
        journal.making(bytes(rootfs / ".busy.mountcr-partial"), bytes(rootfs / "busy"))
        result = cleanup()
    assert result.removed == (f"directory {rootfs}/.old.mountcr-partial",)
    assert sorted(os.listdir(rootfs)) == [".busy.mountcr-partial", "whole"]
    syscalls.umount2(bytes(state))
    if new:
        state.rmdir()


def test_not_root() -> None:
    """Somebody else cannot, and is told so."""
    os.seteuid(65534)
    with pytest.raises(PrivilegeError, match="root") as caught:
        cleanup()
    assert caught.value.hint


@contextlib.contextmanager
def sleeping() -> Generator[tuple[int, int]]:
    """A process that sleeps, by pid and start time."""
    process = subprocess.Popen(["sleep", "100"])
    try:
        yield process.pid, read_stat(process.pid).start_time
    finally:
        process.kill()
        process.wait()


def exporting(bundle: Path, pid: int, start_time: int) -> None:
    """Give a bundle of a container its name, as an export does."""
    with Partial(kpath(bundle)) as made:
        journal.note(journal.Kept(path=kpath(bundle)))
        dev, ino, handle = identify(decode(made.path))
        line = journal.Exporting(
            path=kpath(bundle), dev=dev, ino=ino, handle=handle, pid=pid, start_time=start_time
        )
        journal.note(line)
        made.complete()


def test_a_bundle_stays_if_its_container_has_ended(tmp_path: Path) -> None:
    """It is all that is left of it; while the container goes on it tells of what never was."""
    own_records()
    bundle = tmp_path / "bundle"
    with sleeping() as (pid, start_time):
        killed(lambda: exporting(bundle, pid, start_time))
        assert clean().removed == (f"bundle {bundle}",)
        assert not bundle.exists()
        killed(lambda: exporting(bundle, pid, start_time))
    assert clean().removed == ()
    assert bundle.is_dir()


def test_another_bundle_of_that_name_stays(tmp_path: Path) -> None:
    """Somebody has put it there since."""
    own_records()
    bundle = tmp_path / "bundle"
    with sleeping() as (pid, start_time):
        killed(lambda: exporting(bundle, pid, start_time))
        bundle.rename(tmp_path / "elsewhere")
        bundle.mkdir()
        assert clean().removed == ()
    assert bundle.is_dir()


@contextlib.contextmanager
def traced(pid: int, seconds: float) -> Generator[None]:
    """Somebody traces a process for so long, and lets it go on then."""
    ptrace_seize = 0x4206  # include/uapi/linux/ptrace.h
    script = (
        "import ctypes, time\n"
        f"assert ctypes.CDLL(None).ptrace({ptrace_seize}, {pid}, None, None) == 0\n"
        f"print(flush=True)\ntime.sleep({seconds})"
    )
    tracer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert tracer.stdout
    assert tracer.stdout.readline() == b"\n"
    try:
        yield
    finally:
        tracer.kill()
        tracer.communicate()


def test_the_fate_of_a_task_is_what_its_tracer_does() -> None:
    """While CRIU has it nobody knows; the answer is that of the moment when it lets go."""
    with sleeping() as (pid, start_time):
        assert fate_of(pid, start_time) is Fate.RUNS
        assert fate_of(pid, start_time + 1) is Fate.ENDED
        with traced(pid, 0.5):
            assert fate_of(pid, start_time, seconds=0) is Fate.TRACED
            assert fate_of(pid, start_time) is Fate.RUNS
        os.kill(pid, signal.SIGSTOP)
        with traced(pid, 100):
            os.kill(pid, signal.SIGKILL)
            assert fate_of(pid, start_time) is Fate.ENDED
    assert fate_of(pid, start_time) is Fate.ENDED


def test_what_criu_still_has_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither images nor a bundle are removed of which nobody knows whether they are needed."""
    own_records()
    bundle = tmp_path / "bundle"
    monkeypatch.setattr(fate, "PATIENCE", 0.1)
    with sleeping() as (pid, start_time):
        with traced(pid, 100):
            killed(lambda: exporting(bundle, pid, start_time))
            (left,) = cleanup().left
            assert left == f"bundle {bundle} (pid {pid} is traced still, as CRIU does)"
            assert bundle.is_dir()
        assert clean().removed == (f"bundle {bundle}",)
