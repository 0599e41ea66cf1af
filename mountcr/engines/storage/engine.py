# SPDX-License-Identifier: Apache-2.0
"""What the engines on containers/storage have in common: places, lists, and what a container is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import msgspec

from mountcr.engines.storage.layers import Layers, Root
from mountcr.engines.storage.places import storage_places
from mountcr.engines.storage.store import Store
from mountcr.engines.storage.userdata import Given, Moved, Userdata, torn_down
from mountcr.model import Container
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.container import Damage
    from mountcr.engines.reading import Reader
    from mountcr.engines.roots import Roots
    from mountcr.engines.storage.configuration import Files
    from mountcr.engines.storage.store import Stored
    from mountcr.paths import KPath

__all__ = ["StorageEngine", "Stores"]


class Asked(NamedTuple):
    """What was asked for, and what there is."""

    roots: Roots
    stores: dict[KPath, tuple[Store, Layers]]
    runtimes: tuple[str, ...]


class Stores:
    """
    The instances of containers/storage, found once for all engines that share them.

    `files` are where the configuration lies, None for those of the host. `asked` is what was asked
    last, None if nothing was.
    """

    def __init__(self, files: Files | None = None) -> None:
        self._files = files
        self.asked: Asked | None = None

    def of(self, roots: Roots) -> Asked:
        """Give the instances that there are below some roots."""
        asked = self.asked
        if asked is None or (asked.roots is not roots and asked.roots != roots):
            stores = [Store(place) for place in storage_places(roots, self._files)]
            by_root = {store.root: (store, Layers(store)) for store in stores}
            asked = Asked(roots, by_root, tuple(roots.directories()))
            self.asked = asked
        return asked


class StorageEngine:
    """
    An engine on containers/storage.

    `files` are where the configuration lies, None for those of the host; `stores` are shared with
    other engines, if they are given.
    """

    name: ClassVar[str]

    def __init__(self, files: Files | None = None, stores: Stores | None = None) -> None:
        self._files = files
        self._stores = stores or Stores(files)

    def containers(self, roots: Roots) -> Iterator[Container]:
        """Give every container of the engine, without its layers and mounts."""
        asked = self._stores.of(roots)
        for store, _ in asked.stores.values():
            yield from self._listed(store, asked.runtimes)

    def describe(self, container: Container, roots: Roots) -> Container:
        """Add layers, mounts, files, and all else that is recorded."""
        asked = self._stores.of(roots)
        found = asked.stores.get(container.state_root) if container.state_root else None
        return self._described(container, *found) if found else container

    def damages(self) -> Sequence[Damage]:
        """Give nothing: what is damaged is a container's, or podman says it."""
        return ()

    def lookup(self, reference: str, roots: Roots) -> Sequence[Container] | None:
        """Answer nothing: an id, a name or a prefix needs the list."""

    def _listed(self, store: Store, runtimes: Sequence[str]) -> Iterator[Container]:
        raise NotImplementedError

    def _described(self, container: Container, store: Store, layers: Layers) -> Container:
        raise NotImplementedError


def listed(engine: str, store: Store, stored: Stored) -> Container:
    """Give what the lists say of a container."""
    entry = stored.entry
    file = encode(stored.file)
    told = [f"id: {file}: id"]
    if stored.metadata.image_name:
        told.append(f"image: {file}: metadata")
    elif entry.image:
        told.append(f"image: {file}: image")
    image = stored.metadata.image_name or (
        store.image_name(stored.driver, entry.image) if entry.image else ""
    )
    names = entry.names or ()
    return Container(
        id=entry.id,
        engine=engine,
        name=names[0] if names else stored.metadata.name,
        names=names[1:],
        image=image,
        storage=stored.driver,
        state_root=store.root,
        damages=stored.damages,
        provenance=tuple(told),
    )


def root_of(container: Container, stored: Stored | None, layers: Layers, reader: Reader) -> Root:
    """Give what the root of a container is made of, by the layer in its entry."""
    if stored is None:
        return Root(None, None)
    if not stored.entry.layer:
        file = stored.file
        if not container.damages:
            reader.damaged(file, f"layer of {container.id}", "is missing")
        return Root(None, None)
    told = len(reader.told)
    reader.tell("upper", stored.file, "layer")
    root = layers.root(stored.driver, stored.entry.layer, reader)
    if root.stack is None:
        return root
    provenance = tuple(reader.told[told:])
    return root._replace(stack=msgspec.structs.replace(root.stack, provenance=provenance))


def assembled(
    container: Container,
    root: Root,
    given: Given,
    reader: Reader,
    *,
    userdata: Userdata | None,
    moved: Moved | None = None,
    spec: str = "",
    bundle: str = "",
    shm_size: int = 0,
) -> Container:
    """Put what was found of a container into its record, where that says nothing yet."""
    rootfs = root.path or container.rootfs
    if given.annotations and not container.labels:
        reader.tell("labels", spec, "annotations")
    return msgspec.structs.replace(
        container,
        stack=root.stack,
        rootfs=rootfs,
        bundle=encode(bundle) if bundle else container.bundle,
        spec=encode(spec) if spec else container.spec,
        mounts=given.mounts,
        files=given.files,
        shm=given.shm,
        cgroup=container.cgroup or given.cgroup,
        namespace_paths=container.namespace_paths or given.namespaces,
        labels=container.labels or given.annotations,
        torn_down=torn_down(userdata, rootfs, given.shm, shm_size) if userdata else (),
        damages=tuple(dict.fromkeys((*container.damages, *reader.damages))),
        provenance=(*container.provenance, *reader.told, *(moved.notes() if moved else ())),
    )
