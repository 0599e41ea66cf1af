# SPDX-License-Identifier: Apache-2.0
"""Work in a private mount namespace leaves nothing behind, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr import errors, mountinfo
from mountcr.errors import MountcrError, PrivilegeError, RefusedError
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.private import in_namespace_of, in_private_namespace
from mountcr.model import Finding, Severity
from mountcr.paths import KPath, decode, join
from scratch import LADDER, directories, lack, mounted, needs, tmpfs

if TYPE_CHECKING:
    from collections.abc import Generator

LADDERS = pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
FINDING = Finding(rule="V4", severity=Severity.REFUSAL, mount="/x", message="no", cure="do")


@contextlib.contextmanager
def nothing_leaks() -> Generator[None]:
    """Hold mount table, descriptors and children to be the same afterwards."""
    table = mountinfo.read()
    descriptors = os.listdir("/proc/self/fd")
    yield
    assert mountinfo.read() == table
    assert os.listdir("/proc/self/fd") == descriptors
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@LADDERS
def test_what_work_returns_comes_back(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """With mounts made there that are seen there, and nowhere else."""
    lack(*lacking)

    def work() -> tuple[int, list[str]]:
        at = tmpfs(tmp_path)
        return os.getpid(), [mount.fstype for mount in mounted(at)]

    with nothing_leaks():
        pid, types = in_private_namespace(work)
    assert types == ["tmpfs"]
    assert pid != os.getpid()


def test_much_comes_back() -> None:
    """More than a socket holds at once."""
    assert len(in_private_namespace(lambda: b"x" * 10_000_000)) == 10_000_000


RAISED: tuple[BaseException, ...] = (
    MountcrError("failed", hint="try"),
    errors.UsageError("senseless", hint="see"),
    errors.AmbiguousError("two", ("runc:a", "crun:b"), hint="longer"),
    errors.DocumentError("damaged", hint="again"),
    errors.NotFoundError("none", similar=("webb",), hint="ls"),
    errors.GoneError("ended", hint="start"),
    RefusedError("refused", (FINDING,), hint="cure"),
    errors.VerificationError("other", ("/a: size",), hint="bring"),
    errors.CapabilityError("cannot", probe="x", hint="newer"),
    PrivilegeError("may not", hint="root"),
    errors.StepError("step", errno=errno.EBUSY, hint="look"),
    errors.LeftBehindError("left", ("/mnt",), hint="unmount"),
    errors.CriuError("criu", first_error="E", context=("a",), log="/l", hint="log"),
    errors.ImageError("image", file="/core.img", offset=3, hint="again"),
    OSError(errno.EBUSY, "busy", "/mnt"),
    KeyError("x"),
    KeyboardInterrupt(),
)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_what_work_raises_comes_back_whole(error: BaseException, tmp_path: Path) -> None:
    """Class, message and every attribute; what was mounted is gone."""

    def work() -> None:
        tmpfs(tmp_path)
        raise error

    with nothing_leaks(), pytest.raises(type(error)) as caught:
        in_private_namespace(work)
    assert type(caught.value) is type(error)
    assert caught.value.args == error.args
    assert vars(caught.value) == vars(error)


def test_what_cannot_be_pickled_is_told_all_the_same() -> None:
    """An exception or value that cannot travel is an error that shows it."""

    class LocalError(Exception):
        pass

    def work() -> None:
        raise LocalError("from inside")

    with nothing_leaks(), pytest.raises(MountcrError, match="from inside"):
        in_private_namespace(work)
    with nothing_leaks(), pytest.raises(MountcrError, match="lambda"):
        in_private_namespace(lambda: lambda: None)


def test_work_that_is_killed(tmp_path: Path) -> None:
    """An error with the signal, and no mount is left."""

    def work() -> None:
        tmpfs(tmp_path)
        os.kill(os.getpid(), signal.SIGKILL)

    with nothing_leaks(), pytest.raises(MountcrError, match="status -9"):
        in_private_namespace(work)


def test_work_that_exits() -> None:
    """Without a word, that is an error too."""
    with nothing_leaks(), pytest.raises(MountcrError, match="status 3"):
        in_private_namespace(lambda: os._exit(3))


def ended(pid: int) -> bool:
    """Whether a process is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return True
    return stat.rpartition(b") ")[2][:1] in {b"Z", b"X"}


def wait_until_ended(pid: int) -> None:
    """Wait fifteen seconds at most."""
    until = time.monotonic() + 15
    while not ended(pid):
        assert time.monotonic() < until, f"{pid} goes on"
        time.sleep(0.01)


