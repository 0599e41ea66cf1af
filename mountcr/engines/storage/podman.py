# SPDX-License-Identifier: Apache-2.0
"""
Containers of podman: in its database by name, state and configuration, in the storage by layer.

Those that the database does not have, as where there is none, are what the storage says, with the
process that the OCI runtime below knows.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

import msgspec

from mountcr.container import ContainerMount
from mountcr.engines.records import OciRoot, OciSpec
from mountcr.engines.runtime import with_process
from mountcr.engines.storage.engine import StorageEngine, assembled, listed, root_of
from mountcr.engines.storage.layers import Root
from mountcr.engines.storage.places import configuration_damages
from mountcr.engines.storage.registry import Registry
from mountcr.engines.storage.store import Owner
from mountcr.engines.storage.userdata import Given, Moved, Userdata
from mountcr.model import Container
from mountcr.overlayhome import is_name
from mountcr.paths import encode
from mountcr.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mountcr.container import Damage
    from mountcr.engines.reading import Reader
    from mountcr.engines.storage.configuration import Files
    from mountcr.engines.storage.engine import Stores
    from mountcr.engines.storage.layers import Layers
    from mountcr.engines.storage.records import PodmanConfig
    from mountcr.engines.storage.registry import Known
    from mountcr.engines.storage.store import Store, Stored
    from mountcr.paths import KPath

__all__ = ["Podman"]


class Podman(StorageEngine):
    """The containers of podman; those of pods are among them."""

    name: ClassVar[str] = "podman"

    def __init__(self, files: Files | None = None, stores: Stores | None = None) -> None:
        super().__init__(files, stores)
        self._registries: dict[Store, Registry] = {}

    def _listed(self, store: Store, runtimes: Sequence[str]) -> Iterator[Container]:
        registry = self._registry(store)
        for identity, known in registry.known.items():
            found = _registered(store, identity, known)
            found = msgspec.structs.replace(found, damages=(*found.damages, *registry.damages))
            yield with_process(found, known.state.pid, f"{known.source}: pid", runtimes)
        for identity, stored in store.containers.items():
            if stored.owner == Owner.PODMAN and identity not in registry.known:
                found = listed(self.name, store, stored)
                found = msgspec.structs.replace(found, damages=(*found.damages, *registry.damages))
                yield with_process(found, 0, "no database has it", runtimes)

    def _described(self, container: Container, store: Store, layers: Layers) -> Container:
        registry = self._registry(store)
        known = registry.known.get(container.id)
        stored = store.containers.get(container.id)
        reader = store.reader()
        config = registry.configuration(container.id, reader) if known else None
        if not is_name(container.id):
            return assembled(container, Root(None, None), Given(), reader, userdata=None)
        userdata = Userdata(store.place, _driver(stored, config), container.id)
        spec, file = userdata.configuration(reader, run_first=store.place.transient)
        moved = userdata.moved(spec, store.place, registry.moved)
        bundle = os.path.dirname(file)
        if spec is not None:
            reader.tell("mounts", file, "mounts")
        given = userdata.given(spec or _planned(config), bundle, moved)
        if config is not None and known is not None:
            database = known.database
            given = _completed(
                given, config, known, moved, lambda name: registry.directory(database, name, reader)
            )
            container = _named(container, config, known)
        else:
            given = given._replace(mounts=_volumes(given.mounts, store, moved))
        if config is not None and config.rootfs:
            root = _of_directory(config, known, reader)
        elif stored is None:
            where = known.database.path if known else store.place.graph_root
            reader.damaged(where, container.id, "no containers.json has it")
            root = Root(None, None)
        else:
            root = root_of(container, stored, layers, reader)
        return assembled(
            container,
            root,
            given,
            reader,
            userdata=userdata,
            moved=moved,
            spec=file if spec else "",
            bundle=bundle,
            shm_size=config.shm_size if config else 0,
        )

    def damages(self) -> Sequence[Damage]:
        """Give what is damaged in lists, databases and configuration, if no container is there."""
        asked = self._stores.asked
        if asked is None:
            return ()
        stores = [store for store, _ in asked.stores.values()]
        if not stores:
            return configuration_damages(asked.roots, self._files)
        return [
            damage
            for store in stores
            if not store.containers and not self._registry(store).known
            for damage in (*store.damages, *self._registry(store).damages)
        ]

    def _registry(self, store: Store) -> Registry:
        if store not in self._registries:
            self._registries[store] = Registry(store)
        return self._registries[store]


def _registered(store: Store, identity: str, known: Known) -> Container:
    """Give a container of the database, with what the storage says of it."""
    stored = store.containers.get(identity)
    if stored is not None:
        found = listed(Podman.name, store, stored)
    else:
        found = Container(id=identity, engine=Podman.name, state_root=store.root)
    others = (found.name, *found.names) if found.name else ()
    return msgspec.structs.replace(
        found,
        name=known.name or found.name,
        names=tuple(each for each in others if each != (known.name or found.name)),
        recorded=known.recorded,
        damages=(*found.damages, *known.damages),
        provenance=(*found.provenance, f"recorded: {known.source}: state"),
    )


def _named(container: Container, config: PodmanConfig, known: Known) -> Container:
    """Add what the configuration says of a container itself."""
    path = encode(known.database.path)
    field = known.database.configuration.format(id=container.id)
    return msgspec.structs.replace(
        container,
        labels=dict(config.labels or {}) or container.labels,
        image=container.image or config.rootfs_image_name or config.rootfs,
        provenance=(*container.provenance, f"labels: {path}: {field}: labels"),
    )


def _driver(stored: Stored | None, config: PodmanConfig | None) -> str:
    """Give the storage driver; without storage it is in the path of the container's directory."""
    if stored is not None:
        return stored.driver
    parts = config.static_dir.split("/") if config else []
    return next((part[: -len("-containers")] for part in parts if part.endswith("-containers")), "")


