# SPDX-License-Identifier: Apache-2.0
"""A FUSE union is mounted with its server, ends with it, and leaves nothing when it fails."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from mountcr import mountinfo, procstat
from mountcr.driver import get_driver
from mountcr.errors import CapabilityError, StepError
from mountcr.execute import applied
from mountcr.graph.tree import MountTree
from mountcr.kernel import fuse, mounts, servers, syscalls
from mountcr.kernel.live import LiveKernel
from mountcr.observation.fuse import server_of, with_servers_of_all
from mountcr.paths import KPath, decode, encode, join
from mountcr.planning.steps import Directory, FuseUnion
from mountcr.stack import Stack
from scratch import directories, kept_namespace, lack, mounted, needs, tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mountcr.kernel.servers import Server
    from mountcr.model import Mount
    from mountcr.planning.steps import Step

DRIVERS = ("unionfs", "fuse-overlayfs")
KERNEL = LiveKernel()

pytestmark = pytest.mark.parametrize("driver", DRIVERS)


class Layers(NamedTuple):
    """A stack of two lower layers with a file each, an upper, and where it goes."""

    stack: Stack
    at: KPath


@pytest.fixture(autouse=True)
def _program(driver: str, require: Callable[[str], str]) -> None:
    require(driver)


def layers(tmp_path: Path, driver: str, *, name: bytes = b"s", clones: bool = True) -> Layers:
    """Make the layers on a file system of their own, for a server that this kernel can keep."""
    if clones:
        needs("open_tree")
    base = tmpfs(tmp_path)
    top, bottom, upper, work, at = directories(
        base, *(name + b"/" + each for each in (b"top", b"bottom", b"upper", b"work", b"at"))
    )
    for layer, file in ((top, b"/high"), (bottom, b"/low")):
        with open(decode(layer) + file, "wb") as opened:
            opened.write(file)
    work_for = work if driver == "fuse-overlayfs" else None
    return Layers(Stack(driver=driver, lowers=(top, bottom), upper=upper, work=work_for), at)


def steps(found: Layers) -> list[Step]:
    """Give the steps of the driver."""
    return list(get_driver(found.stack.driver).assemble(found.stack, found.at))


def running(found: Layers) -> list[Server]:
    """Give the servers with these layers in their command lines."""
    mark = found.stack.lowers[0]
    return [each for each in servers.find_servers() if mark in " ".join(each.words)]


def gone(found: Layers) -> bool:
    """Wait for the end of the servers; tell whether it came."""
    return all(servers.wait(server, 10) for server in running(found))


def everything_ended() -> None:
    """Claim that every process that was started below this one ends, guards and servers too."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            time.sleep(0.001)
    pytest.fail("a process is left")


def attempt(found: Layers, *, arguments: Sequence[str] = (), program: str = "") -> None:
    """Mount with other words than the driver's."""
    (step,) = steps(found)
    assert isinstance(step, FuseUnion)
    words = (*step.arguments, *map(KPath, arguments))
    programs = (program,) if program else step.programs
    KERNEL.mount_fuse(found.at, programs, step.package, step.layers, words)


# --- Mounting and unmounting ----------------------------------------------------------------------


def test_layers_are_merged_and_the_upper_is_written(driver: str, tmp_path: Path) -> None:
    """What is in the layers shows, what is written comes into the upper, with no attribute set."""
    found = layers(tmp_path, driver)
    with applied(steps(found), KERNEL):
        assert {b"high", b"low"} <= set(os.listdir(decode(found.at)))
        with open(decode(found.at) + b"/low", "ab") as file:
            file.write(b" and more")
    assert found.stack.upper
    with open(decode(found.stack.upper) + b"/low", "rb") as file:
        assert file.read() == b"/low and more"
    (mount,) = mounted(found.at)
    assert mount.options == "rw,relatime"
    assert mount.optional == ()
    KERNEL.unmount(found.at)
    assert gone(found)


def test_devices_and_other_users(driver: str, tmp_path: Path) -> None:
    """A root has devices that work and is for everybody."""
    found = layers(tmp_path, driver)
    null = decode(found.stack.lowers[0]) + b"/null"
    before = os.umask(0)
    os.mknod(null, 0o20666, os.makedev(1, 3))
    os.umask(before)
    with applied(steps(found), KERNEL) as undo:
        done = subprocess.run(
            ["sh", "-c", "echo x >null"], cwd=decode(found.at), user=65534, group=65534, check=False
        )
        assert done.returncode == 0
        undo()


