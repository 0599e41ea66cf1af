# SPDX-License-Identifier: Apache-2.0
"""
Conversion: what a stack becomes on another driver, or with another writable layer.

The original is left alone. A lower layer is used where it lies when the other driver reads it as
its own does; another one is written anew into a cache, under the digest of what it changes. The
changes of the writable layer are written, in the marks of the new driver, into the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mountcr import paths
from mountcr.driver import get_driver
from mountcr.planning.choices import CACHE
from mountcr.planning.steps import Convert, Copy, Directory, EmptyLayer, Step
from mountcr.stack import Stack, StoredLayer
from mountcr.target import SurveyedLayer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mountcr.driver import Driver
    from mountcr.paths import KPath
    from mountcr.target import Survey

__all__ = ["convert", "is_foreign"]

_UNKNOWN = SurveyedLayer(foreign=paths.ROOT, digest="DIGEST")
"""Stands for a layer that nobody has looked at, in a plan that is only looked at."""


def is_foreign(stack: Stack, driver: Driver, dialect: str) -> bool:
    """
    Tell whether the marks of a stack are none that a driver reads.

    `dialect` is what it writes on the host, empty where no version of a program decides.
    """
    other_version = stack.dialect != dialect and bool(stack.dialect and dialect)
    return stack.driver != driver.name or other_version


def convert(stack: Stack, driver: Driver, upper: KPath, survey: Survey) -> tuple[Stack, list[Step]]:
    """
    Give the stack of a driver that shows what a stack of any driver does, and the steps for it.

    `upper` is a directory that is not there yet. `survey` tells of the host and the lower layers.
    """
    surveyed = survey.layers
    origin = get_driver(stack.driver)
    layers = origin.layers(stack)
    if driver.flat:
        because = f"a copy of the {stack.driver} stack, which is left alone"
        copy = Copy(layers=layers, data=stack.data, into=upper, because=because)
        return Stack(driver=driver.name, upper=upper, provenance=stack.provenance), [copy]
    steps: list[Step] = []
    lowers: list[KPath] = []
    writable = layers[:1] if stack.upper and stack.lowers else ()
    for number in range(len(writable), len(layers)):
        path, step = _lower(layers[number:], stack, driver, survey)
        if path not in lowers:  # one that changes the same lies above it, and hides all of it
            lowers.append(path)
            steps += step
    converted = driver.stack(
        tuple(lowers), upper, origin=stack, together=_are_together((*lowers, upper), surveyed)
    )
    if survey.dialect:
        converted = msgspec.structs.replace(converted, dialect=survey.dialect)
    because = f"changes go to {upper}, the original is left alone"
    to = driver.layers(converted)[0].dialect
    if writable:
        steps.append(Convert(layers=layers, data=stack.data, into=upper, to=to, because=because))
    else:
        steps.append(EmptyLayer(layers=layers, into=upper, to=to, because=because))
    if converted.work:
        because = f"{driver.name} wants a work directory beside its upper"
        steps.append(Directory(path=converted.work, because=because))
    return converted, steps


def _are_together(layers: Iterable[KPath], surveyed: Mapping[KPath, SurveyedLayer]) -> bool:
    """Tell whether layers, some of them in the cache, are known to be on one file system."""
    places = {CACHE if paths.is_beneath(each, CACHE) else each for each in layers}
    devices = {surveyed.get(each, _UNKNOWN).dev for each in places}
    return len(devices) == 1 and "" not in devices


def _lower(
    layers: tuple[StoredLayer, ...],
    stack: Stack,
    driver: Driver,
    survey: Survey,
) -> tuple[KPath, list[Step]]:
    """Give where the topmost of some layers is read from, and what puts it there."""
    path = layers[0].path
    if not is_foreign(stack, driver, survey.dialect):
        return path, []
    found = survey.layers.get(path, _UNKNOWN)
    if found.foreign is None:
        return path, []
    to = survey.dialect or driver.dialect
    into = paths.join(CACHE, f"{found.digest}.{to}")
    where = paths.join(path, found.foreign)
    because = f"{driver.name} would not read {where} as {stack.driver} does"
    step = Convert(
        layers=layers,
        data=stack.data,
        into=into,
        to=to,
        shared=True,
        because=because,
    )
    return into, [step]
