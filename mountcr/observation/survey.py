# SPDX-License-Identifier: Apache-2.0
"""
Layers that shall be used by another driver: can they be read as they lie?

A layer is surveyed as a whole: one mark that the other dialect would read in another way, or one
name that it would take for a mark, and the layer has to be converted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.driver import get_driver
from mountcr.observation.stats import look
from mountcr.paths import ROOT, decode, parent
from mountcr.planning.choices import CACHE
from mountcr.rootfs.changes import changes
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.foreign import foreign_path
from mountcr.rootfs.opened import opened
from mountcr.rootfs.tree import shown
from mountcr.target import SurveyedLayer

if TYPE_CHECKING:
    from mountcr.model import Stack
    from mountcr.paths import KPath

__all__ = ["survey"]


def survey(stack: Stack, driver: str, upper: KPath) -> dict[KPath, SurveyedLayer]:
    """
    Survey the lower layers of a stack for a driver that would read them where they lie.

    What has to be converted is read whole, for its digest. `upper`, where the new writable layer
    will be, and the cache are looked at as well. Raises OSError naming a layer that cannot be read,
    UsageError for an unknown driver.
    """
    from mountcr.rootfs.fingerprint import layer_digest  # what most restores have no use for

    other = get_driver(driver)
    if other.flat or other.name == stack.driver:
        return {}
    target = get_dialect(other.dialect)
    found = {place: SurveyedLayer(dev=_device(place)) for place in (upper, CACHE)}
    layers = get_driver(stack.driver).layers(stack)
    with opened(layers, stack.data) as view:
        below = view
        for stored, layer in zip(layers, view.layers, strict=True):
            below = below.below()
            if stored.path == stack.upper and stack.lowers:
                continue
            foreign = foreign_path(layer, target, below)
            if foreign is None:
                found[stored.path] = SurveyedLayer(dev=_device(stored.path))
            else:
                digest = layer_digest(changes(layer, below, writable=False))
                found[stored.path] = SurveyedLayer(foreign=shown(foreign), digest=digest)
    return found


def _device(path: KPath) -> str:
    """Give the device of a path, or of the deepest directory above it that is there."""
    while True:
        stat = look(decode(path), follow=True)
        if stat is not None or path == ROOT:
            return stat.dev if stat else ""
        path = parent(path)