def test_a_stack_without_upper_is_read_only(driver: str, tmp_path: Path) -> None:
    """Nothing can be written, and nothing was written into the topmost layer."""
    found = layers(tmp_path, driver)
    found = found._replace(stack=Stack(driver=driver, lowers=found.stack.lowers))
    with applied(steps(found), KERNEL) as undo:
        with pytest.raises(OSError, match=r".") as caught:
            os.mkdir(decode(found.at) + b"/new")
        assert caught.value.errno in {errno.EROFS, errno.EACCES, errno.EPERM}
        undo()
    assert os.listdir(decode(found.stack.lowers[0])) == [b"high"]


@pytest.mark.parametrize(
    "name", [b"a,b", b"a\\b", b"a b", b"a\nb", b"a\\054b", "ä".encode(), b"\xff"]
)
def test_names_of_layers(driver: str, name: bytes, tmp_path: Path) -> None:
    """Whatever a layer is called, but for what the programs have no escape for."""
    found = layers(tmp_path, driver, name=name)
    with applied(steps(found), KERNEL) as undo:
        assert b"low" in os.listdir(decode(found.at))
        (mount,) = with_servers_of_all(mounted(found.at))
        again = get_driver(driver).recognise(mount, MountTree(()))
        assert again is not None
        assert again.directories == found.stack.directories
        assert again.work == found.stack.work
        undo()


def test_undo_leaves_neither_mount_nor_server(driver: str, tmp_path: Path) -> None:
    """The server has ended when the undo is done."""
    found = layers(tmp_path, driver)
    before = mountinfo.read()
    with applied(steps(found), KERNEL) as undo:
        (server,) = running(found)
        assert servers.is_attached(server)
        undo()
        assert running(found) == []
    assert mountinfo.read() == before


def test_a_later_step_that_fails_ends_the_server(driver: str, tmp_path: Path) -> None:
    """Rollback takes the server along, also when somebody uses the mount."""
    found = layers(tmp_path, driver)
    bad = Directory(path=KPath("/proc/nowhere"), because="it fails")
    user = -1

    def use(_: Step) -> None:
        nonlocal user
        user = os.open(decode(found.at) + b"/low", os.O_RDONLY)

    with pytest.raises(StepError), applied([*steps(found), bad], KERNEL, report=use):
        pass
    with pytest.raises(OSError, match=r".") as caught:
        os.close(user)
    assert caught.value.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    assert running(found) == []
    assert mounted(found.at) == []


def test_the_server_is_alone(driver: str, tmp_path: Path) -> None:
    """It leads a session at the root directory, without descriptors or mounts of ours."""
    found = layers(tmp_path, driver)
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # noqa: FBT003
    elsewhere = join(encode(str(tmp_path)), "elsewhere")
    os.mkdir(decode(elsewhere))
    tmpfs(decode(elsewhere))
    with applied(steps(found), KERNEL) as undo:
        (server,) = running(found)
        assert os.getsid(server.pid) == server.pid
        assert os.readlink(f"/proc/{server.pid}/cwd") == "/"
        links = {os.readlink(f"/proc/{server.pid}/fd/{fd}") for fd in range(3)}
        assert links == {"/dev/null", "/memfd:server-stderr (deleted)"}
        assert os.readlink(f"/proc/self/fd/{writer}") not in {
            os.readlink(f"/proc/{server.pid}/fd/{fd}")
            for fd in os.listdir(f"/proc/{server.pid}/fd")
        }
        theirs = {mount.mountpoint for mount in mountinfo.read(server.pid)}
        assert elsewhere not in theirs
        assert found.at not in theirs
        assert server.mountpoint not in theirs
        undo()
    os.close(reader)
    os.close(writer)


def test_what_servers_tell_is_found(driver: str, tmp_path: Path) -> None:
    """By the device of the mount, and by the token; another token finds nothing."""
    found = layers(tmp_path, driver)
    with applied(steps(found), KERNEL) as undo:
        (server,) = running(found)
        (mount,) = mounted(found.at)
        assert server_of(mount) == server
        assert server.dev == mount.dev
        assert servers.find_servers(server.token) == [server]
        assert servers.find_servers("another") == []
        undo()


