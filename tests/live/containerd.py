# SPDX-License-Identifier: Apache-2.0
"""containerd with its own client ctr, and runc below it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from live.engine import SAYING, Engine, parent
from live.ground import Trouble, wait
from live.images import LOG, NAME

if TYPE_CHECKING:
    from live.engine import Running
    from live.ground import Ground

__all__ = ["Containerd"]

_CONFIG = """\
version = 2
root = "{top}/root"
state = "{top}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{top}/containerd.sock"
"""

_NAMESPACE = "default"


class Containerd(Engine):
    """containerd with a snapshotter: overlayfs or native."""

    word = "containerd"
    programs = ("containerd", "ctr", "runc")
    outside = (
        "/opt/containerd",
        *("/opt/containerd/bin", "/opt/containerd/lib"),
        "/run/containerd",
        *("/run/containerd/runc", "/run/containerd/s"),
    )

    def __init__(self, ground: Ground, snapshotter: str, *, tidied: bool = False) -> None:
        super().__init__(ground)
        self._tidied = tidied
        self.keeps_mounted = not tidied
        self._top = ground.top / "containerd"
        self._snapshotter = snapshotter
        self._daemon = 0
        self.socket = self._top / "containerd.sock"
        self.state = self._top / "state"
        self.environment = {"CONTAINERD_ADDRESS": str(self.socket)}

    def version(self) -> str:
        """Ask containerd."""
        said = self._ctr("version")
        lines = said.partition("Server:")[2].splitlines()
        return next(line.split()[-1] for line in lines if "Version:" in line)

    def runtime_root(self) -> Path:
        """Give what ctr tells runc, and below it the namespace."""
        return self._top / "runc" / _NAMESPACE

    def roots(self) -> tuple[str, ...]:
        """Give those of its configuration."""
        return ("--root", str(self._top / "root"), "--runroot", str(self.state))

    def diff_ids(self) -> tuple[str, ...]:
        """Ask ctr for the manifest of the image and then for its configuration."""
        target = next(
            words[2]
            for line in self._ctr("image", "ls", f"name=={NAME}").splitlines()
            if (words := line.split())[0] == NAME
        )
        manifest = json.loads(self._ctr("content", "get", target))
        config = json.loads(self._ctr("content", "get", manifest["config"]["digest"]))
        return tuple(config["rootfs"]["diff_ids"])

    def start_daemon(self) -> None:
        """Start containerd and nothing more; dockerd wants no more either."""
        self._top.mkdir()
        config = self._top / "config.toml"
        config.write_text(_CONFIG.format(top=self._top))
        log = self._top / "log"
        self._daemon = self.ground.daemon("containerd", "--config", config, log=log)
        wait(lambda: self._is_up(log), "containerd")

    def start(self) -> None:
        """Start containerd and load the image."""
        self.start_daemon()
        snapshotter = ("--snapshotter", self._snapshotter)
        self._ctr("image", "import", *snapshotter, self.archive())

    def status(self, running: Running) -> str:
        """Give the state of its task."""
        return " ".join(self._task(running.name)[2:])

    def run(self, name: str) -> Running:
        """Start a container; its keeper is the shim."""
        mounts = (
            f"type=bind,src={self.volume},dst=/data/vol,options=rbind:rw",
            "type=tmpfs,src=tmpfs,dst=/scratch,options=nosuid:nodev",
        )
        words = [word for mount in mounts for word in ("--mount", mount)]
        words += ["--snapshotter", self._snapshotter, "--runc-root", str(self._top / "runc")]
        self._ctr("run", "--detach", "--null-io", *words, NAME, name)
        pid = int(self._task(name)[1])
        self.ground.remember(pid)
        bundle = self.state / "io.containerd.runtime.v2.task" / _NAMESPACE / name
        wait(lambda: Path(f"/proc/{pid}/root{LOG}").read_text(), "the counter")
        shim = parent(pid)
        self.ground.remove_sockets(shim)
        return self.running(
            name,
            name,
            pid,
            shim,
            merged=bundle / "rootfs",
            bundle=bundle,
            state=self.runtime_root() / name,
        )

    def tidy(self, running: Running) -> str:
        """Remove the task, not the container, whose snapshot has the files."""
        if not self._tidied:
            return ""
        self._ctr("task", "rm", running.name)
        return "by ctr task rm"

    def stop(self, running: Running) -> None:
        """Kill the task, and wait until containerd knows."""
        self._ctr("task", "kill", "--signal", "SIGKILL", running.name)
        wait(lambda: self.status(running) == "STOPPED", "the task to stop")

    def execute(self, running: Running, text: str) -> None:
        """Run a script in a container."""
        shell = ("/bin/busybox", "sh", "-c", text)
        self._ctr("task", "exec", "--exec-id", "script", running.name, *shell)

    def checkpoint(self, running: Running, archive: Path) -> None:
        """Make a checkpoint image of a container, end it, and export the image."""
        name = "localhost/mountcr-checkpoint:1"
        self._ctr("container", "checkpoint", "--rw", "--task", running.name, name)
        self.ground.end(running.pid)
        # without these it takes the parts of the image for manifests
        self._ctr("image", "export", "--skip-manifest-json", "--all-platforms", archive, name)

    def says(self, running: Running) -> str:
        """Run a program by ctr task exec."""
        return self._ctr("task", "exec", "--exec-id", "says", running.name, *SAYING)

    def stop_daemon(self) -> None:
        """End containerd; the shims stay."""
        if self._daemon:
            self.ground.stop(self._daemon)
            self._daemon = 0

    def _task(self, name: str) -> list[str]:
        """Give the words of a task: its name, its pid and its state."""
        tasks = (line.split() for line in self._ctr("task", "ls").splitlines())
        return next(words for words in tasks if words[0] == name)

    def _is_up(self, log: Path) -> bool:
        if not self.ground.lives(self._daemon):
            raise Trouble(f"containerd ended: {log.read_text(errors='replace').strip()}")
        try:
            self._ctr("version")
        except Trouble:
            return False
        return True

    def _ctr(self, *words: object) -> str:
        return self.ground.call("ctr", "--address", self.socket, *words)