def _planned(config: PodmanConfig | None) -> OciSpec:
    """Give the configuration for the OCI runtime as far as it is known before the first start."""
    spec = config.spec if config else None
    if spec is None:
        return OciSpec(root=OciRoot(path=""))
    return OciSpec(
        root=OciRoot(path=""), mounts=spec.mounts, annotations=spec.annotations, linux=spec.linux
    )


def _completed(
    given: Given,
    config: PodmanConfig,
    known: Known,
    moved: Moved,
    directory_of: Callable[[str], str],
) -> Given:
    """
    Tell volumes from other mounts, and add what config.json would say if it were there.

    `directory_of` gives the directory of a volume, empty if that is not known.
    """
    mounts = {mount.destination: mount for mount in given.mounts}
    for volume in config.named_volumes or ():
        place = encode(os.path.normpath(volume.dest))
        options = volume.options or ()
        mount = mounts.get(place) or ContainerMount(
            destination=place, type="volume", readonly="ro" in options
        )
        name = volume.volume_name
        directory = "" if mount.source else directory_of(name)
        source = moved.recorded(directory) if directory else mount.source
        mounts[place] = msgspec.structs.replace(mount, type="volume", name=name, source=source)
    for overlay in config.overlay_volumes or ():
        place = encode(os.path.normpath(overlay.dest))
        source = moved.recorded(overlay.source) if overlay.source else None
        mounts[place] = ContainerMount(destination=place, type="overlay", source=source)
    for image in config.ctr_image_volumes or ():
        place = encode(os.path.normpath(image.dest))
        mount = mounts.get(place) or ContainerMount(destination=place, type="image")
        mounts[place] = msgspec.structs.replace(
            mount, type="image", name=image.source, readonly=not image.rw
        )
    binds = known.state.bind_mounts or {}
    files = given.files or {
        os.path.basename(inside): moved.recorded(path)
        for inside, path in binds.items()
        if inside != "/dev/shm"  # noqa: S108 -- in the container
    }
    shm = given.shm or (moved.recorded(config.shm_dir) if config.shm_dir else None)
    # Labels are in the configuration; annotations are not taken for them.
    return given._replace(mounts=tuple(mounts.values()), files=files, shm=shm, annotations={})


def _volumes(
    mounts: tuple[ContainerMount, ...], store: Store, moved: Moved
) -> tuple[ContainerMount, ...]:
    """Tell volumes by their directories: `<volume path>/<name>/_data`."""
    place = store.place
    recorded = place.volume_path or f"{place.graph_root}/volumes"
    base = moved.recorded(recorded)
    return tuple(_as_volume(mount, base) for mount in mounts)


def _as_volume(mount: ContainerMount, base: KPath) -> ContainerMount:
    name = (mount.source or "").removeprefix(f"{base}/").removesuffix("/_data")
    if mount.source != f"{base}/{name}/_data" or not is_name(name):
        return mount
    return msgspec.structs.replace(mount, type="volume", name=name)


def _of_directory(config: PodmanConfig, known: Known | None, reader: Reader) -> Root:
    """Give the root of a container that was made from a directory (`--rootfs`)."""
    file = known.database.path if known else ""
    path: KPath = encode(os.path.normpath(config.rootfs))
    if config.rootfs_overlay:
        what = "the layers of an overlay over a directory are recorded nowhere"
        reader.damaged(file, f"rootfs_overlay of {config.id}", what)
        return Root(None, None)
    reader.tell("stack", file, f"rootfs of {config.id}")
    return Root(Stack(driver="vfs", upper=path, provenance=(f"{encode(file)}: rootfs",)), path)
