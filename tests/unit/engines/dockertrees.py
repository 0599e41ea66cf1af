# SPDX-License-Identifier: Apache-2.0
"""
Data roots of Docker, written as its releases write them.

Layouts are those of moby v1.5.0, v1.9.1, v20.10.27 and v28.5.2; directories of layers are empty.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from mountcr.engines import Place, Roots
from mountcr.engines.docker import Docker, Usual
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mountcr.model import Container

STARTED = "2026-11-23T16:23:17.680106389Z"
RECORDED = "/var/lib/docker"
"""Where the data root was, by the records, unless a test says so."""


def hex64(*words: object) -> str:
    """Give an id that is always the same for the same words."""
    return hashlib.sha256("/".join(map(str, words)).encode()).hexdigest()


def short(layer: str) -> str:
    """Give the 26 letters that overlay2 calls a layer."""
    return base64.b32encode(hashlib.sha256(layer.encode()).digest()).decode()[:26]


def write(path: Path, text: str) -> None:
    """Write a file and make the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class Tree:
    """A data root, and the exec root beside it."""

    def __init__(self, directory: Path, *, recorded: str | None = None) -> None:
        self.data = directory / "docker"
        self.run = directory / "run" / "docker"
        self.recorded = recorded or str(self.data)
        (self.data / "containers").mkdir(parents=True)
        (self.data / "network").mkdir()
        self.run.mkdir(parents=True)

    @property
    def roots(self) -> Roots:
        """The roots of a user who names this data root."""
        return Roots(places=(Place(data=encode(str(self.data)), run=encode(str(self.run))),))

    @property
    def usual(self) -> Usual:
        """Usual places without a containerd of the host."""
        return Usual(containerd=encode(str(self.data / "no containerd")))

    def described(self, roots: Roots | None = None) -> dict[str, Container]:
        """Give what the engine says of all containers, by their ids."""
        engine, roots = Docker(self.usual), roots or self.roots
        return {each.id: engine.describe(each, roots) for each in engine.containers(roots)}

    def directory(self, container: str) -> Path:
        """Give where the records of a container are."""
        return self.data / "containers" / container

    # Docker 1.10 to 28

    def image(self, driver: str, layers: int, word: str = "image") -> tuple[str, tuple[str, ...]]:
        """Write the layers of an image; give its chain id and the driver's ids, nearest first."""
        chain, ids = "", list[str]()
        for number in range(layers):
            layer = hex64(driver, word, number)
            database = self.data / "image" / driver / "layerdb"
            below = chain
            diff = f"sha256:{hex64('diff', word, number)}"
            # The chain id of the OCI image-spec.
            both = hashlib.sha256(f"{below} {diff}".encode()).hexdigest()
            chain = f"sha256:{both}" if below else diff
            record = database / chain.replace(":", "/")
            write(record / "cache-id", layer)
            write(record / "diff", diff)
            write(record / "size", "0")
            if below:
                write(record / "parent", below)
            self.layer(driver, layer, ids, committed=True)
            ids.insert(0, layer)
        return chain, tuple(ids)

    def container(
        self,
        name: str,
        driver: str = "overlay2",
        image: tuple[str, Sequence[str]] = ("", ()),
        *,
        host: dict[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """Write a container of Docker since 1.10; `changes` are of config.v2.json."""
        container, own = hex64("container", name), hex64("layer", name)
        mount = self.data / "image" / driver / "layerdb" / "mounts" / container
        write(mount / "mount-id", own)
        write(mount / "init-id", f"{own}-init")
        if image[0]:
            write(mount / "parent", image[0])
        self.layer(driver, f"{own}-init", image[1], committed=True)
        self.layer(driver, own, (f"{own}-init", *image[1]))
        self.records(container, name, driver, host=host, **changes)
        return container

    def records(
        self,
        container: str,
        name: str,
        driver: str,
        *,
        file: str = "config.v2.json",
        host: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        """Write the two files of a container."""
        place = f"{self.recorded}/containers/{container}"
        config: dict[str, Any] = {
            "State": {
                "Running": False,
                "Paused": False,
                "Pid": 0,
                "StartedAt": STARTED,
            },
            "ID": container,
            "Config": {"Hostname": container[:12], "Image": "app:1", "Labels": {}},
            "Image": f"sha256:{hex64('image')}",
            "NetworkSettings": {"SandboxKey": ""},
            "Name": f"/{name}",
            "Driver": driver,
            "MountPoints": {},
            "HostnamePath": f"{place}/hostname",
            "HostsPath": f"{place}/hosts",
            "ShmPath": "",
            "ResolvConfPath": f"{place}/resolv.conf",
            "LogPath": f"{place}/{container}-json.log",
        }
        config |= changes
        write(self.directory(container) / file, json.dumps(config))
        hostconfig = {"IpcMode": "private", "ShmSize": 67108864, "Binds": None, "Tmpfs": None}
        write(self.directory(container) / "hostconfig.json", json.dumps(hostconfig | (host or {})))

    def layer(
        self, driver: str, layer: str, below: Sequence[str], *, committed: bool = False
    ) -> None:
        """Write a layer as a graph driver does; `below` are those below it, nearest first."""
        home = self.data / driver
        if driver in {"overlay2", "fuse-overlayfs"}:
            self._overlay2(home, layer, below, committed=committed)
        elif driver == "overlay":
            self._overlay(home, layer, below, committed=committed and "-init" not in layer)
        elif driver == "aufs":
            for place in ("diff", "mnt"):
                (home / place / layer).mkdir(parents=True)
            write(home / "layers" / layer, "".join(f"{each}\n" for each in below))
        elif driver == "devicemapper":
            write(home / "metadata" / layer, '{"device_id":1,"size":10737418240}')
        else:
            place = {"vfs": "dir", "btrfs": "subvolumes", "zfs": "graph"}[driver]
            (home / place / layer).mkdir(parents=True)

    def _overlay2(self, home: Path, layer: str, below: Sequence[str], *, committed: bool) -> None:
        (home / layer / "diff").mkdir(parents=True)
        (home / "l").mkdir(exist_ok=True)
        os.symlink(f"../{layer}/diff", home / "l" / short(layer))
        write(home / layer / "link", short(layer))
        if below:
            (home / layer / "work").mkdir()
            write(home / layer / "lower", ":".join(f"l/{short(each)}" for each in below))
        if committed:
            write(home / layer / "committed", "")

    def _overlay(self, home: Path, layer: str, below: Sequence[str], *, committed: bool) -> None:
        if committed or not below:
            (home / layer / "root").mkdir(parents=True)
            return
        for place in ("upper", "work", "merged"):
            (home / layer / place).mkdir(parents=True)
        # The init layer has the changes that a container starts with, and no `root`, but for one
        # that has nothing below.
        images = [each for each in below if not each.endswith("-init")]
        write(home / layer / "lower-id", (images or list(below))[0])

    # Docker before 1.10

    def old_image(self, driver: str, layers: int, word: str = "old") -> tuple[str, ...]:
        """Write an image, which is a chain of layers with the same ids; give them nearest first."""
        ids: list[str] = []
        for number in range(layers):
            layer = hex64(driver, word, number)
            record = {"id": layer, "parent": ids[0]} if ids else {"id": layer}
            write(self.data / "graph" / layer / "json", json.dumps(record))
            write(self.data / "graph" / layer / "layersize", "0")
            self.layer(driver, layer, ids, committed=True)
            ids.insert(0, layer)
        return tuple(ids)

    def old_container(self, name: str, driver: str, image: Sequence[str], **changes: Any) -> str:
        """Write a container of Docker before 1.10; `changes` are of config.json."""
        container = hex64("container", name)
        self.layer(driver, f"{container}-init", image)
        self.layer(driver, container, (f"{container}-init", *image))
        changes.setdefault("Image", image[0])
        host = changes.pop("host", None)
        self.records(container, name, driver, file="config.json", host=host, **changes)
        return container

    def executed(self, container: str, pid: int, start: int, **changes: Any) -> None:
        """Write the state file of the exec driver `native-0.2`."""
        state: dict[str, Any] = {
            "id": container,
            "init_process_pid": pid,
            "init_process_start": str(start),
            "cgroup_paths": {
                "cpu": f"/sys/fs/cgroup/cpu,cpuacct/docker/{container}",
                "devices": f"/sys/fs/cgroup/devices/docker/{container}",
            },
            "namespace_paths": {"NEWNET": f"/proc/{pid}/ns/net"},
            "config": {"rootfs": f"{self.recorded}/aufs/mnt/{container}"},
        }
        file = self.run / "execdriver" / "native" / container / "state.json"
        write(file, json.dumps(state | changes))
