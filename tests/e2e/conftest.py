# SPDX-License-Identifier: Apache-2.0
"""
A place on the host for the containers of one test, and the command line that works on them.

Everything a test mounts lies below the place, which is a mount of its own, shared as on most hosts,
so that what is unmounted goes from copies of it in other namespaces too. The root of every process
that a test starts or restores is made of the place; that is how they are found again at the end.
Modules take the classes for annotations only, from `e2e.conftest`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from mountcr.demo.launch import Recipe, launch
from mountcr.kernel import mounts
from mountcr.kernel.live import LiveKernel
from mountcr.overlayopts import OverlayOptions
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mountcr.demo.launch import BindMount, Devpts, Tmpfs

PATIENCE = 10.0
"""Seconds to wait for what takes milliseconds."""

COUNTER = b"""#!/bin/busybox sh
# counts into a log that stays open
exec 3>>/var/count
i=0
while :; do
    i=$((i+1))
    echo $i >&3
    /bin/busybox sleep 0.02
done
"""

SLEEPER = b"""#!/bin/busybox sh
exec 3</etc/lines
read -r first <&3
exec /bin/busybox sleep 1000
"""


class Finished(NamedTuple):
    """A command that ended: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document that was printed."""
        return json.loads(self.out)


def read_table(pid: int | str = "self") -> list[str]:
    """Read a mount table without mountcr; no lines for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return []
    return text.splitlines()


