# SPDX-License-Identifier: Apache-2.0
"""
`image/<driver>/layerdb` of Docker since 1.10: from a container to the ids of its layers.

`mounts/<container>` has `mount-id`, the id that the graph driver knows the writable layer by,
`init-id`, and `parent`, the chain id of the top layer of the image. `<algorithm>/<chain id>` has
`cache-id`, the graph driver's id, and `parent` unless it is the base (moby layer/filestore.go).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.container import Damage
from mountcr.engines.docker.layers import Chain, Layers, name_in, remember
from mountcr.engines.reading import names_in
from mountcr.paths import encode

if TYPE_CHECKING:
    from mountcr.engines.reading import Reader

__all__ = ["LayerDb", "drivers_of"]

_CHAIN_ID: Final = re.compile(r"[a-z0-9]+:[0-9a-f]{32,}")


def drivers_of(data: str, container: str) -> list[str]:
    """Give the graph drivers that have a layer of a container."""
    names = names_in(f"{data}/image")
    mounts = (f"{data}/image/{name}/layerdb/mounts/{container}" for name in names)
    return [name for name, path in zip(names, mounts, strict=True) if os.path.isdir(path)]


class _Layer(NamedTuple):
    """A layer of an image: the graph driver's id, the chain id below, and what is wrong."""

    cache: str
    parent: str
    damages: tuple[Damage, ...]


class LayerDb:
    """The database of one graph driver; the layers that images share are read once."""

    def __init__(self, data: str, driver: str, reader: Reader) -> None:
        self._root = f"{data}/image/{driver}/layerdb"
        self._reader = reader
        self._layers: dict[str, _Layer] = {}
        self._chains: dict[str, Chain] = {}

    def has(self, container: str) -> bool:
        """Tell whether there is a record of a container."""
        return os.path.isdir(f"{self._root}/mounts/{container}")

    def layers(self, container: str) -> Layers | None:
        """Give the layers of a container; None if not even the writable one is known."""
        reader, mount = self._reader, f"{self._root}/mounts/{container}"
        own = name_in(reader, f"{mount}/mount-id")
        if not own:
            return None
        reader.tell("writable layer", f"{mount}/mount-id")
        init = name_in(reader, f"{mount}/init-id", optional=True)
        if init:
            reader.tell("init layer", f"{mount}/init-id")
        told = f"{mount}/parent"
        parent = reader.text(told, optional=True)
        if parent is None:
            # An image without layers has none; but so has one whose record cannot be read.
            unread = any(each.file == encode(told) for each in reader.damages)
            return Layers(own, init, None if unread else (), told)
        reader.tell("image layers", told)
        chain = self._chain(parent, told)
        remember(reader, chain.damages)
        return Layers(own, init, chain.ids, told)

    def _chain(self, top: str, told: str) -> Chain:
        """Follow the parents of a layer to the base, nearest first; `told` named the first."""
        if _CHAIN_ID.fullmatch(top) is None:
            return Chain(None, (_no_chain_id(told, top),))
        chain = self._chains.get(top)
        if chain is None:
            chain = self._chains[top] = self._follow(top)
        return chain

    def _follow(self, top: str) -> Chain:
        ids: list[str] = []
        seen: set[str] = set()
        each = top
        while each:
            if each in seen:
                what = f"{each} is a parent of itself"
                file = encode(f"{self._directory(each)}/parent")
                return Chain(None, (Damage(file=file, what=what),))
            seen.add(each)
            layer = self._layer(each)
            if layer.damages:
                return Chain(None, layer.damages)
            ids.append(layer.cache)
            each = layer.parent
        return Chain(tuple(ids))

    def _layer(self, chain_id: str) -> _Layer:
        """Give `cache-id` and `parent` of a layer, and what is wrong with them."""
        known = self._layers.get(chain_id)
        if known is None:
            reader = self._reader.fresh()
            directory = self._directory(chain_id)
            cache = name_in(reader, f"{directory}/cache-id")
            parent = reader.text(f"{directory}/parent", optional=True) or ""
            if parent and _CHAIN_ID.fullmatch(parent) is None:
                reader.damages.append(_no_chain_id(f"{directory}/parent", parent))
            known = self._layers[chain_id] = _Layer(cache, parent, tuple(reader.damages))
        return known

    def _directory(self, chain_id: str) -> str:
        return f"{self._root}/{chain_id.replace(':', '/')}"


def _no_chain_id(file: str, text: str) -> Damage:
    return Damage(file=encode(file), what=f"{text!r} is no chain id")
