# SPDX-License-Identifier: Apache-2.0
"""Layers that a bundle names, as the stores of this host have them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from mountcr.paths import KPath, decode
from mountcr.planning.bundling import Base, Known
from mountcr.planning.placement import LayerAt
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.foreign import foreign_path
from mountcr.rootfs.opened import opened
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mountcr.bundle.document import Bundle
    from mountcr.engines import Roots
    from mountcr.model import Container

__all__ = ["base_layer", "found_layers", "known_layers", "surveyed"]


def known_layers(directories: Iterable[KPath], roots: Roots | None) -> dict[KPath, Known]:
    """Give by which digests images have some directories of this host, as far as they do."""
    from mountcr.engines.imagelayers import identify_opened, image_layers

    directories = tuple(directories)
    identified = identify_opened(directories, image_layers(roots)) if directories else ()
    return {
        path: Known(layer.diff_id, layer.chain_id)
        for path, layer in zip(directories, identified, strict=True)
        if layer is not None and not layer.flat and not layer.mapped
    }


def base_layer(container: Container, roots: Roots | None) -> Base | None:
    """Give the image of a container whose driver copies, if it is known with all its layers."""
    from mountcr.engines.imagelayers import base_of, image_layers, pile

    layers = image_layers(roots)
    base = base_of(container, layers, roots)
    if base is None or not base.flat or base.mapped:
        return None
    whole = pile(base, layers)
    digests = tuple(Known(each.diff_id, each.chain_id) for each in reversed(whole))
    return Base(base.path, digests) if whole else None


def found_layers(bundle: Bundle, roots: Roots | None, marks: str) -> dict[str, LayerAt]:
    """
    Give where the layers of a bundle are on this host.

    By DiffID, and by chain id for those that hold all below them too. One that is in several stores
    is taken from where it is in the dialect `marks`, if there is one. Raises OSError naming what
    cannot be read.
    """
    from mountcr.engines.imagelayers import image_layers

    wanted = {each.diff_id for each in bundle.layers} - {""}
    whole = {each.chain_id for each in bundle.layers} - {""}
    found: dict[str, LayerAt] = {}
    for layer in image_layers(roots) if wanted or whole else ():
        key = layer.chain_id if layer.flat else layer.diff_id
        if layer.mapped or key not in (whole if layer.flat else wanted):
            continue
        if key in found and found[key].stored.dialect == marks:
            continue
        stored = StoredLayer(path=layer.path, dialect=layer.dialect)
        found[key] = LayerAt(stored=stored, key=key.partition(":")[2])
    return found


def surveyed(layers: Sequence[LayerAt], marks: str) -> tuple[LayerAt, ...]:
    """
    Look which layers, top first, have no mark that another dialect would read in another way.

    One that lies on what is not there yet is not looked at: what a directory lies on tells whether
    it hides it. Raises OSError naming what cannot be read.
    """
    number = len(layers)
    while number and os.path.isdir(decode(layers[number - 1].stored.path)):
        number -= 1
    there = layers[number:]
    if not marks or all(each.stored.dialect == marks for each in there):
        return tuple(layers)
    found = list(layers[:number])
    with opened([each.stored for each in there]) as view:
        below = view
        for each, layer in zip(there, view.layers, strict=True):
            below = below.below()
            plain = foreign_path(layer, get_dialect(marks), below) is None
            found.append(msgspec.structs.replace(each, plain=plain))
    return tuple(found)
