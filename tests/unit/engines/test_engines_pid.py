# SPDX-License-Identifier: Apache-2.0
"""A pid leads to the init of its pid namespace, or to a clear refusal."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mountcr.engines import Roots
from mountcr.engines.pid import Pid, ensure_running, is_pid, read
from mountcr.errors import GoneError, NotFoundError, UsageError
from mountcr.model import Container
from mountcr.procstat import read_stat, read_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from unit.engines.conftest import Host


class Namespace:
    """A pid namespace with an init, a child of it, and a process that entered from outside."""

    def __init__(self, init: int, child: int, entered: int) -> None:
        self.init = init
        self.child = child
        self.entered = entered


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Make a pid namespace; all its processes end with its init."""
    if os.geteuid():
        pytest.skip("making a pid namespace needs root")
    with contextlib.ExitStack() as stack:
        # The second command keeps the shell from replacing itself by the first.
        outer = _start(stack, "unshare", "--pid", "--fork", "sh", "-c", "sleep 60; true")
        init = _child_of(outer, lambda pid: read_status(pid).inner_pids[-1] == 1)
        stack.callback(_kill, init)
        child = _child_of(init, lambda pid: read_stat(pid).command == "sleep")
        enter = _start(stack, "nsenter", "--target", str(init), "--pid", "sleep", "60")
        entered = _child_of(enter, lambda pid: read_stat(pid).command == "sleep")
        yield Namespace(init, child, entered)


def _start(stack: contextlib.ExitStack, *command: str) -> int:
    """Start a process that is killed and reaped with the stack."""
    process = subprocess.Popen(command)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process.pid


def _kill(pid: int) -> None:
    """End a process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)


def _child_of(parent: int, wanted: Callable[[int], bool]) -> int:
    """Wait for a child of a process that is as wanted."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for name in os.listdir("/proc"):
            with contextlib.suppress(ProcessLookupError):
                if name.isdigit() and read_stat(int(name)).parent == parent and wanted(int(name)):
                    return int(name)
        time.sleep(0.01)
    pytest.fail(f"process {parent} did not start what was asked for")


def test_a_process_of_our_namespace_is_itself(host: Host) -> None:
    """A pid that is in no namespace below ours is taken as it is."""
    process = host.process()
    found = read(process.pid)
    assert (found.id, found.engine, found.name) == (str(process.pid), "pid", "sleep")
    assert (found.pid, found.start_time) == (process.pid, process.start_time)
    assert found.status == "running"
    assert found.provenance == (f"/proc/{process.pid}/stat: start time",)


def test_an_init_is_itself(namespace: Namespace) -> None:
    """The init of a pid namespace is its container."""
    found = read(namespace.init)
    assert found.pid == namespace.init
    assert found.start_time == read_stat(namespace.init).start_time


def test_a_process_inside_leads_to_the_init(namespace: Namespace) -> None:
    """A descendant of the init, and one that entered from outside, mean the container."""
    for inside in (namespace.child, namespace.entered):
        found = read(inside)
        assert (found.id, found.pid) == (str(namespace.init), namespace.init)
        assert found.name == "sh"
        assert found.provenance[0] == (
            f"pid {inside} is inside; its namespace's init is {namespace.init}"
        )


def test_without_permission_the_parents_tell(namespace: Namespace) -> None:
    """Who may not look at namespaces finds the init among the ancestors, or keeps the pid."""
    inits = _as_nobody(lambda: [read(namespace.child).pid, read(namespace.entered).pid])
    assert inits == [namespace.init, namespace.entered]


def _as_nobody(answer: Callable[[], list[int]]) -> list[int]:
    """Ask in a process that has no privilege."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(into, " ".join(map(str, answer())).encode())
        finally:
            os._exit(0)
    os.close(into)
    with open(out, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    return [int(number) for number in said.split()]


def _kernel_thread() -> int:
    """Give the pid of a kernel thread, if this /proc shows any."""
    with contextlib.suppress(ProcessLookupError):
        if read_stat(2).kernel_thread:
            return 2
    pytest.skip("this /proc shows no kernel threads")


@pytest.mark.parametrize(
    ("which", "words"),
    [
        (lambda: 1, "is the init of mountcr's own pid namespace"),
        (_kernel_thread, "is a kernel thread"),
        (os.getpid, "is mountcr itself"),
        (os.getppid, "is an ancestor of mountcr|is the init of"),
    ],
)
def test_what_can_be_no_container_is_refused(which: Callable[[], int], words: str) -> None:
    """The first process, kernel threads, this process and its ancestors are refused in a line."""
    pid = which()
    with pytest.raises(UsageError, match=rf"^pid {pid} \([^\n]*\) ({words})[^\n]*$") as raised:
        read(pid)
    assert raised.value.hint


def test_a_thread_names_its_process() -> None:
    """The number of a thread is not a pid; the error says whose thread it is."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(UsageError, match=f"is a thread of process {os.getpid()}"):
            read(thread.native_id or 0)
    finally:
        done.set()
        thread.join()


def test_nobody_there_is_not_found() -> None:
    """A number that no process has is something not found."""
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(NotFoundError, match=f"no process has the pid {process.pid}") as raised:
        read(process.pid)
    assert raised.value.exit_status == 3
    assert raised.value.hint


def test_an_unreaped_process_is_gone() -> None:
    """A process that has ended is gone, even before its parent reaps it."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(GoneError, match="has ended"):
        read(process.pid)
    process.wait()


@pytest.mark.parametrize("word", ["", "web", "-1", "0", "007", "1e3", "४७११", "99999999"])
def test_other_words_are_no_pids(word: str) -> None:
    """Only decimal digits of a number that can be a pid are a pid."""
    assert not is_pid(word)
    assert Pid().lookup(word, Roots()) is None


def test_a_running_container_is_current(host: Host) -> None:
    """A process with the recorded start time is the one that was found; 0 was not recorded."""
    process = host.process()
    found = read(process.pid)
    ensure_running(found)
    ensure_running(Container(id="x", engine="youki", pid=process.pid))


def test_a_reused_pid_is_gone(host: Host) -> None:
    """Another start time is another process."""
    now = host.process()
    then = Container(id="x", engine="runc", pid=now.pid, start_time=now.start_time - 7)
    message = f"was reused: started at tick {now.start_time}, recorded {now.start_time - 7}"
    with pytest.raises(GoneError, match=re.escape(message)):
        ensure_running(then)


def test_an_ended_process_is_gone() -> None:
    """A process that was reaped, or waits for it, is gone; so is a container without a process."""
    process = subprocess.Popen(["sleep", "60"])
    found = read(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(GoneError, match=f"pid {process.pid} of pid:{process.pid} has ended"):
        ensure_running(found)
    process.wait()
    with pytest.raises(GoneError, match="has ended"):
        ensure_running(found)
    with pytest.raises(GoneError, match="runc:x does not run"):
        ensure_running(Container(id="x", engine="runc"))
