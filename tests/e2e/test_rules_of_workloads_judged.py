# SPDX-License-Identifier: Apache-2.0
"""
CRIU is the judge of the rules about what tasks use of the kernel.

A task of each container uses one thing. What a rule says that CRIU refuses it does, with that
message; what no rule is about is there after the restore.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

import enosys
from e2e.test_rules_judged import matches, refusals
from e2e.test_rules_of_files_judged import assert_refused, restore_by_hand, start
from e2e.test_rules_of_mounts_judged import dump_alone
from mountcr.criu import binary
from mountcr.observation.hugepages import free_huge_pages
from mountcr.paths import encode
from mountcr.rules.versions import within
from programs import (
    ARCHITECTURE,
    BPF,
    EXECVE,
    FSOPEN,
    FTRUNCATE,
    IO_SETUP,
    IO_URING_SETUP,
    LANDLOCK_CREATE_RULESET,
    MADVISE,
    MEMFD_CREATE,
    MEMFD_SECRET,
    MMAP,
    PERF_EVENT_OPEN,
    UNSHARE,
    USERFAULTFD,
    program,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from e2e.conftest import Place

pytestmark = pytest.mark.skipif(
    os.uname().machine != ARCHITECTURE, reason=f"its programs are for {ARCHITECTURE}"
)

SCRATCH: Final = 0x10000000
PAGE: Final = 4096
HUGE: Final = 2 << 20
READ_WRITE: Final = 3
SHARED: Final = 0x1
ANONYMOUS: Final = 0x20 | 0x2 | 0x10  # private, and where it is told
HUGETLB: Final = 0x40000 | 0x8000 | ANONYMOUS  # populated at once
GUARD_INSTALL: Final = 102
NEW_TIME: Final = 0x80

MEMORY: Final = (MMAP, SCRATCH, 16 * PAGE, READ_WRITE, ANONYMOUS, -1, 0)
THIRD: Final = (MMAP, 0, PAGE, READ_WRITE, SHARED, 3, 0)
ARRAY: Final = struct.pack("4I", 2, 4, 8, 4).ljust(72, b"\0")
CPU_CLOCK: Final = struct.pack("2IQ", 1, 128, 0).ljust(128, b"\0")
MAKE_DIRECTORY: Final = struct.pack("Q", 1 << 7)


class Use(NamedTuple):
    """What a task does, and the rule that is about it, where it is found."""

    rule: str
    where: str
    calls: tuple[tuple[int | bytes, ...], ...] = ()
    script: str = ""


REFUSED: Final = (
    Use("W2", r"anon_inode:\[io_uring\]", (MEMORY, (IO_URING_SETUP, 8, SCRATCH), THIRD)),
    Use("W2", r"/secretmem\\040\(deleted\)", ((MEMFD_SECRET, 0), (FTRUNCATE, 3, PAGE), THIRD)),
    Use("W6", r"anon_inode:\[io_uring\]", (MEMORY, (IO_URING_SETUP, 8, SCRATCH))),
    Use("W6", r"anon_inode:\[userfaultfd\]", ((USERFAULTFD, 1),)),
    Use("W6", r"anon_inode:\[perf_event\]", ((PERF_EVENT_OPEN, CPU_CLOCK, 0, -1, -1, 0),)),
    Use("W6", r"anon_inode:\[fscontext\]", ((FSOPEN, b"tmpfs", 0),)),
    Use(
        "W6", r"anon_inode:\[landlock-ruleset\]", ((LANDLOCK_CREATE_RULESET, MAKE_DIRECTORY, 8, 0),)
    ),
    Use("W6", "/d/fuse", script="mkdir /d\nmknod /d/fuse c 10 229\nexec 3<>/d/fuse"),
    Use("W9", "madvise", (MEMORY, (MADVISE, SCRATCH, PAGE, GUARD_INSTALL))),
)


def run(place: Place, use: Use) -> int:
    """Start a container in which a task does something."""
    place.script("user", program(*use.calls))
    return start(place, use.script or "/bin/user &\nsleep 0.3")


@pytest.mark.parametrize("use", REFUSED, ids=lambda use: f"{use.rule}-{use.where}")
def test_criu_refuses_what_it_cannot_make_again(place: Place, use: Use) -> None:
    """With the message of the rule; the plan says so, and where."""
    pid = run(place, use)
    if not is_done(place, use):
        pytest.skip("this kernel does not let a task do that, or does not show it")
    dumped, log = dump_alone(place, pid)
    assert not dumped
    assert matches(use.rule, log)
    assert place.runs(pid)
    plan = place.mountcr("plan", pid, "--json")
    assert plan.status == 4
    found = {each for each in refusals(plan.document) if each[0] == use.rule}
    assert [re.fullmatch(use.where, each[1]) is not None for each in found] == [True]


def is_done(place: Place, use: Use) -> bool:
    """Tell whether a task of a container did what it should, by what the kernel shows."""
    if use.rule == "W9":
        return within(os.uname().release, "6.16", "")  # it shows guard pages
    shown = [
        encode(text)
        for pid in place.processes()
        for text in (
            *(os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()),
            *(
                line.split(maxsplit=5)[-1]
                for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
            ),
        )
    ]
    return any(re.fullmatch(use.where, each) for each in shown)


KEPT: Final = {
    "aio": ((MEMORY, (IO_SETUP, 8, SCRATCH)), r"/\[aio\]"),
    "memfd": (((MEMFD_CREATE, b"m", 0), (FTRUNCATE, 3, PAGE), THIRD), "/memfd:m"),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_comes_back(place: Place, name: str) -> None:
    """No rule is about it on this kernel, and it is mapped where it was."""
    calls, mapping = KEPT[name]
    pid = run(place, Use("", "", calls))
    assert refusals(place.done("plan", pid)) == set()
    before = mapped(place, mapping)
    assert before
    place.restore(place.dump(pid))
    assert mapped(place, mapping) == before


def mapped(place: Place, pattern: str) -> set[str]:
    """Give the addresses at which tasks of a container have something mapped."""
    lines = [
        line
        for pid in place.processes()
        for line in Path(f"/proc/{pid}/maps").read_text().split("\n")
    ]
    return {line.split()[0] for line in lines if re.search(pattern, line)}


def test_a_time_namespace_comes_back(place: Place) -> None:
    """With a kernel that has them, the clock goes on; no rule is found."""
    script = b"#!/bin/busybox sh\nexec /bin/busybox sleep 1000\n"
    place.script("inside", script)
    place.script("clock", program((UNSHARE, NEW_TIME), (EXECVE, b"/bin/inside", 0, 0)))
    pid = start(place, "exec /bin/clock")
    assert os.readlink(f"/proc/{pid}/ns/time") != os.readlink("/proc/self/ns/time")
    assert refusals(place.done("plan", pid)) == set()
    restored = place.restore(place.dump(pid))
    assert os.readlink(f"/proc/{restored}/ns/time") != os.readlink("/proc/self/ns/time")


def test_filters_of_seccomp_come_back(place: Place) -> None:
    """W4 is no rule on this kernel: every task of the container is filtered as it was."""
    place.mount_overlay()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # what it starts has its filter
        try:
            numbers = [enosys.NUMBERS["statmount"]]
            enosys.install(enosys.program(numbers, enosys.AUDIT_ARCH[ARCHITECTURE]))
            os.write(writer, b"%d" % place.start())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        pid = int(pipe.read())
    os.waitpid(child, 0)
    assert mode_of(pid) == FILTERS
    assert refusals(place.done("plan", pid)) == set()
    assert mode_of(place.restore(place.dump(pid))) == FILTERS


FILTERS: Final = 2


def mode_of(pid: int) -> int:
    """Give the mode of seccomp that a process is in."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("Seccomp:")[2].split()[0])


