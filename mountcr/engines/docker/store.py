# SPDX-License-Identifier: Apache-2.0
"""One data root of Docker: its containers, and all that is recorded of each."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.container import Container, Damage
from mountcr.engines.docker import layerdb, legacy, snapshots
from mountcr.engines.docker.directories import Directories
from mountcr.engines.docker.given import Given
from mountcr.engines.docker.graphdrivers import GRAPH_DRIVERS, GraphDriver, RootFs
from mountcr.engines.docker.layers import tell
from mountcr.engines.docker.moved import Moved
from mountcr.engines.docker.records import Config, HostConfig, State
from mountcr.engines.reading import Reader, names_in
from mountcr.engines.runtime import with_process
from mountcr.engines.spec import with_spec
from mountcr.overlayhome import is_name
from mountcr.paths import KPath, encode, fsdecode, name, parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.engines.docker.places import Site

__all__ = ["Store"]

_ID: Final = re.compile("[0-9a-f]{64}")
_CURRENT: Final = "config.v2.json"
_OLD: Final = "config.json"
_TASKS: Final = "io.containerd.runtime.v2.task/moby"
_TASKS_BEFORE: Final = "io.containerd.runtime.v1.linux/moby"


_LISTED: Final = (("id", "ID"), ("name", "Name"), ("storage", "Driver"), ("recorded", "State"))


class _Record(msgspec.Struct, frozen=True):
    """What was read of a container to list it: the file, its content, and what is wrong with it."""

    file: str
    config: Config | None
    damages: tuple[Damage, ...]

    @property
    def old(self) -> bool:
        """Whether Docker before 1.10 wrote it."""
        return self.file.endswith(f"/{_OLD}")


class Store:
    """
    One data root. What containers share is read once.

    `others` are runtime roots beside those of the exec roots.
    """

    def __init__(self, site: Site, others: Sequence[str]) -> None:
        self._site = site
        self._data = fsdecode(site.data)
        self._runs = tuple(fsdecode(run) for run in site.runs)
        self._reader = Reader(site.data, *site.runs)
        self._directories = Directories(self._data)
        self._records: dict[str, _Record] = {}
        self._layerdbs: dict[str, layerdb.LayerDb] = {}
        self._drivers: dict[str, GraphDriver] = {}
        self._graph = legacy.Graph(self._data, self._reader)
        self._runtimes = _held([*_runtime_roots(self._runs), *others])
        self._bundles = _held(_task_roots(self._runs))
        self._executed = _held([f"{run}/execdriver/native" for run in self._runs])

    def containers(self) -> Iterator[Container]:
        """List the containers, those with a damaged record too."""
        try:
            with os.scandir(f"{self._data}/containers") as entries:
                names = sorted(each.name for each in entries if each.is_dir() or each.is_symlink())
        except OSError:
            return
        for each in names:
            listed = self._listed(each)
            if listed is not None:
                yield listed

    def _listed(self, container: str) -> Container | None:
        record = self._record(container)
        if record is None:
            return None
        config = record.config or Config()
        reader, file = self._reader.fresh(), record.file
        state = config.state or State()
        by_name = config.config.image if config.config else ""
        image = by_name or config.image
        if record.config is not None:
            tell(reader, file, (*_LISTED, ("image", "Config.Image" if by_name else "Image")))
        found = Container(
            id=container,
            engine="docker",
            name=config.name.removeprefix("/"),
            recorded=state.word if config.state is not None else "",
            image=image,
            storage=config.driver,
            state_root=self._site.data,
            damages=(*self._site.damages, *record.damages),
            provenance=tuple(reader.told),
        )
        return self._with_process(found, state, file)

    def _with_process(self, container: Container, state: State, file: str) -> Container:
        """Ask the exec driver of Docker before 1.11, else the runtime."""
        if container.id in self._executed:
            reader = self._reader.fresh()
            found = legacy.exec_state(reader, container.id, self._runs)
            damages = (*container.damages, *reader.damages)
            container = msgspec.structs.replace(container, damages=damages)
            if found is not None:
                return legacy.with_exec_state(container, *found)
        roots = self._runtimes.get(container.id, ())
        source = f"{encode(file)}: State.Pid"
        return with_process(container, state.pid if state.running else 0, source, roots)

    def _record(self, container: str) -> _Record | None:
        """Read the record of a container; None for a directory that is none."""
        known = self._records.get(container)
        if known is not None:
            return known
        directory, reader = f"{self._data}/containers/{container}", self._reader.fresh()
        file = f"{directory}/{_CURRENT}"
        config = reader.json(file, Config, optional=True)
        if config is None and not reader.damages:
            old = f"{directory}/{_OLD}"
            config = reader.json(old, Config, optional=True)
            file = old if config is not None or reader.damages else file
        if config is None and not reader.damages:
            if _ID.fullmatch(container) is None:
                return None
            reader.damaged(file, "", "is missing")
        if config is not None and config.id != container:
            what = f"is {config.id or 'empty'}, but the directory is that of {container}"
            reader.damaged(file, "ID", what)
        record = _Record(file, config, tuple(reader.damages))
        self._records[container] = record
        return record

    def describe(self, container: Container) -> Container:
        """Give a container with all that is recorded of it."""
        record = self._record(container.id)
        if record is None:
            return container
        reader = self._reader
        reader.damages, reader.told = list(container.damages), []
        driver = container.storage or self._driver_of(container.id)
        root = self._rootfs(container.id, driver, record)
        found = msgspec.structs.replace(
            container,
            storage=driver,
            stack=root.stack,
            rootfs=container.rootfs or root.rootfs,
            torn_down=root.torn_down,
        )
        if record.config is not None:
            found = self._given(found, record.config, record.file)
        bundle = self._bundles.get(container.id, ())
        if bundle and not found.spec:
            beside = f"{bundle[0]}/{container.id}"
            found = msgspec.structs.replace(
                found, bundle=encode(beside), spec=encode(f"{beside}/config.json")
            )
        found = msgspec.structs.replace(
            found,
            namespace=root.namespace or _namespace(found.bundle),
            damages=tuple(reader.damages),
            provenance=(*container.provenance, *reader.told),
        )
        return with_spec(found) if found.spec else found

    def _given(self, container: Container, config: Config, file: str) -> Container:
        """Add what the container was given."""
        reader = self._reader
        directory = os.path.dirname(file)
        host = reader.json(f"{directory}/hostconfig.json", HostConfig, optional=True)
        moved = Moved.of(config, self._data, reader, file)
        given = Given(config, host, moved, reader, file)
        mounts = given.mounts()
        shm = given.shm(mounts)
        if file.endswith(f"/{_OLD}"):
            runs = self._runs if container.id in self._executed else ()
            state = legacy.exec_state(reader, container.id, runs)
            mounts = (*mounts, *legacy.dockerinit(reader, self._data, state))
        key = config.network_settings.sandbox_key if config.network_settings else ""
        spaces = dict(container.namespace_paths)
        if key:
            spaces["net"] = encode(key)
            reader.tell("net namespace", file, "NetworkSettings.SandboxKey")
        labels = (config.config.labels if config.config else None) or {}
        if labels:
            reader.tell("labels", file, "Config.Labels")
        return msgspec.structs.replace(
            container,
            mounts=mounts,
            files=given.files(),
            shm=shm,
            namespace_paths=spaces,
            labels=labels,
            torn_down=(*container.torn_down, *given.torn_down(shm)),
        )

    def _driver_of(self, container: str) -> str:
        """Give the graph driver of a container whose record does not tell, by who has its layer."""
        current = layerdb.drivers_of(self._data, container)
        found = current or legacy.drivers_of(self._data, container)
        if len(found) != 1:
            return ""
        where = f"image/{found[0]}/layerdb/mounts/{container}" if current else found[0]
        self._reader.tell("storage", f"{self._data}/{where}")
        return found[0]

    def _rootfs(self, container: str, driver: str, record: _Record) -> RootFs:
        """Give what the root file system of a container is made of, by its storage driver."""
        reader = self._reader
        if not is_name(driver):
            if record.config is not None:
                reader.damaged(record.file, "Driver", f"{driver!r} is no storage driver")
            return RootFs(None, None)
        if record.old:
            return self._old_rootfs(container, driver, record)
        database = self._layerdbs.get(driver)
        if database is None:
            database = layerdb.LayerDb(self._data, driver, reader)
            self._layerdbs[driver] = database
        if not database.has(container):
            has_mounts = os.path.isdir(f"{self._data}/rootfs/{driver}")
            has_image = os.path.isdir(f"{self._data}/image/{driver}")
            if snapshots.is_snapshotter(driver, has_mounts=has_mounts, has_image=has_image):
                return snapshots.rootfs_of(container, driver, self._site, record.file, reader)
        if driver not in GRAPH_DRIVERS:
            return self._of_plugin(driver, record)
        layers = database.layers(container)
        return self._graph_driver(driver).rootfs(layers) if layers else RootFs(None, None)

    def _of_plugin(self, driver: str, record: _Record) -> RootFs:
        """Give nothing: what a graph driver of somebody else keeps, and where, is its own."""
        self._reader.tell(f"only the graph driver {driver} knows the layers", record.file, "Driver")
        return RootFs(None, None)

    def _old_rootfs(self, container: str, driver: str, record: _Record) -> RootFs:
        if driver not in GRAPH_DRIVERS:
            return self._of_plugin(driver, record)
        config = record.config or Config()
        layers = self._graph.layers(container, config.image, driver)
        dirperm = config.mount_points is not None
        return self._graph_driver(driver).rootfs(layers, dirperm=dirperm)

    def _graph_driver(self, driver: str) -> GraphDriver:
        known = self._drivers.get(driver)
        if known is None:
            known = GraphDriver(driver, self._data, self._reader, self._directories)
            self._drivers[driver] = known
        return known


def _held(roots: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Give for each name the directories, of some, that have an entry of that name."""
    found: dict[str, tuple[str, ...]] = {}
    for root in dict.fromkeys(roots):
        for each in names_in(root):
            found[each] = (*found.get(each, ()), root)
    return found


