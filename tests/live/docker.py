# SPDX-License-Identifier: Apache-2.0
"""Docker: a dockerd with a containerd of its own, and runc below both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from live.containerd import Containerd
from live.engine import SAYING, Engine, limit, parent
from live.ground import Trouble, wait
from live.images import LOG, NAME

if TYPE_CHECKING:
    from live.engine import Reference, Running
    from live.ground import Ground

__all__ = ["Docker", "DockerCr"]


class Docker(Engine):
    """
    Docker with a storage driver: overlay2, vfs or fuse-overlayfs.

    With `shareable` memory, /dev/shm is a tmpfs that is mounted on the host. Only an `experimental`
    one restores.
    """

    word = "docker"
    programs = ("dockerd", "docker", "containerd", "runc")
    outside = (
        *("/etc/docker", "/etc/docker/key.json"),
        *("/run/docker", "/run/docker/plugins"),
    )

    def __init__(
        self,
        ground: Ground,
        driver: str,
        *,
        environment: tuple[str, ...] = (),
        shareable: bool = False,
        experimental: bool = False,
    ) -> None:
        super().__init__(ground)
        self._driver = driver
        self._words = [word for each in environment for word in ("--env", each)]
        if shareable:
            self._words += ("--ipc", "shareable")
        self._daemon = 0
        self._containerd = Containerd(ground, "")
        self._host = f"unix://{ground.top}/docker.sock"
        self.environment = {"DOCKER_HOST": self._host, "DOCKER_CONFIG": f"{ground.top}/client"}
        self._experimental = ("--experimental",) if experimental else ()
        self._data = ground.top / "data"
        self._exec = ground.top / "exec"

    def version(self) -> str:
        """Ask dockerd."""
        return self._docker("version", "--format", "{{.Server.Version}}").strip()

    def runtime_root(self) -> Path:
        """Give what dockerd tells runc."""
        return self._exec / "runtime-runc/moby"

    def roots(self) -> tuple[str, ...]:
        """Give those of dockerd."""
        return ("--root", str(self._data), "--runroot", str(self._exec))

    def diff_ids(self) -> tuple[str, ...]:
        """Ask dockerd."""
        said = self._docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", NAME)
        return tuple(json.loads(said))

    def start(self) -> None:
        """Start both daemons, without any change to the network of the host."""
        self._containerd.start_daemon()
        top = self.ground.top
        log = top / "dockerd.log"
        self._daemon = self.ground.daemon(
            "dockerd",
            *("--data-root", self._data, "--exec-root", self._exec, "--host", self._host),
            *("--pidfile", top / "dockerd.pid", "--containerd", self._containerd.socket),
            *("--storage-driver", self._driver, "--bridge", "none"),
            *("--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false"),
            *self._experimental,
            log=log,
        )
        wait(lambda: self._is_up(log), "dockerd")
        self._docker("load", "--quiet", "--input", self.archive())

    def status(self, running: Running) -> str:
        """Give its state and its exit code."""
        return self._ask(running.name, ".State.Status", ".State.ExitCode")

    def run(self, name: str) -> Running:
        """Start a container; its keeper is the shim of containerd."""
        mounts = ("--volume", f"{self.volume}:/data/vol", "--tmpfs", "/scratch")
        words = ("--detach", "--name", name, "--network", "none", "--ulimit", limit())
        id_ = self._docker("run", *words, *mounts, *self._words, NAME).strip()
        pid = int(self._ask(name, ".State.Pid"))
        self.ground.remember(pid)
        merged = self._ask(name, 'index .GraphDriver.Data "MergedDir"')
        upper = self._ask(name, 'index .GraphDriver.Data "UpperDir"')
        wait(lambda: Path(f"/proc/{pid}/root{LOG}").read_text(), "the counter")
        parts = {
            "bundle": self._containerd.state / "io.containerd.runtime.v2.task/moby" / id_,
            "state": self.runtime_root() / id_,
            "record": self._data / "containers" / id_,
            "shm": self._data / "containers" / id_ / "mounts/shm",
        }
        # Only the driver overlay2 says where it mounts; the others do it where the layer is named.
        if not merged:
            layers = self._data / f"image/{self._driver}/layerdb/mounts" / id_
            layer = (layers / "mount-id").read_text()
            below = self._data / self._driver
            merged = str(
                below / "dir" / layer if self._driver == "vfs" else below / layer / "merged"
            )
        parts["merged"] = Path(merged)
        if upper:
            parts["upper"] = Path(upper)
        shim = parent(pid)
        self.ground.remove_sockets(shim)
        return self.running(id_, name, pid, shim, **parts)

    def stop(self, running: Running) -> None:
        """Stop it, which takes its root apart."""
        self._docker("stop", "--time", "0", running.name)

    def says(self, running: Running) -> str:
        """Run a program by docker exec."""
        return self._docker("exec", running.name, *SAYING)

    def stop_daemon(self) -> None:
        """End dockerd, then its containerd."""
        if self._daemon:
            self.ground.stop(self._daemon)
            self._daemon = 0
        self._containerd.stop_daemon()

    def _is_up(self, log: Path) -> bool:
        if not self.ground.lives(self._daemon):
            raise Trouble(f"dockerd ended: {log.read_text(errors='replace').strip()}")
        try:
            self._docker("version")
        except Trouble:
            return False
        return True

    def _ask(self, name: str, *expressions: str) -> str:
        template = " ".join(f"{{{{{each}}}}}" for each in expressions)
        said = self._docker("inspect", "--format", template, name).strip()
        return "" if said == "<no value>" else said

    def _docker(self, *words: object) -> str:
        config = self.ground.top / "client"
        return self.ground.call("docker", "--config", config, "--host", self._host, *words)


class DockerCr(Docker):
    """Docker whose containers are dumped and restored by `mountcr docker-cr`."""

    script = True

    def __init__(self, ground: Ground, driver: str) -> None:
        super().__init__(ground, driver)
        self.environment = {**self.environment, "DOCKER_HOME": str(self._data)}

    def images(self, running: Running) -> Path:
        """Give the directory that is named by the id."""
        return self._data / "criu_img" / running.id

    def dumping(self, running: Running, reference: Reference) -> tuple[object, ...]:  # noqa: ARG002
        """Name the container as Docker shows it."""
        return ("docker-cr", "--runroot", self._exec, "-v", "-c", running.id[:12])
