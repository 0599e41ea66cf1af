# SPDX-License-Identifier: Apache-2.0
"""
A host beside this one on the same machine: namespaces of mounts, network, processes and names.

What mountcr, CRIU and engines keep lies on file systems of its own, and so does `own`, where its
containers are; the same paths lead to other files on every host. `passed` is what all of them see,
as if it was carried over. A host ends with its first process, and everything on it with that:
processes, FUSE daemons and mounts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Self

from mountcr.kernel import mounts, syscalls
from mountcr.paths import ROOT, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["PATIENCE", "BrokenError", "Finished", "Machine", "wait"]

PATIENCE: Final = 15.0
"""Seconds to wait for what takes milliseconds."""

STATE: Final = "/var/lib/mountcr"

STORES: Final = "/var/lib/containers"

_WRITTEN: Final = ("/run", "/tmp", STATE, STORES)
"""Where each host has a file system of its own; in /run and /tmp CRIU mounts what it restores."""

_HIDDEN: Final = ("/var/lib/docker", "/var/lib/containerd")
"""What else each host has of its own, as far as the directories are there."""

_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1

_NAMESPACES: Final = ("--mount", "--net", "--pid", "--ipc", "--uts")


class BrokenError(AssertionError):
    """A claim that did not hold."""


class Finished(NamedTuple):
    """A command that ended: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document that was printed."""
        return json.loads(self.out)


class Machine:
    """
    A host, for a `with` block; what is below `top` is shared by those that are to meet.

    Paths are those on the host, unless `seen` translated them for this process.
    """

    def __init__(self, top: Path) -> None:
        self.own, self.passed = top / "own", top / "passed"
        for each in (self.own, self.passed):
            each.mkdir(exist_ok=True)
        reader, writer = os.pipe()
        self._guard = os.fork()
        if self._guard == 0:
            os.close(reader)
            _guard(self.own, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            first, _, complaint = pipe.read().partition(b"\n")
        if complaint or not first:
            os.waitpid(self._guard, 0)
            raise RuntimeError(f"no host can be made: {os.fsdecode(complaint) or 'no reason'}")
        self._init = int(first)
        self.expect()

    def __enter__(self) -> Self:
        """Give the host."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it; its file systems go when their last process has."""
        os.kill(self._init, signal.SIGKILL)
        os.waitpid(self._guard, 0)

    # Looking from outside

    def seen(self, path: str | Path) -> Path:
        """Give the path by which this process sees a path of the host."""
        return Path(f"/proc/{self._init}/root{path}")

    def root_of(self, pid: int) -> Path:
        """Give the root of a process of the host."""
        return self.seen(f"/proc/{pid}/root")

    def mounts(self) -> dict[str, str]:
        """Give the mount points of the host by the ids of the mounts."""
        with open(f"/proc/{self._init}/mountinfo", encoding="utf-8", errors="replace") as file:
            return {words[0]: words[4] for words in map(str.split, file)}

    def processes(self) -> dict[int, str]:
        """Give the processes of the host, but for those that have ended."""
        found: dict[int, str] = {}
        for name in filter(str.isdigit, os.listdir(self.seen("/proc"))):
            with contextlib.suppress(OSError):
                if self.state_of(int(name)) not in "ZX":
                    found[int(name)] = self.seen(f"/proc/{name}/cmdline").read_text(
                        errors="replace"
                    )
        return found

    def state_of(self, pid: int) -> str:
        """Give the state of a process, a letter, proc(5); X where it is not there."""
        try:
            stat = self.seen(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return "X"
        return stat.rpartition(")")[2].split()[0]

    def tracer_of(self, pid: int) -> int:
        """Give who traces a process, 0 if nobody does."""
        lines = self.seen(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("TracerPid:")))

    def expect(self) -> None:
        """
        Take the mounts and processes that there are for what is to be there.

        Those that a container which runs by now starts later are its own.
        """
        self._before = (self.mounts(), self.processes())
        self._containers = {self._namespace(pid) for pid in self._before[1]} - {
            self._namespace(1),
            "",
        }

    def _namespace(self, pid: int) -> str:
        try:
            return os.readlink(self.seen(f"/proc/{pid}/ns/pid"))
        except OSError:
            return ""

    def expect_mounts(self) -> None:
        """Take the mounts that there are for what is to be there."""
        self._before = (self.mounts(), self._before[1])

    def left(self) -> list[str]:
        """
        Give what is on the host that was not when it began, or when that was taken to be right.

        Layers in the cache are left on purpose, as long as they are whole.
        """
        with contextlib.suppress(BrokenError):  # what was killed may take a moment to end
            wait(lambda: not self._new_processes(), "processes to end", seconds=3)
        known = self._before[0]
        found = [f"mount {at}" for number, at in self.mounts().items() if number not in known]
        found += [f"process {pid} {words!r}" for pid, words in self._new_processes().items()]
        found += [f"record {name}" for name in self._names("/run/mountcr/journal")]
        for directory in ("containers", "exports"):
            found += [f"{STATE}/{directory}/{each}" for each in self._names(f"{STATE}/{directory}")]
        for top in (STATE, str(self.own), str(self.passed)):
            found += [
                os.path.join(where, name)
                for where, inside, files in os.walk(self.seen(top))
                for name in (*inside, *files)
                if name.endswith(".mountcr-partial")
            ]
        return found

    def _new_processes(self) -> dict[int, str]:
        return {
            pid: words
            for pid, words in self.processes().items()
            if pid not in self._before[1] and self._namespace(pid) not in self._containers
        }

    def _names(self, directory: str) -> list[str]:
        try:
            return os.listdir(self.seen(directory))
        except FileNotFoundError:
            return []

    # Doing

    def start(
        self,
        *words: object,
        stdout: int | None = subprocess.DEVNULL,
        stderr: int | None = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program there; the process is that of `nsenter`, which ends when it does."""
        enter = ["nsenter", "--target", str(self._init), *_NAMESPACES, "--"]
        return subprocess.Popen(
            [*enter, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
        )

    def run(self, *words: object, seconds: float = 120) -> Finished:
        """Run a program there."""
        process = self.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill(process)
            raise
        return Finished(
            process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
        )

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> int:
        """Kill what was started, not the one that waits for it; give the status of both."""
        for pid in _children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return process.wait()
        process.kill()
        return process.wait()

    def mountcr(self, *words: object) -> Finished:
        """Run the command line there."""
        return self.run(sys.executable, "-m", "mountcr", *words)

    def done(self, *words: object) -> Any:
        """Run a command that must succeed; give its document."""
        finished = self.mountcr(*words, "--json")
        if finished.status:
            raise BrokenError(f"mountcr {' '.join(map(str, words))}: {finished}")
        return finished.document

    def clean_up(self) -> Finished:
        """Claim that a clean-up succeeds, and that another one finds nothing; give the first."""
        first = self.mountcr("cleanup")
        again = self.mountcr("cleanup") if first.out else first
        if first.status or first.err or again.status or again.out:
            raise BrokenError(f"cleanup gave {first}, then {again}")
        return first


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]


def wait(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until something is so; what is not there yet is not so."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if condition():
                return
        if time.monotonic() > until:
            raise BrokenError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.01)


# --- In the host ----------------------------------------------------------------------------------


def _guard(own: Path, writer: int) -> NoReturn:
    """Make the namespaces, start the first process of the host, and wait for it."""
    try:
        syscalls.prctl_set_pdeathsig(signal.SIGKILL)
        syscalls.unshare(
            syscalls.CLONE_NEWNS
            | syscalls.CLONE_NEWPID
            | syscalls.CLONE_NEWNET
            | syscalls.CLONE_NEWIPC
            | syscalls.CLONE_NEWUTS
        )
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            _first_process(own, told)
        os.close(told)
        with os.fdopen(ready, "rb") as pipe:
            complaint = pipe.read()
        os.write(writer, b"%d\n%s" % (pid, complaint))
        os.close(writer)
        os.waitpid(pid, 0)
    except BaseException as error:  # noqa: BLE001  # it travels home as text
        os.write(writer, b"\n" + os.fsencode(str(error)))
    os._exit(0)


def _first_process(own: Path, told: int) -> NoReturn:
    """Be the init of the host: mount what is its own, then do nothing."""
    try:
        syscalls.prctl_set_pdeathsig(signal.SIGKILL)
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that nobody becomes a zombie
        mounts.set_propagation(ROOT, "private", recursive=True)
        syscalls.mount(b"proc", b"/proc", b"proc", 0)
        for each in _WRITTEN:
            os.makedirs(each, exist_ok=True)
        for each in (*_WRITTEN, *filter(os.path.isdir, _HIDDEN), str(own)):
            syscalls.mount(b"moves", os.fsencode(each), b"tmpfs", 0, b"mode=755")
            # as on most hosts, so that what is unmounted goes from copies elsewhere too
            mounts.set_propagation(encode(each), "shared")
        _raise_loopback()
        os.chmod("/tmp", 0o1777)  # noqa: S103  # as every /tmp is
    except BaseException as error:  # noqa: BLE001
        os.write(told, os.fsencode(f"{type(error).__name__}: {error}"))
    os.close(told)
    os.closerange(3, 1024)
    while True:
        select.select([], [], [])


def _raise_loopback() -> None:
    """Bring the interface `lo` up, netdevice(7): CRIU talks to itself over it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