def test_a_caller_that_is_killed(tmp_path: Path) -> None:
    """With the caller ends the work, and with it every mount that it made."""
    before = mountinfo.read()
    reader, writer = os.pipe()
    caller = os.fork()
    if not caller:

        def work() -> None:
            tmpfs(tmp_path)
            os.write(writer, b"%d\n" % os.getpid())
            signal.pause()

        try:
            in_private_namespace(work)
        finally:
            os._exit(1)
    worker = int(os.read(reader, 32))
    assert not ended(worker)
    os.kill(caller, signal.SIGKILL)
    os.waitpid(caller, 0)
    wait_until_ended(worker)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(worker, 0)  # ours now: a test is a subreaper
    os.close(reader)
    os.close(writer)
    assert mountinfo.read() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_caller_that_is_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    """The work is interrupted as well and may clean up; then the caller goes on with its signal."""

    class InterruptedHereError(Exception):
        pass

    def interrupt(_number: int, _frame: object) -> None:
        raise InterruptedHereError

    caller = os.getpid()
    trace = tmp_path / "trace"

    def work() -> None:
        try:
            os.kill(caller, number)
            time.sleep(30)
        except KeyboardInterrupt:
            trace.write_text("cleaned up")
            raise

    previous = signal.signal(number, interrupt)
    try:
        with nothing_leaks(), pytest.raises(InterruptedHereError):
            in_private_namespace(work)
    finally:
        signal.signal(number, previous)
    assert trace.read_text() == "cleaned up"


@LADDERS
def test_what_the_host_mounts_meanwhile_arrives(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """And what is mounted inside does not arrive at the host, although that one is shared."""
    base = tmpfs(tmp_path)
    theirs, ours = directories(base, "theirs", "ours")
    mounts.set_propagation(base, "shared")
    lack(*lacking)
    to_work, from_caller = os.pipe()
    to_caller, from_work = os.pipe()
    helper = os.fork()
    if not helper:
        try:
            os.read(to_caller, 1)
            tmpfs(decode(theirs))
            os.write(from_caller, b"x")
        finally:
            os._exit(0)

    def work() -> list[str]:
        tmpfs(decode(ours))
        os.write(from_work, b"x")
        os.read(to_work, 1)
        return [mount.mountpoint for mount in mountinfo.read()]

    seen = in_private_namespace(work)
    os.waitpid(helper, 0)
    assert {theirs, ours} <= set(seen)
    assert len(mounted(theirs)) == 1
    assert mounted(ours) == []
    for fd in (to_work, from_caller, to_caller, from_work):
        os.close(fd)


def test_descriptors_come_back_as_our_own(tmp_path: Path) -> None:
    """Also of a mount that was made inside and is attached here."""
    at, place = directories(tmpfs(tmp_path), "at", "place")
    fds: list[int] = []

    def work() -> None:
        tmpfs(decode(place))
        os.mkdir(decode(place) + b"/made inside")
        fds.append(mounts.clone(place))

    needs("open_tree", "move_mount")
    in_private_namespace(work, fds=fds)
    (fd,) = fds
    assert not os.get_inheritable(fd)
    assert mounted(place) == []
    mounts.attach(fd, at)
    os.close(fd)
    assert os.listdir(decode(at)) == [b"made inside"]


def test_descriptors_of_work_that_fails_are_not_left_open() -> None:
    """Whether or not any were made before."""
    fds: list[int] = []

    def work() -> None:
        fds.append(os.open("/", os.O_PATH))
        raise KeyError

    before = os.listdir("/proc/self/fd")
    with pytest.raises(KeyError):
        in_private_namespace(work, fds=fds)
    for fd in fds:
        os.close(fd)
    assert os.listdir("/proc/self/fd") == before


def test_private_within_private(tmp_path: Path) -> None:
    """One may be in another, as steps that copy do."""

    def inner() -> int:
        tmpfs(tmp_path)
        return len(mountinfo.read())

    def outer() -> tuple[int, int]:
        tmpfs(tmp_path)
        return in_private_namespace(inner), len(mountinfo.read())

    with nothing_leaks():
        here = len(mountinfo.read())
        assert in_private_namespace(outer) == (here + 2, here + 1)


def test_without_the_privilege(tmp_path: Path) -> None:
    """A PrivilegeError that says which, and what to do."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            in_private_namespace(lambda: None)
        except PrivilegeError as error:
            os.write(writer, f"{error.message}|{error.hint}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    said = os.read(reader, 1000).decode()
    os.close(reader)
    assert "CAP_SYS_ADMIN" in said
    assert said.endswith("|run as root")


def test_in_the_namespace_of_another(tmp_path: Path) -> None:
    """What is mounted there stays there, and only there."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            mounts.set_propagation(KPath("/"), "private", recursive=True)
            os.write(writer, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.read(reader, 1)
    at = KPath(str(tmp_path))

    def fail() -> None:
        raise KeyError

    try:
        with pytest.raises(KeyError):
            in_namespace_of(child, fail)
        made = in_namespace_of(child, lambda: tmpfs(tmp_path))
        assert made == at
        assert mounted(at) == []
        assert [m.fstype for m in mountinfo.read(child) if m.mountpoint == at] == ["tmpfs"]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
    with pytest.raises(FileNotFoundError):
        in_namespace_of(child, lambda: None)


def test_join_is_of_mountinfo_paths(tmp_path: Path) -> None:
    """A mount in a private namespace is found by the path that it was made at."""
    assert in_private_namespace(lambda: len(mounted(join(tmpfs(tmp_path), "")))) == 1
