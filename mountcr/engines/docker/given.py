# SPDX-License-Identifier: Apache-2.0
"""
What a container was given: volumes, binds and tmpfs, the engine's files, and /dev/shm.

`MountPoints` has volumes and binds since Docker 1.7, `Volumes` and `VolumesRW` before; a tmpfs of
`--tmpfs` is only in the host configuration (moby volume/mounts/mounts.go, container/container.go).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from mountcr.container import ContainerMount, TornDown
from mountcr.engines.docker.layers import tell
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.engines.docker.moved import Moved
    from mountcr.engines.docker.records import Config, HostConfig, MountPoint
    from mountcr.engines.reading import Reader

__all__ = ["Given"]

_SHM: Final = KPath("/dev/shm")  # noqa: S108 -- a path in the container
_SHM_SIZE: Final = 64 << 20
_VOLUME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""The names that Docker lets volumes have (moby volume/local: `RestrictedNameChars`)."""


class Given:
    """Reads what one container was given from its records; `file` is the one of `config`."""

    def __init__(
        self,
        config: Config,
        host: HostConfig | None,
        moved: Moved,
        reader: Reader,
        file: str,
    ) -> None:
        self._config = config
        self._host = host
        self._moved = moved
        self._reader = reader
        self._directory = os.path.dirname(file)
        self._file = file

    def mounts(self) -> tuple[ContainerMount, ...]:
        """Give volumes, binds and tmpfs in the order of their destinations."""
        config, reader = self._config, self._reader
        found: list[ContainerMount] = []
        if config.mount_points:
            reader.tell("mounts", self._file, "MountPoints")
            found.extend(
                self._of_point(point, point.destination or destination)
                for destination, point in config.mount_points.items()
            )
        elif config.volumes:
            reader.tell("mounts", self._file, "Volumes")
            found.extend(self._of_volumes())
        if self._host and self._host.tmpfs:
            reader.tell("mounts", f"{self._directory}/hostconfig.json", "Tmpfs")
            found.extend(
                ContainerMount(
                    destination=_destination(destination),
                    type="tmpfs",
                    readonly="ro" in options.split(","),
                )
                for destination, options in self._host.tmpfs.items()
            )
        return tuple(sorted(found, key=lambda mount: mount.destination))

    def _of_point(self, point: MountPoint, destination: str) -> ContainerMount:
        kind = point.type or ("volume" if point.name else "bind")
        return ContainerMount(
            destination=_destination(destination),
            type=kind,
            source=self._source(point, kind, destination),
            name=point.name,
            readonly=not point.rw,
            propagation=point.propagation,
        )

    def _source(self, point: MountPoint, kind: str, destination: str) -> KPath | None:
        """Give where a mount comes from; volumes of the driver `local` are in the data root."""
        if point.source:
            return self._moved.now(point.source)
        if kind != "volume" or point.driver not in {"", "local"}:
            return None
        if _VOLUME.fullmatch(point.name) is None:
            what = f"{point.name!r} is no name of a volume"
            self._reader.damaged(self._file, f"MountPoints.{destination}.Name", what)
            return None
        return self._moved.below(f"volumes/{point.name}/_data")

    def _of_volumes(self) -> Iterator[ContainerMount]:
        """Give the mounts of Docker before 1.7; its volumes are `vfs/dir/<id>` of the data root."""
        writable = self._config.volumes_rw or {}
        for destination, path in (self._config.volumes or {}).items():
            source = self._moved.now(path)
            name = self._moved.name_below(source, "vfs/dir")
            yield ContainerMount(
                destination=_destination(destination),
                type="volume" if name else "bind",
                source=source,
                name=name,
                readonly=not writable.get(destination, False),
            )

    def files(self) -> dict[str, KPath]:
        """Give the files that the engine makes for a container."""
        config = self._config
        fields = (
            ("hostname", "HostnamePath", config.hostname_path),
            ("hosts", "HostsPath", config.hosts_path),
            ("resolv.conf", "ResolvConfPath", config.resolv_conf_path),
        )
        tell(self._reader, self._file, ((name, field) for name, field, path in fields if path))
        return {name: self._moved.now(path) for name, _, path in fields if path}

    def shm(self, mounts: tuple[ContainerMount, ...]) -> KPath | None:
        """
        Give where /dev/shm comes from, where that is on the host.

        It is recorded once the container was started. Where it is not, a shareable one is in the
        directory of the container (moby daemon/container_operations_unix.go, `setupIPCDirs()`),
        unless the user mounts something there; Docker before 1.10 recorded it whenever it was so.
        """
        if self._config.shm_path:
            self._reader.tell("shm", self._file, "ShmPath")
            return self._moved.now(self._config.shm_path)
        if not self._shareable or any(mount.destination == _SHM for mount in mounts):
            return None
        if os.path.basename(self._file) == "config.json":
            return None
        self._reader.tell("shm", f"{self._directory}/hostconfig.json", "IpcMode")
        return encode(f"{self._directory}/mounts/shm")

    def torn_down(self, shm: KPath | None) -> tuple[TornDown, ...]:
        """Give the tmpfs of /dev/shm that the daemon unmounts when the container ends."""
        own = encode(self._directory)
        if shm is None or not self._shareable or not shm.startswith(f"{own}/"):
            return ()
        size = (self._host.shm_size if self._host else 0) or _SHM_SIZE
        return (TornDown(path=shm, type="tmpfs", mode=0o700, options=f"mode=1777,size={size}"),)

    @property
    def _shareable(self) -> bool:
        """Whether others may share it; an empty mode is so of daemons before 18.06."""
        return self._host is not None and self._host.ipc_mode in {"", "shareable"}


def _destination(path: str) -> KPath:
    return encode(os.path.normpath(path))