def test_a_map_of_bpf_is_worth_a_note(place: Place) -> None:
    """W6: whether CRIU was built with what dumps it nobody can tell without trying."""
    pid = run(place, Use("", "", ((BPF, 0, ARRAY, 72),)))
    plan = place.done("plan", pid)
    found = [(each["severity"], each["mount"]) for each in plan["findings"] if each["rule"] == "W6"]
    assert found == [("note", "anon_inode:bpf-map")]
    dumped, log = dump_alone(place, pid)
    assert dumped or matches("W6", log)


@contextlib.contextmanager
def helper(script: str, *words: str) -> Generator[int]:
    """Run some Python outside of any container until it says that it is ready; give its pid."""
    command = [sys.executable, "-c", script, *words]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


def test_a_traced_task(place: Place) -> None:
    """W1: CRIU cannot trace what somebody else does; when they let go, it can."""
    pid = start(place, "")
    with helper(TRACER, str(pid)):
        dumped, log = dump_alone(place, pid)
        assert not dumped
        assert matches("W1", log)
        assert_refused(place.mountcr("plan", pid, "--json").document, "W1", "ptrace")
    assert refusals(place.done("plan", pid)) == set()


TRACER: Final = """
import ctypes, signal, sys
ptrace = ctypes.CDLL(None).ptrace
assert ptrace(0x4206, int(sys.argv[1]), None, None) == 0  # PTRACE_SEIZE
print("ready", flush=True)
signal.pause()
"""


