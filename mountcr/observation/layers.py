# SPDX-License-Identifier: Apache-2.0
"""
The layers of overlays that mountinfo does not tell by an absolute path, looked for on the host.

Engines mount from a directory of theirs, to stay below the one page that mount(2) takes, and then
mountinfo shows `lowerdir=l/ABC:l/DEF` (Docker, containers/storage) or `12/fs:11/fs` (containerd),
which are below a directory that upper or mountpoint lie in; or `lowerdir=3:4:5`, numbers of
descriptors that are closed by then (containers/storage), where only files beside the upper tell.

A short name is always put into the place of the layer that it leads to, so that the same stack has
one spelling.

Nothing is guessed: all layers have to be there, in one way only. Else the mount stays as it is.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from mountcr import paths
from mountcr.model import FoundLayers
from mountcr.overlayhome import LINKS, ShortNames, more_diffs, recorded_lowers
from mountcr.overlayopts import OverlayOptions, parse_options
from mountcr.paths import ROOT, KPath, decode, encode, fsdecode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mountcr.model import Container, Facts, Host, Mount, MountNamespace

__all__ = ["look_again", "with_layers", "with_layers_of_all", "with_layers_of_root"]


def with_layers_of_all(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """Give the mounts of the host with the layers of those overlays that do not tell them."""
    table = tuple(mounts)
    return tuple(
        with_layers(each, near=_mountpoints(each, table)) if each.fstype == "overlay" else each
        for each in table
    )


def with_layers_of_root(
    namespaces: tuple[MountNamespace, ...], container: Container, host: Host
) -> tuple[MountNamespace, ...]:
    """Give the namespaces of a container, the root of the first with its layers."""
    if not namespaces:
        return namespaces
    first = namespaces[0]
    near = (container.rootfs,) if container.rootfs else ()
    mounts = tuple(
        with_layers(each, near=(*_mountpoints(each, host.mounts), *near))
        if each.fstype == "overlay" and each.mountpoint == ROOT
        else each
        for each in first.mounts
    )
    return (msgspec.structs.replace(first, mounts=mounts), *namespaces[1:])


def look_again(facts: Facts, host: Host) -> Facts:
    """
    Give facts of another time, with the layers of the root as this host has them.

    Short names that were lost since are read from the files beside the layers. What was imported
    has its layers where it says, and is not looked for elsewhere.
    """
    if facts.imported is not None:
        return facts
    namespaces = with_layers_of_root(facts.namespaces, facts.container, host)
    return msgspec.structs.replace(facts, namespaces=namespaces)


def _mountpoints(mount: Mount, table: Iterable[Mount]) -> tuple[KPath, ...]:
    """Give where the very file system is mounted on the host."""
    return tuple(each.mountpoint for each in table if each.dev == mount.dev)


def with_layers(mount: Mount, *, near: Sequence[KPath] = ()) -> Mount:
    """
    Give an overlay with its layers, if mountinfo does not tell all of them and the host does.

    `near` are places where it is mounted on the host, which engines have beside the layers.
    Nothing is raised.
    """
    options = _known(mount)
    if options is None:
        return mount
    with contextlib.suppress(OSError):
        look = _by_number if _is_numbered(options) else _below
        found = look(options, near, cache(ShortNames))
        if found:
            told = (*mount.layers.told, *found.told) if mount.layers else found.told
            found = msgspec.structs.replace(found, told=told)
            return msgspec.structs.replace(mount, layers=found)
    return mount


def _known(mount: Mount) -> OverlayOptions | None:
    """Give what is known of the layers so far, None if that is enough."""
    found = mount.layers
    options = parse_options(mount.super_options)
    if found:
        options = OverlayOptions(
            lowers=found.lowers, data=found.data, upper=found.upper, work=found.work
        )
    given = [*options.lowers, *options.data, *filter(None, (options.upper, options.work))]
    if all(each.startswith("/") and not _is_short(fsdecode(each)) for each in given):
        return None
    return options


def _is_short(layer: str) -> bool:
    """Tell a short name, which leads to a layer or nowhere, from a directory of that name."""
    if os.path.basename(os.path.dirname(layer)) != LINKS:
        return False
    return os.path.islink(layer) or not os.path.isdir(layer)


def _is_numbered(options: OverlayOptions) -> bool:
    lowers = (*options.lowers, *options.data)
    return bool(lowers) and all(each.isascii() and each.isdigit() for each in lowers)


# --- Names below a directory ----------------------------------------------------------------------


def _below(
    options: OverlayOptions, near: Sequence[KPath], names: Callable[[str], ShortNames]
) -> FoundLayers | None:
    """Find the directory that names are relative to; None if there is not exactly one."""
    found: dict[tuple[object, ...], FoundLayers] = {}
    for base in _bases(options, near):
        layers = _at(options, base, names)
        if layers:
            found.setdefault(_identity(layers), layers)
    return next(iter(found.values())) if len(found) == 1 else None


def _bases(options: OverlayOptions, near: Sequence[KPath]) -> Iterator[str]:
    """Give every directory above upper, work and mountpoints, the nearest first, once."""
    seen: set[KPath] = set()
    for place in filter(None, (options.upper, options.work, *near, *options.lowers)):
        if not place.startswith("/"):
            continue
        for base in reversed([*paths.prefixes(paths.parent(place))]):
            if base not in seen:
                seen.add(base)
                yield fsdecode(base)


def _at(
    options: OverlayOptions, base: str, names: Callable[[str], ShortNames]
) -> FoundLayers | None:
    """Give the layers as they are from a directory, None if one is not there."""
    given = (*options.lowers, *options.data)
    relative = not all(each.startswith("/") for each in given)
    told = [f"the layers are there below {encode(base)}"] if relative else []
    layers: list[KPath] = []
    for layer in given:
        found = _real(os.path.join(base, fsdecode(layer)), told, names)
        if found is None:
            return None
        layers.append(encode(found))
    others: list[KPath | None] = []
    for each in (options.upper, options.work):
        path = os.path.join(base, fsdecode(each)) if each else ""
        if each and not os.path.isdir(path):
            return None
        others.append(encode(path) if path else None)
    split = len(options.lowers)
    return FoundLayers(
        lowers=tuple(layers[:split]),
        data=tuple(layers[split:]),
        upper=others[0],
        work=others[1],
        told=tuple(told),
    )


def _real(layer: str, told: list[str], names: Callable[[str], ShortNames]) -> str | None:
    """Give the directory of a layer, behind its short name if it has one."""
    links, name = os.path.split(layer)
    home, directory = os.path.split(links)
    if directory != LINKS:
        return _directory(layer)
    # Not only `../<id>/diff`: whoever mounts by hand may have links to elsewhere.
    with contextlib.suppress(OSError):
        target = os.path.normpath(os.path.join(links, names(home).target(name)))
        if os.path.isdir(target):
            return target
    own = names(home).repaired(name)
    diff = _directory(os.path.join(home, own, "diff")) if own else None
    if diff:
        told.append(f"{encode(layer)} is gone: {encode(os.path.dirname(diff))}/link names it")
    return diff or _directory(layer)


def _identity(layers: FoundLayers) -> tuple[object, ...]:
    """Tell the same directories by other names from other ones."""
    stats = (os.stat(decode(each)) for each in (*layers.lowers, *layers.data))
    return tuple((each.st_dev, each.st_ino) for each in stats)


# --- Numbers of descriptors -----------------------------------------------------------------------


def _by_number(
    options: OverlayOptions, near: Sequence[KPath], names: Callable[[str], ShortNames]
) -> FoundLayers | None:
    """Find layers that were numbers of descriptors by what containers/storage has on disk."""
    count = len(options.lowers) + len(options.data)
    split = len(options.lowers)
    for own in _own_directories(options, near):
        told: list[str] = []
        layers = _recorded(own, told, names)
        upper, work = os.path.join(own, "diff"), os.path.join(own, "work")
        if len(layers) == count and (not options.upper or os.path.isdir(upper)):
            return FoundLayers(
                lowers=tuple(map(encode, layers[:split])),
                data=tuple(map(encode, layers[split:])),
                upper=encode(upper) if options.upper else None,
                work=encode(work) if options.work else None,
                told=tuple(told),
            )
    return None


def _own_directories(options: OverlayOptions, near: Sequence[KPath]) -> Iterator[str]:
    """Give the directories that may be the container's own: `diff` and `merged` are in it."""
    if options.upper and options.upper.startswith("/"):
        yield os.path.dirname(fsdecode(options.upper))
        return
    for place in near:
        own, name = os.path.split(fsdecode(place))
        if name == "merged":
            yield own


def _recorded(own: str, told: list[str], names: Callable[[str], ShortNames]) -> list[str]:
    """Read which layers are below a container's; none if one of them is gone."""
    file, text, short = recorded_lowers(own, _read)
    if text is None:
        return []
    kind = "short names" if short else "ids"
    told.append(f"{encode(file)}: the {kind} of the layers, top first")
    found: list[str] = []
    for each in text.split(":"):
        layer = os.path.join(os.path.dirname(own), each)
        if short:
            layer = os.path.dirname(_real(layer, told, names) or "")
        diff = os.path.join(layer, "diff")
        if not layer or not os.path.isdir(diff):
            return []
        found += (diff, *more_diffs(layer))
    return found


def _directory(path: str) -> str | None:
    return path if os.path.isdir(path) else None


def _read(path: str) -> str | None:
    """Give the content of a small file without its newline; None if there is nothing."""
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read().strip()) or None
    except OSError:
        return None
