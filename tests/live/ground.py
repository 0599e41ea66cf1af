# SPDX-License-Identifier: Apache-2.0
"""
One scratch directory, the programs that are run for it, and what has to be undone at its end.

Processes are ended that were remembered, each by a descriptor of its own; mounts go that lie below
the directory, and control groups that were remembered or made around those.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Ground", "Trouble", "cgroups_of", "mounts_of", "runs", "wait"]

PATIENCE = 15.0
"""Seconds that something may take which takes milliseconds."""

_CGROUPS = Path("/sys/fs/cgroup")
_NOWHERE = (subprocess.DEVNULL, subprocess.DEVNULL)


class Trouble(Exception):  # noqa: N818 - not an error of ours: what an engine or mountcr did
    """A program that failed, with all it said, or something that was waited for in vain."""


class Ground:
    """
    A scratch directory, `top`.

    Its path is short: a socket has 108 characters, the --runroot of podman 50.
    """

    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="mountcr-live-", dir="/var/tmp"))
        self.top.chmod(0o755)
        self._groups: set[Path] = set()
        self._groups_before = {*_CGROUPS.glob("*"), *_CGROUPS.glob("*/*")}
        self._outside: list[Path] = []
        self._handles: dict[int, int] = {}
        self._daemons: dict[int, subprocess.Popen[bytes]] = {}

    def call(
        self,
        *words: object,
        environment: Mapping[str, str] | None = None,
        says: bool = True,
        seconds: float = 60,
    ) -> str:
        """
        Run a program; give what it printed. Raises Trouble with its complaint if it fails.

        Its output goes to files, because an engine may leave it to a daemon, which would keep a
        pipe open; unless it `says` something, to /dev/null, for what is left to a container.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as complaint:
            status = self._run(
                [*map(str, words)],
                (out.fileno(), complaint.fileno()) if says else _NOWHERE,
                environment,
                seconds,
            )
            out.seek(0)
            complaint.seek(0)
            said = out.read().decode(errors="replace")
            complained = complaint.read().decode(errors="replace").strip()
        if status:
            raise Trouble(f"{' '.join(map(str, words))}: exit status {status}: {complained}")
        return said

    def _run(
        self,
        words: Sequence[str],
        streams: tuple[int, int],
        environment: Mapping[str, str] | None,
        seconds: float,
    ) -> int | str:
        try:
            return subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=streams[0],
                stderr=streams[1],
                env={**os.environ, **(environment or {})},
                cwd=self.top,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return f"none after {seconds:.0f} s"

    # Processes

    def daemon(
        self, *words: object, log: Path, environment: Mapping[str, str] | None = None
    ) -> int:
        """Start a program that stays; give its pid."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                cwd=self.top,
                start_new_session=True,
            )
        self._daemons[process.pid] = process
        return process.pid

    def stop(self, daemon: int) -> None:
        """End a program that `daemon` started: politely, then not."""
        process = self._daemons.pop(daemon)
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def lives(self, daemon: int) -> bool:
        """Tell whether a program that `daemon` started still runs."""
        return daemon in self._daemons and self._daemons[daemon].poll() is None

    def remember(self, pid: int) -> None:
        """Have a process ended at the end, and the control groups removed that it is in."""
        if pid not in self._handles:
            with contextlib.suppress(ProcessLookupError):
                self._handles[pid] = os.pidfd_open(pid)
                self._groups.update(cgroups_of(pid).values())

    def end(self, pid: int) -> None:
        """Kill a remembered process, and wait until it is gone."""
        handle = self._handles.pop(pid, None)
        if handle is None:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], PATIENCE)
        finally:
            os.close(handle)

    # The end

    def outside(self, *paths: Path) -> None:
        """Have files and empty directories removed at the end that are not there yet."""
        self._outside += (path for path in paths if not path.exists() and path not in self._outside)

    def remove_sockets(self, pid: int) -> None:
        """Have the sockets removed at the end on which a process listens, by their paths."""
        held = set[str]()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                held.add(os.readlink(link))
        table = Path("/proc/net/unix").read_text(errors="surrogateescape").splitlines()
        rows = (line.split(maxsplit=7) for line in table[1:])
        named = (row for row in rows if len(row) > 7 and row[7].startswith("/"))
        self._outside += (Path(row[7]) for row in named if f"socket:[{row[6]}]" in held)

    def close(self, *, keep: bool = False) -> list[str]:
        """End, unmount and remove everything; give what could not be, `keep` the files if told."""
        for pid in [*self._handles]:
            self.end(pid)
        for daemon in [*self._daemons]:
            self.stop(daemon)
        left = self._unmount() if keep else self._remove()
        self._remove_groups()
        for path in reversed(self._outside):
            with contextlib.suppress(
                OSError
            ):  # it is gone, or somebody else has put something there
                path.rmdir() if path.is_dir() else path.unlink()
        left += (f"control group {group}" for group in sorted(self._groups) if group.exists())
        return left

    def _unmount(self) -> list[str]:
        """Unmount what is below; give what could not be."""
        left: list[str] = []
        for mountpoint in mounts_of(self.top):
            done = subprocess.run(
                ["umount", "--lazy", mountpoint], capture_output=True, text=True, check=False
            )
            # a shim that ends meanwhile unmounts what is its own
            if done.returncode and mountpoint in mounts_of(self.top):
                left.append(f"{mountpoint} is mounted: {done.stderr.strip()}")
        return left

    def _remove(self) -> list[str]:
        """
        Remove the directory, unless something is mounted there; give why it could not be.

        A `podman container cleanup` may be at work in it for a while, and mount its store anew.
        """
        until = time.monotonic() + PATIENCE
        while True:
            left = self._unmount()
            try:
                if not mounts_of(self.top):
                    shutil.rmtree(self.top)
                    return []
            except OSError as error:
                left.append(str(error))
            if time.monotonic() > until:
                return left
            time.sleep(0.1)

    def _remove_groups(self) -> None:
        """Remove the groups, what is below them, and the empty ones above that were not there."""
        for group in self._groups:
            for path in (*sorted(group.rglob("*/"), reverse=True), group, *group.parents):
                if path in self._groups_before or path.is_mount():
                    break
                _remove_group(path)


def _remove_group(path: Path) -> None:
    """Remove a group that no other is below; a task that is dying may be in it for a while."""
    until = time.monotonic() + 1
    while path.is_dir() and time.monotonic() < until:
        if any(path.glob("*/")):
            return
        try:
            path.rmdir()
        except OSError:
            time.sleep(0.02)


def wait(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until something is so; what is not there yet is not so. Raises Trouble if it is not."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if condition():
                return
        if time.monotonic() > until:
            raise Trouble(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def mounts_of(top: Path) -> list[str]:
    """Give the mountpoints of the host that are below a directory or made of it, newest first."""
    table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    lines = [line for line in table.splitlines() if str(top) in line]
    return [line.split(" ")[4] for line in reversed(lines)]


def cgroups_of(pid: int) -> dict[str, Path]:
    """
    Give the control groups that a process is in and this one is not, by their hierarchy.

    proc(5), cgroups(7): lines of `number:controllers:path`; version 2 has no controllers there.
    """
    own = _groups("self")
    found = {
        controllers: _hierarchy(controllers) / path.lstrip("/")
        for controllers, path in _groups(pid).items()
        if path not in {"/", own.get(controllers)}
    }
    return {name or "unified": path for name, path in found.items() if path.is_dir()}


def _groups(pid: int | str) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return {}
    return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}


def _hierarchy(controllers: str) -> Path:
    """Give where a hierarchy is mounted; that of version 2 is alone or beside the others."""
    if controllers:
        return _CGROUPS / controllers.removeprefix("name=")
    beside = _CGROUPS / "unified"
    return beside if beside.is_dir() else _CGROUPS
