# SPDX-License-Identifier: Apache-2.0
"""
One instance of containers/storage: its containers, layers and images, each list read once.

`<driver>-containers/containers.json` has the containers, `<driver>-layers/layers.json` the layers
and `<driver>-images/images.json` the images. What shall not survive a boot is in
`volatile-containers.json` and `volatile-layers.json`, below the graph root, or below the run root
of a transient store (container-libs storage containers.go, layers.go). The layers of other image
stores are in their own lists.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from mountcr.container import Damage
from mountcr.engines.reading import Reader, names_in
from mountcr.engines.storage.places import drivers_of
from mountcr.engines.storage.records import (
    ImageEntry,
    ImageLayerEntry,
    LayerEntry,
    Metadata,
    StorageEntry,
)
from mountcr.overlayhome import is_name
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.engines.storage.configuration import StoragePlace

__all__ = ["Owner", "Store", "Stored", "entries"]

T = TypeVar("T", StorageEntry, LayerEntry, ImageLayerEntry, ImageEntry)

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of an entry; a string in it is not decoded before the entry is."""

_BUILDAH: Final = "buildah.json"
_ID: Final = re.compile(r"[0-9a-f]{64}")


class Owner:
    """Whose a container is, by what its entry says."""

    PODMAN: Final = "podman"
    CRIO: Final = "crio"
    BUILDAH: Final = "buildah"


class Stored(NamedTuple):
    """A container of a driver, the file that has it, and whose it is."""

    driver: str
    file: str
    entry: StorageEntry
    metadata: Metadata
    owner: str
    damages: tuple[Damage, ...]


class _Identity(msgspec.Struct, frozen=True):
    id: str


class _Annotations(msgspec.Struct, frozen=True):
    annotations: dict[str, str] | None = None


