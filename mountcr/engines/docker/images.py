# SPDX-License-Identifier: Apache-2.0
"""
The image layers that Docker keeps, since 1.10 by their DiffIDs.

`image/<driver>/layerdb/sha256/<chain id>` has `diff`, the DiffID, `cache-id`, which the graph
driver calls the layer by, and `parent`, the chain id below, unless it is the lowest (moby
layer/filestore.go). Since 29 the layers may be snapshots of containerd instead, in its namespace
`moby`. Before 1.10 no digests were kept.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.engines.containerd import images as snapshots
from mountcr.engines.containerd.places import named
from mountcr.engines.docker.directories import Directories
from mountcr.engines.docker.layers import name_in
from mountcr.engines.docker.places import Usual, is_remapped, sites
from mountcr.engines.docker.snapshots import NAMESPACE, containerds
from mountcr.engines.imagelayers import Found, ImageLayer, above, is_digest
from mountcr.engines.reading import Reader, is_rootless, names_in
from mountcr.overlayhome import is_name
from mountcr.paths import encode, fsdecode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.container import Container
    from mountcr.engines.docker.places import Site
    from mountcr.engines.roots import Roots

__all__ = ["base", "found"]

_HEX: Final = re.compile("[0-9a-f]{64}")
"""Others are records that are being removed."""


class _Shape(NamedTuple):
    """Where a graph driver has a layer, the dialect of it, and whether it is all that is below."""

    directory: str
    dialect: str
    flat: bool = False


_SHAPES: Final = {
    "overlay2": _Shape("{}/diff", "overlay"),
    "fuse-overlayfs": _Shape("{}/diff", "fuse-overlayfs"),
    "aufs": _Shape("diff/{}", "aufs"),
    "overlay": _Shape("{}/root", "vfs", flat=True),
    "vfs": _Shape("dir/{}", "vfs", flat=True),
    "btrfs": _Shape("subvolumes/{}", "vfs", flat=True),
}
"""The graph drivers that have a directory for each layer whether it is mounted or not."""


def found(roots: Roots, engine: str, usual: Usual | None = None) -> Iterator[Found]:
    """Give the image layers of every data root."""
    for site in sites(roots, usual or Usual()):
        data = fsdecode(site.data)
        for driver in names_in(f"{data}/image"):
            if driver in _SHAPES:
                yield _of_driver(site, driver, engine)
        for place in containerds(site):
            yield from snapshots.of_places([place], engine, NAMESPACE)


def base(container: Container, roots: Roots, usual: Usual | None = None) -> str:
    """Give the chain id of the image that a container is on; empty where nothing tells."""
    for site in sites(roots, usual or Usual()):
        if site.data != container.state_root or not is_name(container.storage):
            continue
        reader = Reader(site.data)
        mounts = f"{fsdecode(site.data)}/image/{container.storage}/layerdb/mounts"
        parent = reader.text(f"{mounts}/{container.id}/parent", optional=True)
        if parent and is_digest(parent):
            return parent
        for instance in named(containerds(site)):
            found = snapshots.base_in(instance, NAMESPACE, container.id, container.storage)
            if found:
                return found
    return ""


def _of_driver(site: Site, driver: str, engine: str) -> Found:
    data = fsdecode(site.data)
    shape, home = _SHAPES[driver], f"{data}/{driver}"
    reader, directories = Reader(site.data), Directories(data)
    database = f"{data}/image/{driver}/layerdb/sha256"
    remapped = is_remapped(data)
    rootless = not remapped and is_rootless(data)
    layers: list[ImageLayer] = []
    for name in names_in(database):
        if not _HEX.fullmatch(name):
            continue
        diff_id = _diff_id(f"{database}/{name}", f"sha256:{name}", reader)
        cache = name_in(reader, f"{database}/{name}/cache-id") if diff_id else ""
        if not cache:
            continue
        path = f"{home}/{shape.directory.format(cache)}"
        complaint = directories.complaint(path)
        if complaint:
            reader.damaged(path, "", complaint)
            continue
        layers.append(
            ImageLayer(
                diff_id=diff_id,
                chain_id=f"sha256:{name}",
                path=encode(path),
                dialect=_dialect(shape, rootless=rootless),
                flat=shape.flat,
                engine=engine,
                provenance=f"{encode(f'{database}/{name}/diff')}",
                mapped=remapped or rootless,
            )
        )
    return Found(layers, reader.damages)


def _diff_id(record: str, chain_id: str, reader: Reader) -> str:
    """Give the DiffID of a layer; empty if it does not make the chain id, which is a damage."""
    file = f"{record}/diff"
    diff_id = reader.text(file)
    if diff_id is None:
        return ""
    if not is_digest(diff_id):
        reader.damaged(file, "", f"{diff_id!r} is no DiffID")
        return ""
    met = len(reader.damages)
    parent = reader.text(f"{record}/parent", optional=True) or ""
    if parent and not is_digest(parent):
        reader.damaged(f"{record}/parent", "", f"{parent!r} is no chain id")
    if len(reader.damages) > met:
        return ""
    made = above(parent, diff_id)
    if made != chain_id:
        below = f"on {parent}" if parent else "alone"
        reader.damaged(file, "", f"{diff_id} {below} is {made}, but the record that of {chain_id}")
        return ""
    return diff_id


def _dialect(shape: _Shape, *, rootless: bool) -> str:
    """Give the dialect; in a user namespace overlayfs has the attributes that a user may set."""
    return "overlay-user" if rootless and shape.dialect == "overlay" else shape.dialect
