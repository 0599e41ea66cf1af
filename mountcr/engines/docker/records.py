# SPDX-License-Identifier: Apache-2.0
"""
What Docker writes to disk, as far as it is read.

A container is `config.v2.json` since Docker 1.10 and `config.json` before, with the same fields
where both have them (moby container/container.go of v28.5.2, daemon/container.go of v1.9.1). Its
host configuration is a file of its own. Go writes what is empty as null.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = [
    "NEVER",
    "Config",
    "ExecMount",
    "ExecState",
    "GraphImage",
    "HostConfig",
    "Inner",
    "MountPoint",
    "Network",
    "State",
]

NEVER: Final = "0001-01-01T00:00:00Z"
"""How Go writes a time that was never set."""


class _OnDisk(msgspec.Struct, frozen=True, rename="pascal"):
    """Base of the records: immutable; unknown fields are ignored."""


class State(_OnDisk, frozen=True):
    """The object `State`; `pid` is 0 while the container does not run."""

    running: bool = False
    paused: bool = False
    restarting: bool = False
    removal_in_progress: bool = False
    dead: bool = False
    pid: int = 0
    started_at: str = NEVER

    @property
    def word(self) -> str:
        """The word that `docker ps` has for it (moby container/state.go, `StateString()`)."""
        if self.running:
            return "paused" if self.paused else "restarting" if self.restarting else "running"
        if self.removal_in_progress:
            return "removing"
        if self.dead:
            return "dead"
        return "created" if self.started_at in {"", NEVER} else "exited"


class Inner(_OnDisk, frozen=True):
    """The object `Config`: what does not depend on the host."""

    image: str = ""
    labels: dict[str, str] | None = None


class Network(_OnDisk, frozen=True):
    """The object `NetworkSettings`; since Docker 1.7 `sandbox_key` is where the namespace is."""

    sandbox_key: str = ""


class MountPoint(_OnDisk, frozen=True):
    """
    One of `MountPoints`, since Docker 1.7.

    `type` came with 1.13; before, what has a `name` is a volume. A volume of the driver `local`
    may have no source: it is `volumes/<name>/_data` of the data root.
    """

    source: str = ""
    destination: str = ""
    rw: bool = msgspec.field(default=False, name="RW")
    name: str = ""
    driver: str = ""
    type: str = ""
    propagation: str = ""


class Config(_OnDisk, frozen=True):
    """A container. `volumes` and `volumes_rw` are for Docker before 1.7, and kept by later ones."""

    id: str = msgspec.field(default="", name="ID")
    name: str = ""
    driver: str = ""
    image: str = ""
    state: State | None = None
    config: Inner | None = None
    network_settings: Network | None = None
    mount_points: dict[str, MountPoint] | None = None
    volumes: dict[str, str] | None = None
    volumes_rw: dict[str, bool] | None = msgspec.field(default=None, name="VolumesRW")
    hostname_path: str = ""
    hosts_path: str = ""
    resolv_conf_path: str = ""
    log_path: str = ""
    shm_path: str = ""


class HostConfig(_OnDisk, frozen=True):
    """`hostconfig.json`; `shm_size` is in bytes, 0 for the default."""

    ipc_mode: str = ""
    shm_size: int = 0
    tmpfs: dict[str, str] | None = None


class GraphImage(msgspec.Struct, frozen=True):
    """`graph/<id>/json` of Docker before 1.10: an image is a layer; the base has no parent."""

    id: str = ""
    parent: str = ""


class ExecMount(msgspec.Struct, frozen=True):
    """One of the mounts that libcontainer makes."""

    source: str = ""
    destination: str = ""


class _ExecConfig(msgspec.Struct, frozen=True):
    mounts: tuple[ExecMount, ...] | None = None


class ExecState(msgspec.Struct, frozen=True):
    """
    `execdriver/native/<id>/state.json` below the exec root of Docker before 1.11, by libcontainer.

    The start time is in clock ticks since boot, written as a string.
    """

    init_process_pid: int = 0
    init_process_start: str | int = 0
    cgroup_paths: dict[str, str] | None = None
    config: _ExecConfig | None = None

    @property
    def start_time(self) -> int:
        """The start time as a number, 0 where it is none."""
        text = str(self.init_process_start)
        return int(text) if text.isascii() and text.isdigit() else 0
