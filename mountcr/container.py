# SPDX-License-Identifier: Apache-2.0
"""
A container as its engine records it: who it is, what it is made of, what it was given.

What an engine recorded may be stale: `recorded` stands beside what is, and `provenance` says the
file and the field that each fact is from. Paths are those of the host, in mountinfo spelling.
"""

from __future__ import annotations

from mountcr.paths import KPath
from mountcr.record import Record
from mountcr.stack import Stack

__all__ = ["Container", "ContainerMount", "Damage", "TornDown"]


class ContainerMount(Record, frozen=True, kw_only=True):
    """
    A mount that a container was given, beside those that every container has.

    `type` is `bind`, `volume`, `tmpfs` or another word of the engine; `source` is the path on the
    host, None for what has none there; `name` is that of a volume.
    """

    destination: KPath
    type: str
    source: KPath | None = None
    name: str = ""
    readonly: bool = False
    propagation: str = ""


class TornDown(Record, frozen=True, kw_only=True):
    """
    What an engine removes from the host when its container ends, and a restore needs again.

    `type` is `directory`, or `tmpfs` for one that is mounted there with `options` (tmpfs(5)).
    """

    path: KPath
    type: str
    mode: int = 0o755
    options: str = ""


class Damage(Record, frozen=True, kw_only=True):
    """A piece of an engine's state that is not as it must be: file, field in it, and what it is."""

    file: KPath
    what: str
    field: str = ""

    def __str__(self) -> str:
        """Say it in one line."""
        where = f"{self.file}: {self.field}" if self.field else self.file
        return f"{where}: {self.what}"


class Container(Record, frozen=True, kw_only=True):
    """
    A container as its engine records it.

    `name` is the one that people use, `names` are all others. `pid` is 0 when it does not run.
    `start_time` is that of the pid, in clock ticks since boot, 0 where the engine records none.
    `status` is what it is in the words of the OCI runtime specification, `recorded` what the
    engine says in its own. `storage` is the engine's word for its storage driver, `stack` what the
    root file system is made of by the engine's records, None where they do not tell. `rootfs` is
    where it is mounted, or the directory. `bundle` is that of an OCI runtime and `spec` the file
    with its configuration. `namespace_paths` are namespaces that the engine pinned: kind to path.
    `files` are those that the engine makes for it: `hostname`, `hosts`, `resolv.conf`, …, and
    `shm` is what /dev/shm comes from, where that is on the host. `cgroup` is the path of its
    control group. `namespace` is that of containerd. `state_root` is the directory below which its
    engine keeps it: a runtime root, a data root. `torn_down` is what goes when it ends. `damages`
    are those of its records. `provenance` names file and field of each fact.
    """

    id: str
    engine: str
    name: str = ""
    names: tuple[str, ...] = ()
    pid: int = 0
    start_time: int = 0
    status: str = ""
    recorded: str = ""
    image: str = ""
    storage: str = ""
    stack: Stack | None = None
    bundle: KPath | None = None
    rootfs: KPath | None = None
    spec: KPath | None = None
    state_root: KPath | None = None
    namespace: str = ""
    namespace_paths: dict[str, KPath] = {}
    mounts: tuple[ContainerMount, ...] = ()
    files: dict[str, KPath] = {}
    shm: KPath | None = None
    cgroup: KPath | None = None
    labels: dict[str, str] = {}
    torn_down: tuple[TornDown, ...] = ()
    damages: tuple[Damage, ...] = ()
    provenance: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The word for it that errors use: `engine:name`, or `engine:id`."""
        return f"{self.engine}:{self.name or self.id}"
