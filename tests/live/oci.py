# SPDX-License-Identifier: Apache-2.0
"""OCI runtimes without an engine: a bundle whose root is an overlay that the harness mounts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from live.engine import Engine, busybox
from live.ground import Trouble, wait
from live.images import COMMAND, LOG, unpack

if TYPE_CHECKING:
    from live.engine import Running
    from live.ground import Ground

__all__ = ["Crun", "Runc"]

_UNIFIED = Path("/sys/fs/cgroup/unified")

# crun takes a host with cgroups of both versions for neither: it sees one of version 2 only.
_ONLY_CGROUP2 = (
    "umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup; "
    'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'
)


class Runc(Engine):
    """runc with a root of its own."""

    word = "runc"
    programs = ("runc",)

    def __init__(self, ground: Ground, *, tidied: bool = False) -> None:
        super().__init__(ground)
        self._tidied = tidied
        self.forgets = tidied
        self._bundle = ground.top / "bundle"
        self._program = shutil.which(self.programs[0]) or self.programs[0]
        self._group = f"mountcr-live-{os.getpid()}"

    def version(self) -> str:
        """Ask the program: its name, the word `version` and that."""
        return self.ground.call(self._program, "--version").split()[2]

    def runtime_root(self) -> Path:
        """Give what it is told."""
        return self.ground.top / "state"

    def start(self) -> None:
        """Mount the root of the bundle."""
        top = self.ground.top
        layers = unpack(top / "layers", busybox())
        root, upper, work = self._bundle / "rootfs", top / "upper", top / "work"
        for directory in (root, upper, work):
            directory.mkdir(parents=True)
        lowers = ":".join(map(str, layers))
        options = f"lowerdir={lowers},upperdir={upper},workdir={work}"
        self.ground.call("mount", "-t", "overlay", "overlay", "-o", options, root)
        self.ground.call("mount", "--make-private", root)
        (self._bundle / "config.json").write_text(json.dumps(self._spec()))

    def status(self, running: Running) -> str:
        """Give the state that the runtime tells."""
        said = self._runtime("state", running.name)
        return next(line.split('"')[3] for line in said.splitlines() if '"status"' in line)

    def run(self, name: str) -> Running:
        """Start a container without anything that outlives it."""
        log, pid_file = self.ground.top / "runtime.log", self.ground.top / "pid"
        try:
            self.ground.call(
                *self._view(),
                *(self._program, "--log", log, "--root", self.runtime_root()),
                *("run", "--detach", "--bundle", self._bundle, "--pid-file", pid_file, name),
                says=False,
            )
        except Trouble as trouble:
            raise Trouble(f"{trouble} {log.read_text(errors='replace').strip()}") from None
        pid = int(pid_file.read_text())
        self.ground.remember(pid)
        wait(lambda: Path(f"/proc/{pid}/root{LOG}").read_text(), "the counter")
        return self.running(
            name,
            name,
            pid,
            0,
            merged=self._bundle / "rootfs",
            bundle=self._bundle,
            state=self.runtime_root() / name,
            upper=self.ground.top / "upper",
        )

    def tidy(self, running: Running) -> str:
        """Delete the state, and unmount the root of the bundle."""
        if not self._tidied:
            return ""
        self._runtime("delete", running.name)
        self.ground.call("umount", self._bundle / "rootfs")
        return f"by {self.programs[0]} delete and umount"

    def _runtime(self, *words: str) -> str:
        root = self.runtime_root()
        return self.ground.call(*self._view(), self._program, "--root", root, *words)

    def _view(self) -> tuple[str, ...]:
        """Give the words that the runtime is started with."""
        return ()

    def _spec(self) -> dict[str, object]:
        """Give what such a container needs, and what engines add to it."""

        def mount(destination: str, fstype: str, *options: str, source: str = "") -> object:
            source = source or fstype
            return {
                "destination": destination,
                "type": fstype,
                "source": source,
                "options": [*options],
            }

        kinds = ("pid", "mount", "ipc", "uts", "network")
        return {
            "ociVersion": "1.0.2",
            "hostname": "box",
            "process": {
                "terminal": False,
                "user": {"uid": 0, "gid": 0},
                "args": list(COMMAND),
                "env": ["PATH=/bin"],
                "cwd": "/app",
                "noNewPrivileges": True,
            },
            "root": {"path": "rootfs"},
            "mounts": [
                mount("/proc", "proc"),
                mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
                mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666"),
                mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", source="shm"),
                mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
                mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
                mount("/scratch", "tmpfs", "nosuid", "nodev"),
                mount("/data/vol", "bind", "rbind", "rw", "rprivate", source=str(self.volume)),
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in kinds],
                "cgroupsPath": f"/{self._group}",
                "maskedPaths": ["/proc/kcore", "/proc/keys"],
                "readonlyPaths": ["/proc/sys", "/proc/bus"],
            },
        }


class Crun(Runc):
    """crun, which has to see control groups of one version."""

    word = "crun"
    programs = ("crun",)

    def _view(self) -> tuple[str, ...]:
        if not _UNIFIED.is_dir():
            return ()
        return (
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            _ONLY_CGROUP2,
            "sh",
        )