def test_a_server_that_somebody_started_is_found(driver: str, tmp_path: Path) -> None:
    """Its relative paths are completed by where it was started."""
    found = layers(tmp_path, driver)
    top, bottom = (decode(each) for each in found.stack.lowers)
    place = os.path.dirname(top)
    words = {
        "unionfs": ["-o", "cow", "upper=RW:top:bottom=ro"],
        "fuse-overlayfs": ["-o", "lowerdir=top:bottom,upperdir=upper", "-oworkdir=work"],
    }[driver]
    command = " ".join([driver, *words, "at"])
    subprocess.run(["sh", "-c", f'cd "$1" && {command}', "sh", place], check=True)
    (mount,) = with_servers_of_all(mounted(found.at))
    again = get_driver(driver).recognise(mount, MountTree(()))
    assert again is not None
    assert (again.lowers, again.upper) == (found.stack.lowers, found.stack.upper)
    server = server_of(mount)
    assert server is not None
    assert server.token == ""
    KERNEL.unmount(found.at)
    assert servers.wait(server, 5)
    assert bottom


def test_a_killed_server_is_survived_by_umount(driver: str, tmp_path: Path) -> None:
    """Its mount answers ENOTCONN, and goes."""
    found = layers(tmp_path, driver)
    with applied(steps(found), KERNEL) as undo:
        (server,) = running(found)
        assert servers.end(server)
        with pytest.raises(OSError, match=r".") as caught:
            os.listdir(decode(found.at))
        assert caught.value.errno in {errno.ENOTCONN, errno.ECONNABORTED}
        undo()
    assert mounted(found.at) == []


def test_another_process_with_the_pid_is_left_alone(driver: str, tmp_path: Path) -> None:
    """A pid is compared with the time at which its process started."""
    del driver, tmp_path
    with subprocess.Popen(["sleep", "1000"]) as other:
        try:
            assert servers.end(servers.Server(other.pid, 1, "", ()))
            assert other.poll() is None
        finally:
            other.kill()


# --- What fails -----------------------------------------------------------------------------------


def test_a_layer_that_is_gone(driver: str, tmp_path: Path) -> None:
    """It is named, and no server was started."""
    found = layers(tmp_path, driver)
    os.unlink(decode(found.stack.lowers[1]) + b"/low")
    os.rmdir(decode(found.stack.lowers[1]))
    with pytest.raises(StepError, match=r"layer 3 of . is gone: .*/bottom"):
        attempt(found)
    assert mounted(found.at) == []


def test_a_server_that_fails_says_why(driver: str, tmp_path: Path) -> None:
    """Its own last words are in the error, and nothing is left of it."""
    found = layers(tmp_path, driver)
    wrong = {
        "unionfs": (["-o", "bogus"], r"unionfs ended with status 1: .*bogus"),
        "fuse-overlayfs": (
            ["-o", "lowerdir=/nowhere"],
            r"fuse-overlayfs ended with status 1: .*No such file",
        ),
    }
    arguments, words = wrong[driver]
    with pytest.raises(StepError, match=words) as caught:
        attempt(found, arguments=arguments)
    assert "\n" not in caught.value.message
    assert running(found) == []
    assert mounted(found.at) == []


