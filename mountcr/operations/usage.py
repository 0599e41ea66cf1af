# SPDX-License-Identifier: Apache-2.0
"""Who uses a directory: mounts of any mount namespace that are made of it, or of what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr import mountinfo, paths
from mountcr.kernel.namespaces import mount_namespaces, own_namespace
from mountcr.overlayopts import parse_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.model import Mount
    from mountcr.paths import KPath

__all__ = ["users_of"]


def users_of(directory: KPath) -> list[str]:
    """
    Name the mounts that show a directory of this host, or are unions with a layer in it.

    A namespace that may not be looked at is left out, and before Linux 6.12 one that no process is
    in.
    """
    own = mountinfo.read()
    inside = _inside_file_system(directory, own)
    found: list[str] = []
    for where, mounts in _namespaces(own):
        found += [
            f"{mount.mountpoint}{where}"
            for mount in mounts
            if _shows(mount, inside) or _is_union_of(mount, directory)
        ]
    return found


def _namespaces(own: tuple[Mount, ...]) -> Iterator[tuple[str, tuple[Mount, ...]]]:
    """Give every mount table of the host once, this process's first, each with where it is."""
    yield "", own
    for other in mount_namespaces(but={own_namespace()}):
        yield f" in {other.name}", mountinfo.parse_table(other.table)


def _inside_file_system(directory: KPath, own: tuple[Mount, ...]) -> tuple[str, KPath] | None:
    """Give the device of a directory and its path from the root of that file system."""
    beneath = [each for each in own if paths.is_beneath(directory, each.mountpoint)]
    if not beneath:
        return None
    deepest = max(len(each.mountpoint) for each in beneath)
    mount = [each for each in beneath if len(each.mountpoint) == deepest][-1]
    return mount.dev, paths.rebase(directory, mount.mountpoint, mount.root)


def _shows(mount: Mount, inside: tuple[str, KPath] | None) -> bool:
    if inside is None or mount.dev != inside[0]:
        return False
    return paths.is_beneath(mount.root, inside[1])


def _is_union_of(mount: Mount, directory: KPath) -> bool:
    """Tell whether an overlay has a layer in a directory, by the path that it was given."""
    if mount.fstype != "overlay":
        return False
    options = parse_options(mount.super_options)
    layers = (*options.lowers, *options.data, options.upper, options.work)
    return any(layer and paths.is_beneath(layer, directory) for layer in layers)
