# SPDX-License-Identifier: Apache-2.0
"""
From the layer of a container to what its root file system is made of, for each storage driver.

The chain of layers stands in two places: by `parent` in layers.json, and for overlay in a file of
the layer itself, which the driver mounts by. Where both tell and differ, nothing is given.
(container-libs storage/layers.go, drivers/{overlay,vfs,btrfs,zfs}.)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from mountcr.container import Damage
from mountcr.engines.storage.overlay import OverlayHome
from mountcr.overlayhome import is_name
from mountcr.paths import encode
from mountcr.stack import Stack

if TYPE_CHECKING:
    from mountcr.engines.reading import Reader
    from mountcr.engines.storage.store import Store
    from mountcr.paths import KPath

__all__ = ["DIRECTORIES", "Layers", "Root"]

DIRECTORIES: Final = {"vfs": "vfs/dir", "btrfs": "btrfs/subvolumes", "zfs": "zfs/graph"}
"""Where the drivers that copy or snapshot have the whole root file system of a layer."""

_Above: TypeAlias = tuple[str, ...] | Damage
"""The ids of the layers below one, or why they are not known."""


class Root(NamedTuple):
    """The stack of a root file system, if that is known, and where it is or is mounted."""

    stack: Stack | None
    path: KPath | None


class Layers:
    """The layers of one instance, by storage driver."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._overlay = OverlayHome(store.place)
        self._above: dict[tuple[str, str], _Above] = {}
        self._contents: dict[tuple[str, ...], tuple[KPath, ...]] = {}

    def root(self, driver: str, layer: str, reader: Reader) -> Root:
        """Give what the root of a container is made of; what is wrong is a damage of the reader."""
        if driver == "overlay":
            return self._of_overlay(layer, reader)
        if driver in DIRECTORIES:
            return self._of_directory(driver, layer, reader)
        graph = self._store.place.graph_root
        reader.damaged(f"{graph}/{driver}-layers", "", f"nothing is known of the driver {driver}")
        return Root(None, None)

    def _of_directory(self, driver: str, layer: str, reader: Reader) -> Root:
        directory = f"{self._store.place.graph_root}/{DIRECTORIES[driver]}"
        path = f"{directory}/{layer}"
        if not is_name(layer):
            reader.damaged(directory, "", f"{layer!r} is no id of a layer")
            return Root(None, None)
        if os.path.islink(path) or not os.path.isdir(path):
            lost = "is not mounted, or missing" if driver == "zfs" else "is missing"
            there = os.path.lexists(path)
            reader.damaged(path, "", "not a directory" if there else lost)
            if there or driver == "zfs":
                return Root(None, encode(path))
        reader.tell("stack", path)
        return Root(Stack(driver="vfs", upper=encode(path)), encode(path))

    def _of_overlay(self, layer: str, reader: Reader) -> Root:
        top = self._overlay.layer(layer)
        if top.damage:
            reader.damages.append(top.damage)
        if not top.content:
            return Root(None, encode(f"{top.path}/merged") if top.path else None)
        merged = encode(f"{top.path}/merged")
        chain = self._chain(layer, reader)
        if chain is None:
            return Root(None, merged)
        lowers = self._lowers(layer, chain, reader)
        if lowers is None:
            return Root(None, merged)
        driver = self._overlay.program(reader)
        work = f"{top.path}/work"
        if not os.path.isdir(work):
            reader.damaged(work, "", "is missing")
        stack = Stack(
            driver=driver,
            lowers=lowers,
            upper=top.content[0],
            work=encode(work),
        )
        return Root(stack, merged)

    def _lowers(
        self, layer: str, chain: tuple[str, ...], reader: Reader
    ) -> tuple[KPath, ...] | None:
        """Give the directories of a chain, and before them what else is in the layer above it."""
        top = self._overlay.layer(layer)
        below = self._below(chain, reader)
        if below is None or self._is_image(top.composefs, reader):
            return None
        lowers = (*top.content[1:], *below)
        if lowers:
            return lowers
        empty = f"{top.path}/empty"
        if os.path.islink(empty) or not os.path.isdir(empty):
            reader.damaged(empty, "", "is missing, which a layer without a parent has")
            return None
        return (encode(empty),)

    def _below(self, chain: tuple[str, ...], reader: Reader) -> tuple[KPath, ...] | None:
        """Give the directories of a chain; containers of one image have the same."""
        if chain not in self._contents:
            lowers: list[KPath] = []
            sound = True
            for each in chain:
                found = self._overlay.layer(each)
                if found.damage:
                    reader.damages.append(found.damage)
                if not found.content or self._is_image(found.composefs, reader):
                    sound = False
                lowers.extend(found.content)
            if not sound:
                return None
            self._contents[chain] = tuple(lowers)
        return self._contents[chain]

    @staticmethod
    def _is_image(blob: str, reader: Reader) -> bool:
        if blob:
            what = "composefs: the layer is an image of EROFS, and no directory until mounted"
            reader.damaged(blob, "", what)
        return bool(blob)

    def _chain(self, layer: str, reader: Reader) -> tuple[str, ...] | None:
        """Give the ids of the layers below another, top first, if they are told in one way only."""
        lists = self._store.layers("overlay")
        for damage in lists.damages:
            reader.damaged(damage.file, damage.field, damage.what)
        file, below = self._overlay.below(layer, reader)
        above = self._parents("overlay", layer)
        if isinstance(above, Damage):
            reader.damages.append(above)
            if lists.damages and below is not None:
                reader.tell("lowers", file)
                return below
            return None
        if below is None:
            return None
        if below != above:
            here, there = _first_difference(below, above)
            what = f"{here} is below the layer where {lists.file} has {there}"
            reader.damaged(file, "", what)
            return None
        if below:
            reader.tell("lowers", file)
            reader.tell("lowers", lists.file, "parent")
        return above

    def _parents(self, driver: str, layer: str) -> _Above:
        """Follow `parent` from a layer to its base, not beyond what was followed before."""
        lists = self._store.layers(driver)
        followed: list[str] = []
        rest: _Above = ()
        at = layer
        while at and (driver, at) not in self._above:
            known = lists.known.get(at)
            if known is None or at in followed:
                child = followed[-1] if followed else ""
                rest = _broken(lists.file, child, at, twice=known is not None)
                break
            followed.append(at)
            at = known[0].parent
        else:
            above = self._above.get((driver, at), ())
            rest = _with(at, above) if at else ()
        for each in reversed(followed):
            self._above[driver, each] = rest
            rest = _with(each, rest)
        return self._above.get((driver, layer), rest)


def _with(layer: str, above: _Above) -> _Above:
    return above if isinstance(above, Damage) else (layer, *above)


def _broken(file: str, child: str, layer: str, *, twice: bool) -> Damage:
    field = f"parent of {child}" if child else layer
    what = f"layer {layer} is above itself" if twice else f"layer {layer} is not in the list"
    return Damage(file=encode(file), field=field, what=what)


def _first_difference(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, str]:
    """Give what two chains have in the first place where they differ."""
    place = 0
    while one[place : place + 1] == other[place : place + 1]:
        place += 1
    here, there = (
        f"layer {chain[place]}" if place < len(chain) else "nothing" for chain in (one, other)
    )
    return here, there