def test_a_server_that_takes_its_mount_back_says_why(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libfuse 2 mounts before it finds an option wrong is not taken for the union."""
    found = layers(tmp_path, driver)
    seen, gone = tmp_path / "seen", tmp_path / "gone"
    program = tmp_path / "program"
    program.write_text(
        "#!/bin/sh\n"
        'for at; do :; done; mount -t tmpfs none "$at"\n'
        f"while [ ! -e {shlex.quote(str(seen))} ]; do sleep 0.01; done\n"
        f'umount "$at"; : >{shlex.quote(str(gone))}; sleep 0.2\n'
        "echo unknown option >&2; exit 1\n"
    )
    program.chmod(0o755)

    def read() -> tuple[Mount, ...]:
        seen.touch()
        until = time.monotonic() + 10
        while not gone.exists() and time.monotonic() < until:
            time.sleep(0.01)
        return table()

    table = mountinfo.read
    monkeypatch.setattr(mountinfo, "read", read)
    with pytest.raises(StepError, match="program ended with status 1: unknown option"):
        attempt(found, program=str(program))
    monkeypatch.undo()
    assert mounted(found.at) == []


def test_a_kernel_without_open_tree(driver: str, tmp_path: Path) -> None:
    """It is refused, by the name of the call, before a server is started."""
    found = layers(tmp_path, driver, clones=False)
    lack("open_tree")
    with pytest.raises(CapabilityError, match=r"without open_tree\(2\)") as caught:
        attempt(found)
    assert caught.value.probe == "open_tree"
    assert running(found) == []
    assert mounted(found.at) == []


def test_a_program_that_is_missing(driver: str, tmp_path: Path) -> None:
    """The hint names the package."""
    found = layers(tmp_path, driver)
    with pytest.raises(CapabilityError, match=r"there is no no-such-program here") as caught:
        attempt(found, program="no-such-program")
    assert caught.value.hint
    assert driver in caught.value.hint


def test_a_program_that_does_not_start(driver: str, tmp_path: Path) -> None:
    """The kernel's word is in the error."""
    found = layers(tmp_path, driver)
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF, but not really")
    program.chmod(0o755)
    with pytest.raises(StepError, match="Exec format error"):
        attempt(found, program=str(program))


def test_a_server_that_never_mounts(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up and killed."""
    found = layers(tmp_path, driver)
    monkeypatch.setattr(fuse, "_PATIENCE", 0.2)
    with pytest.raises(StepError, match="did not mount within"):
        attempt(found, program=str(sleeper(tmp_path)))
    assert running(found) == []


def test_a_place_that_is_gone(driver: str, tmp_path: Path) -> None:
    """The kernel's error; the server has ended."""
    found = layers(tmp_path, driver)
    os.rmdir(decode(found.at))
    with pytest.raises(OSError, match=r".") as caught:
        attempt(found)
    assert caught.value.errno == errno.ENOENT
    assert running(found) == []


def sleeper(tmp_path: Path) -> Path:
    """A program that takes every word and never mounts."""
    program = tmp_path / "sleeper"
    os.mkfifo(tmp_path / "never")
    # without a child of its own, which would have the same command line for a moment
    program.write_text(f"#!/bin/sh\nread -r line <{shlex.quote(str(tmp_path / 'never'))}\n")
    program.chmod(0o755)
    return program


# --- kill -9 --------------------------------------------------------------------------------------


def killed(work: Callable[[], None]) -> None:
    """Do something in a child that is killed in the midst of it; whatever it started ends too."""
    syscalls.prctl_set_child_subreaper(enable=True)
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    everything_ended()


def test_killed_while_the_server_starts(driver: str, tmp_path: Path) -> None:
    """The guard kills a server whose mountcr was killed."""
    found = layers(tmp_path, driver)
    program = str(sleeper(tmp_path))

    def work() -> None:
        doomed = os.getpid()
        if os.fork() == 0:
            until = time.monotonic() + 10
            while not running(found) and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(doomed, signal.SIGKILL)
            os._exit(0)
        attempt(found, program=program)

    killed(work)
    assert running(found) == []


def test_killed_together_with_the_guard(driver: str, tmp_path: Path) -> None:
    """What then is left is found, once it is old enough, and can be ended."""
    found = layers(tmp_path, driver)
    syscalls.prctl_set_child_subreaper(enable=True)
    child = os.fork()
    if child == 0:
        attempt(found, program=str(sleeper(tmp_path)))
    while not running(found):
        time.sleep(0.01)
    (server,) = running(found)
    os.kill(procstat.read_stat(server.pid).parent, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    assert server not in servers.stale_servers()
    assert server in servers.stale_servers(0)
    assert servers.end(server)
    everything_ended()


def test_what_is_mounted_is_not_stale(driver: str, tmp_path: Path) -> None:
    """A server that serves somebody is nothing to clean up."""
    found = layers(tmp_path, driver)
    with applied(steps(found), KERNEL) as undo:
        assert not {*running(found)} & {*servers.stale_servers(0)}
        undo()


def test_what_is_mounted_where_no_process_is(driver: str, tmp_path: Path) -> None:
    """A namespace that only a descriptor keeps is somebody too; with it the server ends."""
    found = layers(tmp_path, driver)
    with applied(steps(found), KERNEL):
        (server,) = running(found)
        with kept_namespace(lambda: None):
            syscalls.umount2(decode(found.at))
            assert servers.is_attached(server)
            assert server not in servers.stale_servers(0)
        assert servers.wait(server, 10)


def test_killed_before_the_mount_is_attached(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount ends with the descriptor of the killed process, and the server with the mount."""
    found = layers(tmp_path, driver)

    def kill(_fd: int, _at: KPath) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        monkeypatch.setattr(mounts, "attach", kill)
        attempt(found)

    killed(work)
    assert running(found) == []
    assert mounted(found.at) == []


def test_killed_at_any_moment(driver: str, tmp_path: Path) -> None:
    """Either the mount is there and its server too, or neither is."""
    found = layers(tmp_path, driver)
    syscalls.prctl_set_child_subreaper(enable=True)
    for moment in range(40):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            try:
                attempt(found)
            finally:
                os._exit(0)
        time.sleep(moment * 0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if mounted(found.at):
            assert os.listdir(decode(found.at))
            syscalls.umount2(decode(found.at), syscalls.MNT_DETACH)
        everything_ended()