class Store:
    """
    What the lists of one instance say; each is read when it is first needed.

    `damages` are those of the configuration and of the lists of containers.
    """

    def __init__(self, place: StoragePlace) -> None:
        self.place = place
        self.root = encode(place.graph_root)
        self._reader = Reader(*(encode(each) for each in place.readable))
        self.damages: list[Damage] = [*place.damages]
        self._containers: dict[str, Stored] | None = None
        self._layers: dict[str, _Layers] = {}
        self._images: dict[str, dict[str, str]] = {}

    def reader(self) -> Reader:
        """Give a reader that has met nothing yet."""
        return self._reader.fresh()

    @property
    def containers(self) -> dict[str, Stored]:
        """Every container by its id, in the order of the lists."""
        if self._containers is None:
            self._containers = {}
            for driver in drivers_of(self.place.graph_root):
                for stored in self._containers_of(driver):
                    self._containers.setdefault(stored.entry.id, stored)
        return self._containers

    def layers(self, driver: str) -> _Layers:
        """Give the layers of a driver: each with the list that has it, and the damages of these."""
        if driver not in self._layers:
            reader = self.reader()
            found: dict[str, tuple[LayerEntry, str]] = {}
            for file, _ in self.layer_lists(driver):
                for entry in entries(reader, file, LayerEntry):
                    found.setdefault(entry.id, (entry, file))
            first = f"{self.place.graph_root}/{driver}-layers/layers.json"
            self._layers[driver] = _Layers(found, first, tuple(reader.damages))
        return self._layers[driver]

    def image_name(self, driver: str, image: str) -> str:
        """Give the first name of an image, its id if it has none."""
        if driver not in self._images:
            reader = self.reader()
            self._images[driver] = {
                entry.id: next(iter(entry.names or ()), "")
                for base in reversed(self.bases)
                for entry in entries(reader, f"{base}/{driver}-images/images.json", ImageEntry)
            }
        return self._images[driver].get(image) or image

    @property
    def bases(self) -> tuple[str, ...]:
        """The graph root, and those of the other image stores."""
        return (self.place.graph_root, *self.place.image_stores)

    def layer_lists(self, driver: str) -> Iterator[tuple[str, str]]:
        """Give every list of layers of a driver, with the graph root that these are below."""
        graph, run = self.place.graph_root, self.place.run_root
        for base in (graph, run, *self.place.image_stores):
            if base:
                if base != run:
                    yield f"{base}/{driver}-layers/layers.json", base
                yield f"{base}/{driver}-layers/volatile-layers.json", graph if base == run else base

    def _containers_of(self, driver: str) -> Iterator[Stored]:
        directory = f"{self.place.graph_root}/{driver}-containers"
        files = [f"{directory}/containers.json", f"{directory}/volatile-containers.json"]
        if self.place.run_root:
            files.append(f"{self.place.run_root}/{driver}-containers/volatile-containers.json")
        reader = self.reader()
        known: dict[str, tuple[StorageEntry, str]] = {}
        partly: dict[str, Damage] = {}
        for file in files:
            for entry in entries(reader, file, StorageEntry, partly):
                known.setdefault(entry.id, (entry, file))
        shared = (*self.place.damages, *reader.damages)
        self.damages += reader.damages
        for identity, (entry, file) in known.items():
            own = (partly[identity],) if identity in partly else ()
            yield self._stored(driver, file, entry, (*shared, *own))
        if reader.damages:
            for identity in _directories(directory):
                if identity not in known:
                    yield self._stored(driver, files[0], StorageEntry(id=identity), shared)

    def _stored(
        self, driver: str, file: str, entry: StorageEntry, damages: tuple[Damage, ...]
    ) -> Stored:
        metadata = Metadata()
        if not is_name(entry.id):
            what = f"{entry.id!r} cannot be the name of a directory"
            damages = (*damages, Damage(file=encode(file), field="id", what=what))
        try:
            if entry.metadata:
                metadata = msgspec.json.decode(entry.metadata, type=Metadata)
        except (msgspec.DecodeError, RecursionError) as error:
            field = f"metadata of {entry.id}"
            damages = (*damages, Damage(file=encode(file), field=field, what=str(error)))
        return Stored(driver, file, entry, metadata, self._owner(driver, entry, metadata), damages)

    def _owner(self, driver: str, entry: StorageEntry, metadata: Metadata) -> str:
        """Tell whose a container is; buildah writes no metadata, and a lost entry has none."""
        if metadata.pod_id or metadata.pod_name:
            return Owner.CRIO
        if entry.metadata or not is_name(entry.id):
            return Owner.PODMAN
        directory = f"{self.place.graph_root}/{driver}-containers/{entry.id}/userdata"
        if os.path.exists(f"{directory}/{_BUILDAH}"):
            return Owner.BUILDAH
        spec = self.reader().json(f"{directory}/config.json", _Annotations, optional=True)
        manager = ((spec and spec.annotations) or {}).get("io.container.manager", "")
        return Owner.CRIO if manager == "cri-o" else Owner.PODMAN


class _Layers(NamedTuple):
    """The layers of a driver, the list that has most of them, and what is damaged in the lists."""

    known: dict[str, tuple[LayerEntry, str]]
    file: str
    damages: tuple[Damage, ...]


def entries(
    reader: Reader, file: str, kind: type[T], partly: dict[str, Damage] | None = None
) -> Iterator[T]:
    """
    Read a list; an entry that is damaged is one, and the others are read.

    In `partly` are damages of entries that at least have an id, which are given with nothing else.
    """
    pieces = reader.json(file, list[msgspec.Raw], optional=True)
    decode = msgspec.json.Decoder(kind).decode
    for number, piece in enumerate(pieces or ()):
        try:
            yield decode(piece)
        except _UNREADABLE as error:
            what, _, place = str(error).partition(" - at `$")
            field = f"[{number}]{place.rstrip('`')}"
            found = _identity(piece)
            if found is None or partly is None:
                reader.damaged(file, field, what)
            else:
                partly[found] = Damage(file=encode(file), field=field, what=what)
                yield kind(id=found)


def _identity(piece: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(piece, type=_Identity).id
    except _UNREADABLE:
        return None


def _directories(directory: str) -> list[str]:
    """Give the names that are ids, of containers whose list may be damaged."""
    return [name for name in names_in(directory) if _ID.fullmatch(name)]
