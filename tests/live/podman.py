# SPDX-License-Identifier: Apache-2.0
"""Podman: no daemon, a store of its own, and runc below it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from live.engine import SAYING, Engine, limit
from live.ground import wait
from live.images import LOG, NAME

if TYPE_CHECKING:
    from live.engine import Running
    from live.ground import Ground

__all__ = ["Podman"]

_STORAGE = """\
[storage]
driver = "{driver}"
graphroot = "{top}/root"
runroot = "{top}/run"
"""

_THROUGH_FUSE = """\
[storage.options.overlay]
mount_program = "{program}"
"""

# Without systemd and without CAP_SYS_RESOURCE.
_CONTAINERS = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "{runtime}"
tmp_dir = "{top}/tmp"
volume_path = "{top}/volumes"
[containers]
default_ulimits = ["{limit}", "nproc=1024:1024"]
[network]
network_config_dir = "{top}/net"
"""


class Podman(Engine):
    """Podman with a storage driver: overlay, vfs, or fuse-overlayfs, which is an overlay too."""

    word = "podman"
    programs = ("podman", "conmon", "runc")
    outside = (
        "/var/lib/containers",
        "/var/lib/containers/cache",
        "/var/lib/containers/cache/blob-info-cache-v1.boltdb",
    )

    def __init__(self, ground: Ground, driver: str, *, environment: tuple[str, ...] = ()) -> None:
        super().__init__(ground)
        self.network = "none"
        self._words = [word for each in environment for word in ("--env", each)]
        top = ground.top
        storage = _STORAGE.format(driver="vfs" if driver == "vfs" else "overlay", top=top)
        if driver == "fuse-overlayfs":
            storage += _THROUGH_FUSE.format(program=shutil.which("fuse-overlayfs"))
        (top / "storage.conf").write_text(storage)
        # Podman hands its runtime no root, so a runtime of the same name does.
        runtime = top / "bin/runc"
        runtime.parent.mkdir()
        runtime.write_text(
            f'#!/bin/sh\nexec {shutil.which("runc")} --root {self.runtime_root()} "$@"\n'
        )
        runtime.chmod(0o755)
        (top / "containers.conf").write_text(
            _CONTAINERS.format(runtime=runtime, top=top, limit=limit())
        )
        (top / "policy.json").write_text(
            json.dumps({"default": [{"type": "insecureAcceptAnything"}]})
        )
        self.environment = {
            "CONTAINERS_CONF": str(top / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(top / "storage.conf"),
        }

    def version(self) -> str:
        """Ask podman."""
        return self._podman("version", "--format", "{{.Client.Version}}").strip()

    def runtime_root(self) -> Path:
        """Give what the runtime is told, which would be /run/runc."""
        return self.ground.top / "runc"

    def roots(self) -> tuple[str, ...]:
        """Give those of its store."""
        top = self.ground.top
        return ("--root", str(top / "root"), "--runroot", str(top / "run"))

    def diff_ids(self) -> tuple[str, ...]:
        """Ask podman."""
        said = self._podman("image", "inspect", "--format", "{{json .RootFS.Layers}}", NAME)
        return tuple(json.loads(said))

    def start(self) -> None:
        """Load the image; there is no daemon."""
        self._podman("load", "--quiet", *self._policy(), "--input", self.archive())

    def status(self, running: Running) -> str:
        """Give its state and its exit code."""
        return self._ask(running.name, ".State.Status", ".State.ExitCode")

    def run(self, name: str) -> Running:
        """Start a container whose end is watched by conmon."""
        words = ("--network", self.network, "--cgroups", "enabled", "--log-driver", "k8s-file")
        mounts = ("--volume", f"{self.volume}:/data/vol", "--tmpfs", "/scratch")
        self._podman("run", "--detach", "--name", name, *words, *mounts, *self._words, NAME)
        found = {
            word: self._ask(name, expression)
            for word, expression in (
                ("id", ".Id"),
                ("pid", ".State.Pid"),
                ("conmon", ".State.ConmonPid"),
                ("bundle", ".OCIConfigPath"),
                ("hosts", ".HostsPath"),
                ("merged", 'index .GraphDriver.Data "MergedDir"'),
                ("upper", 'index .GraphDriver.Data "UpperDir"'),
            )
        }
        pid, bundle = int(found["pid"]), Path(found["bundle"]).parent
        self.ground.remember(pid)
        root = self.ground.top / "root"
        wait(lambda: Path(f"/proc/{pid}/root{LOG}").read_text(), "the counter")
        return self.running(
            found["id"],
            name,
            pid,
            int(found["conmon"]),
            merged=Path(found["merged"] or self._directory_of(found["id"], root)),
            bundle=bundle,
            record=Path(found["hosts"]).parent,
            shm=bundle / "shm",
            state=self.runtime_root() / found["id"],
            **({"upper": Path(found["upper"])} if found["upper"] else {}),
        )

    def stop(self, running: Running) -> None:
        """Stop it, which takes its root apart."""
        self._podman("stop", "--time", "0", running.name)

    def execute(self, running: Running, text: str) -> None:
        """Run a script in a container."""
        self._podman("exec", running.name, "/bin/busybox", "sh", "-c", text)

    def checkpoint(self, running: Running, archive: Path) -> None:
        """Write a checkpoint of a container, which ends it."""
        self._podman("container", "checkpoint", running.name, "--export", archive)

    def forget(self, running: Running) -> None:
        """Remove a container."""
        self._podman("rm", "--force", "--time", "0", running.name)

    def checkpoint_image(self, running: Running, layout: Path) -> None:
        """Write a checkpoint of a container into an image, that into a layout; it ends."""
        image = "localhost/checkpoint:1"
        self._podman("container", "checkpoint", running.name, "--create-image", image)
        self._podman("push", *self._policy(), image, f"oci:{layout}:checkpoint")

    def restored(self, running: Running, archive: Path) -> int:
        """Restore a container from an archive; give the pid of its root task."""
        return self._restored(running, "--import", archive)

    def restored_image(self, running: Running, layout: Path) -> int:
        """Restore a container from the image in a layout; give the pid of its root task."""
        image = self._podman("pull", "--quiet", *self._policy(), f"oci:{layout}").strip()
        return self._restored(running, image)

    def _policy(self) -> tuple[object, ...]:
        return ("--signature-policy", self.ground.top / "policy.json")

    def _restored(self, running: Running, *words: object) -> int:
        self._podman("container", "restore", *words)
        pid = int(self._ask(running.name, ".State.Pid"))
        self.ground.remember(pid)
        self.ground.remember(int(self._ask(running.name, ".State.ConmonPid")))
        return pid

    def says(self, running: Running) -> str:
        """Run a program by podman exec."""
        return self._podman("exec", running.name, *SAYING)

    def _directory_of(self, id_: str, root: Path) -> str:
        """Give where the driver vfs keeps the files of a container."""
        containers = json.loads((root / "vfs-containers/containers.json").read_bytes())
        layers = {str(each["id"]): str(each["layer"]) for each in containers}
        return str(root / "vfs/dir" / layers[id_])

    def _ask(self, name: str, *expressions: str) -> str:
        template = " ".join(f"{{{{{each}}}}}" for each in expressions)
        said = self._podman("inspect", "--format", template, name).strip()
        return "" if said == "<no value>" else said

    def _podman(self, *words: object) -> str:
        return self.ground.call("podman", *words, environment=self.environment)
