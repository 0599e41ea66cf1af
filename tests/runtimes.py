# SPDX-License-Identifier: Apache-2.0
"""Real OCI runtimes for tests: each on a root of its own, with a bundle of a static busybox."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.engines import Roots, list_containers
from mountcr.paths import encode
from mountcr.procstat import read_stat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CGROUPS = Path("/sys/fs/cgroup")
CONTAINER = "mountcr-e2e"

# crun takes a host with cgroups of both versions for neither: give it one of version 2 only.
ONLY_CGROUP2 = (
    "umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup; "
    'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'
)


class Runtime:
    """
    A runtime with a root of its own, and a bundle of a static busybox that sleeps.

    `network` is the path of a network namespace that was made before, empty for one of its own.
    """

    def __init__(
        self,
        program: str,
        busybox: str,
        directory: Path,
        *,
        command: Sequence[str] = ("/bin/busybox", "sleep", "600"),
        mounts: Sequence[dict[str, object]] = (),
        network: str = "",
    ) -> None:
        self.command = tuple(command)
        self.network = network
        self.mounts = tuple(mounts)
        self.name = os.path.basename(program)
        self.root = directory / "root"
        self.bundle = directory / "bundle"
        self.cgroup = f"mountcr-test-{os.getpid()}-{self.name}"
        self.program = program
        self._command = [program, "--root", str(self.root)]
        if self.name == "crun" and (CGROUPS / "unified").is_dir():
            view = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ONLY_CGROUP2]
            self._command = [*view, "sh", *self._command]
        programs = self.bundle / "rootfs" / "bin"
        programs.mkdir(parents=True)
        shutil.copy(busybox, programs / "busybox")
        self.root.mkdir()
        for mountpoint in ("proc", "dev"):
            (self.bundle / "rootfs" / mountpoint).mkdir()
        (self.bundle / "config.json").write_text(json.dumps(self._spec()))

    def wrapped(self, directory: Path) -> Path:
        """Write a program that is the runtime as it is started here; give it."""
        program = directory / self.name
        words = self._command[: self._command.index(self.program) + 1]
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        program.chmod(0o755)
        return program

    @property
    def roots(self) -> Roots:
        """Where mountcr is to look: nowhere else on this host."""
        return Roots(runtime=(encode(str(self.root)),))

    def __call__(self, *arguments: str) -> str:
        """Run the runtime; what it says on failure is the failure of the test."""
        log = self.root.parent / "log"
        with log.open("wb") as output:
            done = subprocess.run(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=60,
                check=False,
            )
        said = log.read_text(errors="replace")
        if done.returncode:
            pytest.fail(f"{self.name} {' '.join(arguments)}: {said}")
        return said

    def state(self) -> dict[str, object]:
        """Ask the runtime itself."""
        found: dict[str, object] = json.loads(self("state", CONTAINER))
        return found

    def start(self) -> None:
        """Start the container."""
        self("run", "--detach", "--bundle", str(self.bundle), CONTAINER)

    def clean(self) -> None:
        """End the container and remove what it leaves, cgroups included."""
        for found in list_containers(self.roots):
            if found.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found.pid, 9)
                wait_until(functools.partial(has_ended, found.pid))
        subprocess.run(
            [*self._command, "delete", "--force", CONTAINER],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        for directory in (*CGROUPS.glob(f"*/{self.cgroup}"), CGROUPS / self.cgroup):
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()

    def _spec(self) -> dict[str, object]:
        """Give the least that a runtime starts without further capabilities."""
        namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
        namespaces.append({"type": "network", **({"path": self.network} if self.network else {})})
        return {
            "ociVersion": "1.0.2",
            "hostname": "box",
            "process": {
                "terminal": False,
                "user": {"uid": 0, "gid": 0},
                "args": list(self.command),
                "env": ["PATH=/bin"],
                "cwd": "/",
                "noNewPrivileges": True,
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": []},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
                *self.mounts,
            ],
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": f"/{self.cgroup}",
            },
        }


def has_ended(pid: int) -> bool:
    """Tell whether nothing but an exit status is left of a process."""
    try:
        return read_stat(pid).ended
    except ProcessLookupError:
        return True


def wait_until(true: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait for something that the kernel does soon."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} seconds in vain")
        time.sleep(0.01)
