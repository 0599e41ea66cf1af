# SPDX-License-Identifier: Apache-2.0
"""
Layers that shall be used by another driver: can they be read as they lie?

A layer is surveyed as a whole: one mark that the other dialect would read in another way, or one
name that it would take for a mark, and the layer has to be converted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.driver import get_driver
from mountcr.kernel.programs import written_dialect
from mountcr.observation.stats import device_of
from mountcr.planning.choices import CACHE
from mountcr.planning.conversion import is_foreign
from mountcr.rootfs.changes import changes
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.foreign import foreign_path
from mountcr.rootfs.opened import opened
from mountcr.rootfs.tree import shown
from mountcr.target import Survey, SurveyedLayer

if TYPE_CHECKING:
    from mountcr.paths import KPath
    from mountcr.rootfs.dialect import Dialect
    from mountcr.stack import Stack

__all__ = ["survey"]


def survey(stack: Stack, driver: str, upper: KPath) -> Survey:
    """
    Survey the lower layers of a stack for a driver that would read them where they lie.

    What has to be converted is read whole, for its digest. `upper`, where the new writable layer
    will be, and the cache are looked at as well. Raises OSError naming a layer that cannot be read,
    UsageError for an unknown driver.
    """
    other = get_driver(driver)
    dialect = written_dialect(driver)
    if other.flat or not is_foreign(stack, other, dialect):
        return Survey(dialect=dialect)
    found = {place: SurveyedLayer(dev=device_of(place)) for place in (upper, CACHE)}
    found |= _layers(stack, get_dialect(dialect or other.dialect))
    return Survey(layers=found, dialect=dialect)


def _layers(stack: Stack, target: Dialect) -> dict[KPath, SurveyedLayer]:
    from mountcr.rootfs.fingerprint import layer_digest  # what most restores have no use for

    found: dict[KPath, SurveyedLayer] = {}
    layers = get_driver(stack.driver).layers(stack)
    with opened(layers, stack.data) as view:
        below = view
        for stored, layer in zip(layers, view.layers, strict=True):
            below = below.below()
            if stored.path == stack.upper and stack.lowers:
                continue
            foreign = foreign_path(layer, target, below)
            if foreign is None:
                found[stored.path] = SurveyedLayer(dev=device_of(stored.path))
            else:
                digest = layer_digest(changes(layer, below, writable=False))
                found[stored.path] = SurveyedLayer(foreign=shown(foreign), digest=digest)
    return found