class Place:
    """
    The directories of a test: `layers`, `upper`, `work`, and `root`, where the overlay is mounted.

    `criu` is the program that mountcr uses too.
    """

    def __init__(self, top: Path, busybox: str, criu: str) -> None:
        self.top = top
        self.criu = criu
        self.layers = [top / "layers" / name for name in ("top", "middle", "base")]
        self.upper, self.work, self.root = (top / name for name in ("upper", "work", "root"))
        for directory in (*self.layers, self.upper, self.work, self.root):
            directory.mkdir(parents=True)
        self._busybox = busybox
        self._handles: list[int] = []
        self._fill()

    def _fill(self) -> None:
        """Three lower layers: the program, a file that the middle one hides, the scripts."""
        _, middle, base = self.layers
        self.write(base / "etc/motd", "from the base\n")
        self.write(base / "etc/lines", "first\nsecond\nthird\n")
        self.write(base / "var/old", "hidden by the middle layer\n")
        (base / "bin").mkdir()
        shutil.copy(self._busybox, base / "bin/busybox")
        (base / "bin/busybox").chmod(0o755)
        (middle / "var").mkdir()
        os.mknod(middle / "var/old", 0o20000, os.makedev(0, 0))
        self.write(middle / "etc/motd", "from the middle\n")
        self.script("counter", COUNTER)
        self.script("sleeper", SLEEPER)

    def write(self, path: Path, content: str) -> Path:
        """Write a file, with its directories."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def directory(self, name: str, *files: str) -> Path:
        """Make a directory of the place, with some files that hold their own names."""
        (self.top / name).mkdir(exist_ok=True)
        for file in files:
            self.write(self.top / name / file, f"{file}\n")
        return self.top / name

    def script(self, name: str, content: bytes) -> None:
        """Put a program into the top layer."""
        path = self.layers[0] / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)

    # Mounts

    def mount_overlay(
        self, *, at: Path | None = None, lowers: Sequence[Path] = (), propagation: str = ""
    ) -> Path:
        """Mount the layers, at `root` unless told otherwise."""
        at = at or self.root
        options = OverlayOptions(
            lowers=tuple(encode(str(layer)) for layer in lowers or self.layers),
            upper=encode(str(self.upper)),
            work=encode(str(self.work)),
        )
        LiveKernel().mount_overlay(encode(str(at)), options)
        if propagation:
            mounts.set_propagation(encode(str(at)), propagation)
        return at

    def bind(self, source: Path, at: Path, propagation: str = "private") -> None:
        """Bind on the host, below the place."""
        LiveKernel().bind(encode(str(source)), encode(str(at)))
        mounts.set_propagation(encode(str(at)), propagation)

    def mount(self, fstype: str, at: Path) -> None:
        """Mount something without options on the host, below the place."""
        subprocess.run(["mount", "-t", fstype, fstype, str(at)], check=True)

    def unmount(self, at: Path | None = None) -> None:
        """Unmount from the host."""
        LiveKernel().unmount(encode(str(at or self.root)))

    def mounted(self) -> list[str]:
        """Give what is mounted below the place, innermost first; the place itself last."""
        found = [line.split(" ")[4] for line in read_table()]
        below = (str(self.top), f"{self.top}/")
        return [each for each in reversed(found) if each == below[0] or each.startswith(below[1])]

    def table(self) -> list[str]:
        """Give the lines of the host's mount table that are ours, or that mountcr may have made."""
        return [line for line in read_table() if str(self.top) in line or "/run/mountcr" in line]

    # Processes

    def start(
        self,
        *command: str,
        binds: Sequence[BindMount | Tmpfs | Devpts] = (),
        stdio: tuple[int, int, int] | None = None,
        readonly: bool = False,
        root_propagation: str = "private",
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Start a container on `root`; give its pid on the host when its command runs."""
        recipe = Recipe(
            root=str(self.root),
            command=command or ("/bin/counter",),
            mounts=binds,
            stdio=stdio,
            readonly=readonly,
            root_propagation=root_propagation,
            environment={"PATH": "/bin", **(environment or {})},
        )
        pid = launch(recipe)
        self.remember(pid)
        self.wait(lambda: os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "busybox")
        return pid

    def remember(self, pid: int) -> None:
        """Hold on to a container, which tells nobody that it is of this place on a FUSE root."""
        self._handles.append(os.pidfd_open(pid))

    def processes(self) -> list[int]:
        """
        Give every process of a container of this place, half restored ones and helpers too.

        Their root, or what is about to become it, is made of the place, or their command names it.
        That others have a copy of our mounts in a namespace of their own is no sign.
        """
        mark = "/".join(self.top.parts[-2:])
        return [int(name) for name in filter(str.isdigit, os.listdir("/proc")) if _has(name, mark)]

    @staticmethod
    def runs(pid: int) -> bool:
        """Tell whether a process runs; a zombie does not."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}

    def kill(self, pid: int) -> None:
        """Kill a container by its init, which ends when all else has."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.wait(lambda: not self.runs(pid))

    @staticmethod
    def wait(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Wait until something is so; what is not there yet is not so."""
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if condition():
                    return
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.01)

    def count(self, upper: Path | None = None) -> int:
        """Read how far the counter is, from the writable layer."""
        log = (upper or self.upper) / "var/count"
        lines = log.read_text().split() if log.exists() else []
        return int(lines[-1]) if lines else 0

    def goes_on(self, upper: Path | None = None) -> None:
        """Claim that the counter goes on from where it is, without a gap."""
        before = self.count(upper)
        self.wait(lambda: self.count(upper) > before)
        lines = (upper or self.upper).joinpath("var/count").read_text().split()
        assert lines == [str(number + 1) for number in range(len(lines))]

    # The command line

    def mountcr(
        self,
        *words: object,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
        **more: Any,
    ) -> Finished:
        """Run the command line."""
        done = subprocess.run(
            [python, "-m", "mountcr", *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env={**os.environ, "MOUNTCR_CRIU": self.criu, **(environment or {})},
            **more,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def popen(
        self,
        *words: object,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start the command line and do not wait."""
        return subprocess.Popen(
            [sys.executable, "-m", "mountcr", *map(str, words)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "MOUNTCR_CRIU": self.criu},
        )

    def done(self, *words: object, **more: Any) -> Any:
        """Run a command that must succeed in silence; give its document."""
        finished = self.mountcr(*words, "--json", **more)
        assert (finished.status, finished.err) == (0, ""), finished
        return finished.document

    def dump(self, pid: int, name: str = "images", *words: object) -> Path:
        """Dump a container, and take its root apart if it is mounted on the host."""
        images = self.top / name
        self.done("dump", pid, "--images", images, *words)
        if str(self.root) in self.mounted():
            self.unmount()
        return images

    def restore(self, images: Path, *words: object) -> int:
        """Restore without any difference in the mount table; give the pid."""
        document = self.done("restore", images, *words)
        assert document["differences"] == []
        pid: int = document["pid"]
        self.remember(pid)
        return pid

    def run_criu(self, *words: object) -> Finished:
        """Run CRIU itself, as a person would."""
        return self.run(self.criu, *words)

    @staticmethod
    def run(*words: object) -> Finished:
        """Run any program; what it complains about is in its output."""
        done = subprocess.run(
            [*map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return Finished(done.returncode, done.stdout, "")

    def close(self) -> None:
        """End what still runs and unmount what is still mounted."""
        while self._handles:
            handle = self._handles.pop()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], PATIENCE)
            os.close(handle)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait(lambda: not any(map(self.runs, self.processes())))
        for mountpoint in self.mounted():
            subprocess.run(["umount", "--lazy", mountpoint], check=True)


def _has(pid: str, mark: str) -> bool:
    """Tell whether a process, no zombie and not ourselves, runs on or works for a place."""
    if int(pid) == os.getpid():
        return False
    with contextlib.suppress(OSError):
        if mark in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
            return True
    roots = ("/run/mountcr/", "/tmp/.criu.mntns.")
    for line in read_table(pid):
        mountpoint = line.split(" ")[4]
        if mark in line and (mountpoint == "/" or mountpoint.startswith(roots)):
            return True
    return False


@pytest.fixture
def place(tmp_path: Path, require: Callable[[str], str]) -> Iterator[Place]:
    """A place for containers; afterwards nothing of it runs and nothing is mounted there."""
    busybox, criu = require("busybox"), require("criu")
    require("overlay")
    top = Path(os.path.realpath(tmp_path))
    mounts.bind(encode(str(top)), encode(str(top)))
    mounts.set_propagation(encode(str(top)), "shared")
    found = Place(top, busybox, criu)
    try:
        yield found
    finally:
        found.close()