def _namespace(bundle: KPath | None) -> str:
    """Give the namespace of containerd, which is the directory that a bundle is in."""
    place = name(parent(bundle)) if bundle else ""
    return place if place == snapshots.NAMESPACE else ""


def _runtime_roots(runs: Sequence[str]) -> Iterator[str]:
    """
    Give the runtime roots below exec roots: `runtime-<name>/moby`, one for each runtime.

    Moby daemon/runtime_unix.go gives the first part, containerd's shim adds the namespace.
    """
    for run in runs:
        yield from (f"{run}/{n}/moby" for n in names_in(run) if n.startswith("runtime-"))


def _task_roots(runs: Sequence[str]) -> list[str]:
    """
    Give where bundles of containers may be.

    They are below the state of containerd, the host's or the daemon's own; Docker 1.11 to 17.10
    had them in `libcontainerd` of its exec root.
    """
    found: list[str] = []
    for run in runs:
        states = (f"{os.path.dirname(run)}/containerd", f"{run}/containerd/daemon")
        found += [f"{state}/{tasks}" for state in states for tasks in (_TASKS, _TASKS_BEFORE)]
        found.append(f"{run}/libcontainerd")
    found += [f"/run/containerd/{tasks}" for tasks in (_TASKS, _TASKS_BEFORE)]
    return found