def test_a_process_outside(place: Place) -> None:
    """W7: a descriptor of a process that is not in the container."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        place.mount_overlay()
        pid = place.start(stdio=(pidfd, pidfd, pidfd))
    finally:
        os.close(pidfd)
    dumped, log = dump_alone(place, pid)
    assert not dumped
    assert matches("W7", log)
    plan = place.mountcr("plan", pid, "--json").document
    assert_refused(plan, "W7", f"pidfd of {os.getpid()}")


SHARES: Final = """
import ctypes, signal
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0, 4096, 0o1600)
assert libc.shmat(segment, None, 0)
libc.shmctl(segment, 0, None)  # gone with the process
print("ready", flush=True)
signal.pause()
"""


def test_shared_memory_of_the_host(place: Place) -> None:
    """W3: of a process in the IPC namespace of CRIU."""
    with helper(SHARES) as pid:
        dumped, log = dump_alone(place, pid)
        assert not dumped
        assert matches("W3", log)
        plan = place.mountcr("plan", pid, "--json").document
        assert {each[0] for each in refusals(plan)} == {"W3"}, plan


# --- Huge pages -----------------------------------------------------------------------------------

POOL: Final = Path("/proc/sys/vm/nr_hugepages")


@pytest.fixture
def pool() -> Iterator[Path]:
    """The number of huge pages of the host, which is put back."""
    if not POOL.exists() or free_huge_pages():
        pytest.skip("only where the kernel has huge pages and nobody has set some aside")
    before = POOL.read_text()
    try:
        yield POOL
    finally:
        POOL.write_text(before)


USES_HUGE: Final = Use("", "", ((MMAP, 0x40000000, HUGE, READ_WRITE, HUGETLB, -1, 0),))


def set_aside(pool: Path, pages: int) -> None:
    """Have some huge pages; skip where memory is too fragmented for them."""
    pool.write_text(str(pages))
    if int(pool.read_text()) != pages:
        pytest.skip("the kernel makes no huge pages")


def test_criu_needs_a_huge_page_itself(place: Place, pool: Path) -> None:
    """W5: a task has the last one, and CRIU takes its mapping for a file."""
    set_aside(pool, 1)
    pid = run(place, USES_HUGE)
    if os.path.exists(binary.CACHE):
        pytest.skip("CRIU remembers what it found before")
    assert_refused(place.mountcr("plan", pid, "--json").document, "W5", "hugetlb")
    dumped, log = dump_alone(place, pid)
    assert not dumped
    assert matches("W5", log)
    set_aside(pool, 2)
    assert refusals(place.done("plan", pid)) == set()


def test_a_restore_needs_as_many_huge_pages(place: Place, pool: Path) -> None:
    """W11: without them CRIU fails, and with them all comes back."""
    set_aside(pool, 2)
    images = place.dump(run(place, USES_HUGE))
    set_aside(pool, 0)
    planned = place.mountcr("plan", images, "--for", "restore", "--json")
    assert_refused(planned.document, "W11", "hugetlb")
    assert matches("W11", restore_by_hand(place, images, "--root", str(place.root)))
    set_aside(pool, 2)
    place.restore(images)
    assert mapped(place, "/anon_hugepage")
