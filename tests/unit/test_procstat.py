# SPDX-License-Identifier: Apache-2.0
"""Process status: any command is taken, and who is gone is told apart from who is there."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountcr.procstat import (
    ProcessStat,
    parse_stat,
    parse_status,
    printable,
    read_stat,
    read_status,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TAIL = b" S 42 17 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9 9 0 0 0 0 0 0 0 0 0 0\n"
PR_SET_NAME = 15


@given(command=st.binary(max_size=15))
def test_any_command_is_taken(command: bytes) -> None:
    """A command of any bytes hides no field: spaces, newlines, parentheses, fields of its own."""
    stat = parse_stat(b"7 (" + command + b")" + TAIL)
    assert stat == ProcessStat(7, printable(command), "S", 42, 9, 4194560, 123456)


@pytest.mark.parametrize("command", [b"a) R 1", b"((", b") (", b"", b"x) S 1 2 3 4 5 6\n(y"])
def test_a_command_cannot_pose_as_fields(command: bytes) -> None:
    """The last parenthesis ends the command."""
    assert parse_stat(b"7 (" + command + b")" + TAIL).parent == 42


@given(raw=st.binary(max_size=64))
def test_printable_is_one_line_for_a_terminal(raw: bytes) -> None:
    """What a process calls itself neither ends a line nor moves a cursor."""
    assert printable(raw).isprintable()


@given(line=st.binary(max_size=80))
def test_other_lines_are_refused_by_value_error(line: bytes) -> None:
    """Nothing but ValueError comes out of bytes that are no line of stat."""
    try:
        parse_stat(line)
    except ValueError:
        return
    pytest.fail(f"took {line!r}")


def test_a_live_process_reads_its_own_name() -> None:
    """The kernel does not escape the command in stat; the fields behind it are still found."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(PR_SET_NAME, b"a) R 1\n\\ \xff", 0, 0, 0)
        os.write(write, b"x")
        signal.pause()
        os._exit(0)
    try:
        os.read(read, 1)
        stat = read_stat(child)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
    assert stat.command == r"a) R 1\n\ \xff"
    assert stat.parent == os.getpid()
    assert stat.session == os.getsid(0)
    assert not stat.kernel_thread


def test_start_time_is_in_ticks_since_boot() -> None:
    """A process that starts now started as many ticks after boot as the machine is up."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        started = read_stat(process.pid).start_time / os.sysconf("SC_CLK_TCK")
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
    finally:
        process.kill()
        process.wait()
    assert 0 <= uptime - started < 10


def test_an_unreaped_process_has_ended() -> None:
    """A zombie still has a stat file, which says that it has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert read_stat(process.pid).ended
    process.wait()


def test_a_reaped_process_is_not_there() -> None:
    """Who is gone raises ProcessLookupError, whichever file is asked."""
    process = subprocess.Popen(["true"])
    process.wait()
    for read in (read_stat, read_status):
        with pytest.raises(ProcessLookupError):
            read(process.pid)


def test_a_process_that_is_let_go_of_meanwhile() -> None:
    """The kernel writes a status then that has no numbers; what Linux 7.2 wrote of a busybox."""
    text = b"Name:\tbusybox\nState:\tX (dead)\nTgid:\t0\nNgid:\t0\nPid:\t1777\nPPid:\t1770\n"
    with pytest.raises(ProcessLookupError) as caught:
        parse_status(text)
    assert caught.value.filename == "1777"


def read_for_ever(read: Callable[[int], object], pid: int) -> None:
    """Read again and again."""
    while True:
        read(pid)


@pytest.mark.parametrize("read", [read_stat, read_status])
def test_processes_that_end_while_they_are_read(read: Callable[[int], object]) -> None:
    """A hundredth of them is met when it is let go of; each is gone, and nothing else."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that nobody needs to wait for them
    try:
        for _ in range(1000):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            with pytest.raises(ProcessLookupError):
                read_for_ever(read, pid)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_status_tells_the_pids_of_nested_namespaces() -> None:
    """NSpid lists the pids from the outermost namespace inwards."""
    status = parse_status(b"Name:\tx\nTgid:\t70\nNgid:\t0\nPid:\t71\nNSpid:\t71\t5\t1\n")
    assert (status.thread_group, status.inner_pids, status.namespaced) == (70, (71, 5, 1), True)


def test_status_of_an_old_kernel_has_one_pid() -> None:
    """Without NSpid the pid itself is all there is."""
    assert parse_status(b"Name:\tx\nTgid:\t70\nPid:\t71\n").inner_pids == (71,)


def test_our_own_status_names_ourselves() -> None:
    """The thread group of a process is its pid."""
    assert read_status(os.getpid()).thread_group == os.getpid()


STATUS = b"""Name:\tpython3
Umask:\t0022
Tgid:\t29190
Pid:\t29190
PPid:\t29184
TracerPid:\t4711
NSpid:\t29190\t7
VmRSS:\t    1708 kB
HugetlbPages:\t    2048 kB
Seccomp:\t2
Seccomp_filters:\t3
"""


def test_what_a_process_uses() -> None:
    """Who traces it, its mode of seccomp and its huge pages are in its status."""
    status = parse_status(STATUS)
    assert (status.thread_group, status.inner_pids) == (29190, (29190, 7))
    assert (status.tracer, status.seccomp, status.huge) == (4711, 2, 2 << 20)


def test_a_kernel_that_tells_less_of_a_process() -> None:
    """HugetlbPages came with Linux 4.4, NSpid with 4.1; Seccomp is there if it was configured."""
    status = parse_status(b"Name:\ta\nTgid:\t9\nPid:\t9\n")
    assert (status.inner_pids, status.tracer, status.seccomp, status.huge) == ((9,), 0, 0, 0)
