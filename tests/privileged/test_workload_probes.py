# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells of tasks is asked without stopping any, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import enosys
from mountcr.criu import binary
from mountcr.kernel.pagemap import has_guards
from mountcr.kernel.rseq import probe_rseq
from mountcr.model import Criu
from programs import ARCHITECTURE, MADVISE, MMAP, program

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

PTRACE = 101
SCRATCH = 0x10000000
MEMORY = (MMAP, SCRATCH, 0x10000, 3, 0x32, -1, 0)


@pytest.mark.requires("criu")
def test_criu_asks_the_same(require: Callable[[str], str]) -> None:
    """The kernel tells a tracer of rseq where CRIU finds that it does."""
    with binary.examining(Criu(command=(require("criu"),)), ("get_rseq_conf",)) as answers:
        assert probe_rseq() == answers().features


@pytest.mark.skipif(os.uname().machine != ARCHITECTURE, reason=f"a number of {ARCHITECTURE}")
def test_where_nobody_may_trace() -> None:
    """Nothing is told, and no child is left."""
    enosys.install(enosys.program([PTRACE], enosys.AUDIT_ARCH[ARCHITECTURE]))
    assert probe_rseq() == {}
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["it is made", "it is asked about"])
def test_a_child_ends_with_its_parent(number: signal.Signals, moment: str) -> None:
    """However the parent is ended, and whenever: a child that is stopped would stay for ever."""
    script = (
        "import os, sys\n"
        "from mountcr.kernel import rseq\n"
        "fork = os.fork\n"
        "def end(child):\n"
        f"    print(child, flush=True)\n    os.kill(os.getpid(), {number})\n    return child\n"
    ) + {
        "it is made": "os.fork = lambda: (child := fork()) and end(child)\n",
        "it is asked about": "rseq._answers = end\n",
    }[moment]
    command = [sys.executable, "-c", script + "rseq.probe_rseq()\n"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == -number
    place = Path(f"/proc/{int(done.stdout)}")
    until = time.monotonic() + 10
    while place.exists() and "Z (zombie)" not in (place / "status").read_text():
        assert time.monotonic() < until, (place / "status").read_text()
        time.sleep(0.01)


@contextlib.contextmanager
def running(path: Path, *calls: tuple[int | bytes, ...]) -> Generator[int]:
    """Run a program that makes some calls; give its pid when it has made them."""
    path.write_bytes(program(*calls))
    path.chmod(0o755)
    process = subprocess.Popen([str(path)])
    try:
        while b"pause" not in _waits_in(process.pid):
            assert process.poll() is None
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _waits_in(pid: int) -> bytes:
    """Give the name of the system call that a process waits in."""
    with open(f"/proc/{pid}/syscall", "rb") as file:
        return b"pause" if file.read().startswith(b"34 ") else b""


@pytest.mark.skipif(os.uname().machine != ARCHITECTURE, reason=f"made for {ARCHITECTURE}")
def test_guard_pages(tmp_path: Path) -> None:
    """A process has some when madvise(2) made them, wherever they are; and not without."""
    guard = (MADVISE, SCRATCH + 0x3000, 0x1000, 102)
    with running(tmp_path / "plain", MEMORY) as pid:
        assert not has_guards(pid)
    with running(tmp_path / "guarded", MEMORY, guard) as pid:
        assert has_guards(pid) is _kernel_tells()


def _kernel_tells() -> bool:
    """Tell whether the kernel has guard pages and says where: since Linux 6.16."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor.split("-")[0])) >= (6, 16)


def test_a_process_that_is_gone_has_no_guard_pages() -> None:
    """Nothing is raised."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    assert not has_guards(process.pid)
