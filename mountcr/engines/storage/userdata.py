# SPDX-License-Identifier: Apache-2.0
"""
What an engine keeps for one container beside its layers: `<driver>-containers/<id>/userdata`.

Below the graph root it has what survives a boot, below the run root the rest: config.json of the
OCI runtime, /dev/shm, and files that are bound into the container. What these say of paths is what
was so when it was written; of a root that has been moved it is said as it is now.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mountcr.container import TornDown
from mountcr.engines.records import OciSpec, namespace_paths
from mountcr.engines.spec import mounts_of_spec
from mountcr.paths import encode, is_beneath, name, rebase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountcr.container import ContainerMount
    from mountcr.engines.reading import Reader
    from mountcr.engines.storage.configuration import StoragePlace
    from mountcr.paths import KPath

__all__ = ["Given", "Moved", "Userdata", "torn_down"]

_ENDS: Final = {
    # conmon runs `podman container cleanup` when a container ends: it unmounts what is in `Mounts`
    # of the configuration, which is shm, and the layers (libpod/container_internal.go,
    # `cleanupStorage()`); the driver puts an empty directory in the place of merged
    # (storage/drivers/overlay/overlay.go, `Put()`).
    "shm": TornDown(path=encode("shm"), type="tmpfs", mode=0o1777, options="mode=1777"),
    "merged": TornDown(path=encode("merged"), type="directory", mode=0o700),
}
"""What goes from the host when a container ends, by the name of the directory."""

_DEPTH: Final = 3
"""How many names a root file system has below the graph root."""


class Moved(NamedTuple):
    """Where directories are now that were elsewhere when paths in them were recorded."""

    pairs: tuple[tuple[KPath, KPath], ...] = ()

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Moved:
        """Keep what was moved; the longest path first, as one may lie below another."""
        found = {encode(was): encode(now) for was, now in pairs if was and now and was != now}
        return cls(tuple(sorted(found.items(), key=lambda pair: -len(pair[0]))))

    def path(self, recorded: KPath) -> KPath:
        """Give where a recorded path is now."""
        for was, now in self.pairs:
            if is_beneath(recorded, was):
                return rebase(recorded, was, now)
        return recorded

    def recorded(self, path: str) -> KPath:
        """Give where a path is now that was recorded as text."""
        return self.path(encode(os.path.normpath(path)))

    def notes(self) -> Iterator[str]:
        """Say what was moved."""
        for was, now in self.pairs:
            yield f"moved: {now} was {was}"


class Given(NamedTuple):
    """What a container was given, by its configuration."""

    mounts: tuple[ContainerMount, ...] = ()
    files: dict[str, KPath] = {}
    shm: KPath | None = None
    cgroup: KPath | None = None
    namespaces: dict[str, KPath] = {}
    annotations: dict[str, str] = {}


class Userdata:
    """The directories of one container."""

    def __init__(self, place: StoragePlace, driver: str, identity: str) -> None:
        below = f"{driver}-containers/{identity}/userdata"
        self.static = f"{place.graph_root}/{below}"
        self.run = f"{place.run_root}/{below}" if place.run_root else ""
        self._below = f"/{below}"
        self._driver = driver
        self._own = tuple(encode(each) for each in (self.static, self.run) if each)

    def owns(self, path: KPath) -> bool:
        """Tell whether a path is in one of the directories."""
        return any(is_beneath(path, base) for base in self._own)

    def moved(
        self, spec: OciSpec | None, place: StoragePlace, known: Iterable[tuple[str, str]] = ()
    ) -> Moved:
        """
        Tell which roots were elsewhere when the configuration was written.

        The paths in it of what is in the directories of the container end as they do now. `known`
        are pairs of directories that something else told: as recorded, and as they are.
        """
        pairs = [*known]
        if spec is not None and not pairs:
            for mount in spec.mounts or ():
                base, found, _ = mount.source.partition(f"{self._below}/")
                if found and mount.destination == "/dev/shm":  # noqa: S108 -- in the container
                    pairs.append((base, place.graph_root))
                elif found and mount.destination == "/etc/hostname":
                    pairs.append((base, place.run_root))
            # <graph root>/overlay/<layer>/merged, /vfs/dir/<layer>, /btrfs/subvolumes/<layer>
            below = spec.root.path.rsplit("/", _DEPTH)
            if len(below) > _DEPTH and below[1] == self._driver:
                pairs.append((below[0], place.graph_root))
        return Moved.of(pairs)

    def configuration(self, reader: Reader, *, run_first: bool) -> tuple[OciSpec | None, str]:
        """Read the configuration for the OCI runtime that was written last, with its file."""
        bases = [self.static, self.run]
        for base in reversed(bases) if run_first else bases:
            file = f"{base}/config.json"
            if base and os.path.lexists(file):
                return reader.json(file, OciSpec), file
        return None, ""

    def given(self, spec: OciSpec, bundle: str, moved: Moved) -> Given:
        """Tell the mounts of a configuration apart: what the user gave, what the engine made."""
        mounts, files, shm = mounts_of_spec(spec, encode(bundle))
        files = {key: moved.path(path) for key, path in files.items()}
        kept: list[ContainerMount] = []
        for mount in mounts:
            source = moved.path(mount.source) if mount.source else None
            if source and self.owns(source):
                files.setdefault(name(source), source)
            elif source != mount.source:
                kept.append(msgspec.structs.replace(mount, source=source))
            else:
                kept.append(mount)
        linux = spec.linux
        group = linux.cgroups_path if linux else ""
        return Given(
            mounts=tuple(kept),
            files=files,
            shm=moved.path(shm) if shm else None,
            cgroup=encode(group) if group.startswith("/") else None,
            namespaces=namespace_paths(linux.namespaces if linux else None),
            annotations=dict(spec.annotations or {}),
        )


def torn_down(
    container: Userdata, rootfs: KPath | None, shm: KPath | None, size: int = 0
) -> tuple[TornDown, ...]:
    """
    Give what the engine removes when the container ends.

    `shm` is what /dev/shm comes from, which is the container's own or another's; `size` is how
    large that is, 0 if that is not recorded.
    """
    found: list[TornDown] = []
    for path in filter(None, (rootfs, shm)):
        kind = _ENDS.get(name(path))
        if kind and (path != shm or container.owns(path)):
            options = f"{kind.options},size={size}" if kind.options and size else kind.options
            found.append(msgspec.structs.replace(kind, path=path, options=options))
    return tuple(found)
