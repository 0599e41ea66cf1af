# SPDX-License-Identifier: Apache-2.0
"""
Placement: what an imported root file system is made of on its new host, and the steps for that.

A layer that a store of the host has is used where it lies, if the driver reads it as its store
does. Every other one, from the bundle or from a store of another driver, is written into the cache
of converted layers. The writable layer is always a new one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mountcr import paths
from mountcr.bundle.names import UPPER
from mountcr.driver import get_driver
from mountcr.overlayopts import explicit_options
from mountcr.planning.choices import CACHE
from mountcr.planning.steps import Convert, Copy, Directory, EmptyLayer, Step
from mountcr.record import Record
from mountcr.stack import Stack, StoredLayer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mountcr.bundle.document import Bundle, BundleLayer
    from mountcr.driver import Driver
    from mountcr.paths import KPath

__all__ = ["LayerAt", "Missing", "Placement", "choose_layers", "place", "rebased"]

_SAFE_OPTIONS: Final = frozenset({"index", "xino", "redirect_dir", "nfs_export"})
"""Options of an overlay that a bundle may ask for: they say nothing of where files come from."""

_SAFE_FLAGS: Final = {
    "unionfs": frozenset(
        {"hide_meta_files", "hide_meta_dir", "relaxed_permissions", "statfs_omit_ro", "use_ino"}
    ),
    "fuse-overlayfs": frozenset({"noacl", "static_nlink"}),
}
"""The same of servers of FUSE: nothing with a path, of which there are many."""

_SAFE_VALUES: Final = frozenset({"on", "off", "auto", "nofollow", "follow"})


class LayerAt(Record, frozen=True, kw_only=True):
    """
    Where a lower layer is read from.

    `key` is a digest of what it holds, the part of its name in the cache that is its own. `plain`
    tells that a layer of a store has nothing that any driver would read in another way.
    """

    stored: StoredLayer
    key: str = ""
    plain: bool = False


class Missing(NamedTuple):
    """A lower layer that is neither in a store nor in the bundle: its number, top first from 1."""

    number: int
    layer: BundleLayer


class Placement(Record, frozen=True, kw_only=True):
    """The stack of an imported container, and the steps that write it."""

    stack: Stack
    steps: tuple[Step, ...]


def choose_layers(
    bundle: Bundle, found: Mapping[str, LayerAt], unpacked: KPath
) -> tuple[tuple[LayerAt, ...], tuple[Missing, ...]]:
    """
    Choose where each lower layer is read from, top first.

    `found` are those of the host by DiffID and, where they are flat, by chain id; `unpacked` is
    where the members of the bundle will be. What is missing makes the first part useless.
    """
    chosen, missing = _chosen(bundle, found, unpacked)
    first = bundle.layers[0] if bundle.layers else None
    if missing and first is not None and first.flat:
        return (_unpacked(bundle, first, found, unpacked),), ()
    return chosen, missing


def _chosen(
    bundle: Bundle, found: Mapping[str, LayerAt], unpacked: KPath
) -> tuple[tuple[LayerAt, ...], tuple[Missing, ...]]:
    chosen: list[LayerAt] = []
    missing: list[Missing] = []
    for number, layer in enumerate(bundle.layers, 1):
        here = found.get(layer.diff_id) if layer.diff_id else None
        whole = found.get(layer.chain_id) if layer.chain_id else None
        if here is not None:
            chosen.append(here)
        elif whole is not None and not _has_all(bundle, number):
            return (*chosen, whole), tuple(missing)
        elif layer.member and not layer.flat:
            chosen.append(_unpacked(bundle, layer, found, unpacked))
        else:
            missing.append(Missing(number, layer))
    return tuple(chosen), tuple(missing)


def _unpacked(
    bundle: Bundle, layer: BundleLayer, found: Mapping[str, LayerAt], unpacked: KPath
) -> LayerAt:
    """Give a layer that the bundle has, from the cache if it was unpacked before."""
    digest = bundle.digested()[layer.member].sha256
    stored = StoredLayer(path=paths.join(unpacked, layer.member), dialect="oci")
    return found.get(digest, LayerAt(stored=stored, key=digest))


def _has_all(bundle: Bundle, number: int) -> bool:
    """Tell whether a bundle has a layer and all below it."""
    return all(each.member for each in bundle.layers[number - 1 :])


def place(
    bundle: Bundle,
    layers: tuple[LayerAt, ...],
    *,
    driver: str,
    dialect: str,
    upper: KPath,
    unpacked: KPath,
    overlay: Mapping[str, str],
    devices: Mapping[KPath, str],
) -> Placement:
    """
    Give the stack of a driver that shows what was exported, and the steps for it.

    `upper` is a directory that is not there yet, `unpacked` where the members of the bundle are.
    `dialect` is what the driver writes on this host, empty where no version of a program decides;
    `overlay` are the parameters of the overlay module here, `devices` those of what is there of
    layers, and of what will be: the upper and the cache.
    """
    other = get_driver(driver)
    changes = StoredLayer(path=paths.join(unpacked, UPPER), dialect="oci")
    whole = (changes, *(each.stored for each in layers))
    origin = bundle.dump.rootfs.origin if bundle.dump.rootfs else Stack(driver=driver)
    told = (f"imported from a bundle of {origin.driver}",)
    if other.flat:
        because = "the root file system as it was exported"
        copy = Copy(layers=whole, into=upper, because=because)
        return Placement(stack=Stack(driver="vfs", upper=upper, provenance=told), steps=(copy,))
    marks = dialect or other.dialect
    alone = not layers  # then the writable layer is all there is, and a union wants one below it
    if alone:
        layers = (LayerAt(stored=changes, key=bundle.digested()[UPPER].sha256),)
        whole = (changes, changes)
    lowers: list[KPath] = []
    steps: list[Step] = []
    for number, (layer, name) in enumerate(zip(layers, _names(layers), strict=True), 1):
        path, step = _lower(layer, name, whole[number + 1 :], other, marks)
        if path not in lowers:
            lowers.append(path)
            steps += step
    together = len({devices.get(_place_of(each), each) for each in (*lowers, upper)}) == 1
    options = _options(bundle, other, overlay, together=together)
    clean = msgspec.structs.replace(
        origin, options=options, data=(), permissions=(), dialect="", volatile=None, provenance=told
    )
    stack = other.stack(tuple(lowers), upper, origin=clean, together=together)
    if dialect:
        stack = msgspec.structs.replace(stack, dialect=dialect)
    to = other.layers(stack)[0].dialect
    if alone:
        because = "changes go there"
        steps.append(EmptyLayer(layers=whole[1:], into=upper, to=to, because=because))
    else:
        because = "what the container had changed"
        steps.append(Convert(layers=whole, into=upper, to=to, because=because))
    if stack.work:
        because = f"{driver} wants a work directory beside its upper"
        steps.append(Directory(path=stack.work, because=because))
    return Placement(stack=stack, steps=tuple(steps))


def _place_of(path: KPath) -> KPath:
    return CACHE if paths.is_beneath(path, CACHE) else path


def _names(layers: tuple[LayerAt, ...]) -> tuple[str, ...]:
    """
    Give what each layer, top first, is called in the cache: by its content and all below it.

    What a tar leaves out is taken from below: the modes of parents, the files that hard links mean.
    By its own digest alone a layer of one bundle would become that of another.
    """
    names: list[str] = []
    below = ""
    for layer in reversed(layers):
        below = hashlib.sha256(f"{layer.key} {below}".encode()).hexdigest() if below else layer.key
        names.append(below)
    return tuple(reversed(names))


def _lower(
    layer: LayerAt, name: str, below: tuple[StoredLayer, ...], driver: Driver, marks: str
) -> tuple[KPath, list[Step]]:
    """Give where a layer is read from, and what puts it there."""
    if layer.plain or layer.stored.dialect == marks:
        return layer.stored.path, []
    into = paths.join(CACHE, f"{name}.{marks}")
    because = f"{driver.name} reads layers in its own marks"
    layers = (layer.stored, *below)
    return into, [Convert(layers=layers, into=into, to=marks, shared=True, because=because)]


def _options(
    bundle: Bundle, driver: Driver, overlay: Mapping[str, str], *, together: bool
) -> tuple[str, ...]:
    """Give the options of a union that may be taken over, which decide how it behaves."""
    origin = bundle.dump.rootfs.origin if bundle.dump.rootfs else None
    if origin is None or origin.driver != driver.name:
        return ()
    if driver.name == "overlay":
        known = explicit_options(origin.options, bundle.dump.facts.host.overlay, overlay)
        return tuple(sorted(filter(_is_safe, known)))
    flags = _SAFE_FLAGS.get(driver.name, frozenset())
    # numbers of inodes of several file systems can be the same
    return tuple(
        each for each in origin.options if each in flags and (together or each != "use_ino")
    )


def _is_safe(option: str) -> bool:
    name, _, value = option.partition("=")
    return name in _SAFE_OPTIONS and value in _SAFE_VALUES


def rebased(steps: Iterable[Step], old: KPath, new: KPath) -> Iterator[Step]:
    """Give steps that write below `new` what is to be below `old` when all is done."""
    for step in steps:
        if isinstance(step, Convert | Copy | EmptyLayer) and paths.is_beneath(step.into, old):
            yield msgspec.structs.replace(step, into=paths.rebase(step.into, old, new))
        elif isinstance(step, Directory) and paths.is_beneath(step.path, old):
            yield msgspec.structs.replace(step, path=paths.rebase(step.path, old, new))
        else:
            yield step
