# SPDX-License-Identifier: Apache-2.0
"""
The image layers of containers/storage, by the DiffIDs in its lists.

An entry of `layers.json` has `diff-digest` if the layer came from a tar or was made one; that of a
container has none. `uidmap` and `gidmap` tell that its files were given other owners, the flag
`incomplete` that it was not written to its end, and is to be removed (container-libs storage
layers.go). A layer that came by its table of contents has no `diff-digest`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.engines.imagelayers import Found, ImageLayer, above, is_digest
from mountcr.engines.reading import is_rootless
from mountcr.engines.storage.engine import Stores
from mountcr.engines.storage.layers import DIRECTORIES
from mountcr.engines.storage.overlay import OverlayHome
from mountcr.engines.storage.places import drivers_of
from mountcr.engines.storage.records import ImageLayerEntry
from mountcr.engines.storage.store import entries
from mountcr.overlayhome import is_name
from mountcr.paths import encode, fsdecode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mountcr.container import Container, Damage
    from mountcr.engines.reading import Reader
    from mountcr.engines.roots import Roots
    from mountcr.engines.storage.configuration import Files, StoragePlace
    from mountcr.engines.storage.records import IdMap
    from mountcr.engines.storage.store import Store
    from mountcr.paths import KPath

__all__ = ["base", "found"]

_WITHOUT_DIRECTORY: Final = frozenset({"zfs"})
"""The drivers whose layers are in a directory while they are mounted only."""


def found(roots: Roots, engine: str, files: Files | None = None) -> Iterator[Found]:
    """Give the image layers of every instance, and of the image stores that it reads from."""
    for store, _ in Stores(files).of(roots).stores.values():
        drivers = {each for base in store.bases for each in drivers_of(base)}
        for driver in sorted(drivers - _WITHOUT_DIRECTORY):
            yield _of_driver(store, driver, engine)


def base(container: Container, roots: Roots, files: Files | None = None) -> str:
    """Give the chain id of the image that a container is on; empty where nothing tells."""
    stores = Stores(files).of(roots).stores
    asked = stores.get(container.state_root) if container.state_root else None
    store = asked[0] if asked else None
    stored = store.containers.get(container.id) if store else None
    if store is None or stored is None:
        return ""
    known: dict[str, ImageLayerEntry] = {}
    reader = store.reader()
    for file, _ in store.layer_lists(stored.driver):
        for entry in entries(reader, file, ImageLayerEntry):
            known.setdefault(entry.id, entry)
    own = known.get(stored.entry.layer)
    return _Chains(known).of(own.parent) if own else ""


def _of_driver(store: Store, driver: str, engine: str) -> Found:
    reader = store.reader()
    known: dict[str, ImageLayerEntry] = {}
    every: list[tuple[ImageLayerEntry, str, str]] = []
    for file, base in store.layer_lists(driver):
        for entry in entries(reader, file, ImageLayerEntry):
            known.setdefault(entry.id, entry)
            every.append((entry, file, base))
    chains = _Chains(known)
    homes: dict[str, _Home] = {}
    layers: list[ImageLayer] = []
    for entry, file, base in every:
        if not is_digest(entry.diff_digest) or entry.is_incomplete:
            continue
        home = homes.get(base) or homes.setdefault(base, _Home(store.place, base, driver, reader))
        directory = home.directory(entry.id, reader)
        if directory is None:
            continue
        layers.append(
            ImageLayer(
                diff_id=entry.diff_digest,
                chain_id=chains.of(entry.id),
                path=directory,
                dialect=home.dialect,
                flat=home.is_flat,
                engine=engine,
                provenance=f"{encode(file)}: diff-digest of {entry.id}",
                mapped=home.is_mapped or _is_mapped(entry.uidmap) or _is_mapped(entry.gidmap),
            )
        )
    return Found(layers, reader.damages)


class _Chains:
    """The chain ids of layers, each made once."""

    def __init__(self, known: Mapping[str, ImageLayerEntry]) -> None:
        self._known = known
        self._made: dict[str, str] = {}

    def of(self, identity: str) -> str:
        """Give the chain id of a layer; empty if one at or below it has no DiffID on record."""
        waiting: dict[str, ImageLayerEntry] = {}
        at = identity
        while at and at not in self._made:
            if at not in self._known or at in waiting:
                self._made[at] = ""
                break
            waiting[at] = self._known[at]
            at = waiting[at].parent
        for each, entry in reversed(waiting.items()):
            below = self._made.get(entry.parent, "")
            whole = is_digest(entry.diff_digest) and (below or not entry.parent)
            self._made[each] = above(below, entry.diff_digest) if whole else ""
        return self._made.get(identity, "")


class _Home:
    """The directories of layers of a driver below a graph root."""

    def __init__(self, place: StoragePlace, base: str, driver: str, reader: Reader) -> None:
        self._base = os.path.realpath(base)
        self._driver = driver
        here = msgspec.structs.replace(place, graph_root=self._base, image_stores=())
        self._overlay = OverlayHome(here)
        self.is_flat = driver in DIRECTORIES
        self.is_mapped = is_rootless(f"{self._base}/{driver}")
        self.dialect = "vfs" if self.is_flat else self._overlay.program(reader)
        if self.is_mapped and self.dialect == "overlay":
            # In a user namespace overlayfs has the attributes that a user may set.
            self.dialect = "overlay-user"

    def directory(self, identity: str, reader: Reader) -> KPath | None:
        """Give the directory of a layer; one that is not as it must be is a damage."""
        if self.is_flat:
            return self._plain(identity, reader)
        if self._driver != "overlay":
            return None
        layer = self._overlay.layer(identity)
        if layer.damage:
            _remember(layer.damage, reader)
            return None
        if layer.composefs or len(layer.content) != 1:
            # The files of one are named by their digests; one of several directories is no layer.
            return None
        return encode(os.path.realpath(fsdecode(layer.content[0])))

    def _plain(self, identity: str, reader: Reader) -> KPath | None:
        directory = f"{self._base}/{DIRECTORIES[self._driver]}"
        if not is_name(identity):
            reader.damaged(directory, "", f"{identity!r} is no id of a layer")
            return None
        path = f"{directory}/{identity}"
        if os.path.islink(path) or not os.path.isdir(path):
            what = "is no directory" if os.path.lexists(path) else "is missing"
            reader.damaged(path, "", what)
            return None
        return encode(os.path.realpath(path))


def _is_mapped(maps: tuple[IdMap, ...] | None) -> bool:
    """Tell whether ids are other ones on the host."""
    return any(each.container_id != each.host_id for each in maps or ())


def _remember(damage: Damage, reader: Reader) -> None:
    if damage not in reader.damages:
        reader.damages.append(damage)
