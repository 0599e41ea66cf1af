# SPDX-License-Identifier: Apache-2.0
"""
Where the paths of a container lie on the host while it is restored.

Before CRIU has made any mount there is the root, assembled somewhere, and what the externals come
from; what lies on another mount is nowhere yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mountcr import paths
from mountcr.graph.superblock import bare_root

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.graph import MountGraph
    from mountcr.model import Mount
    from mountcr.paths import KPath
    from mountcr.planning.records import External

__all__ = ["Place", "Whereabouts"]


class Place(NamedTuple):
    """A path of the host: the root of the container or the source of an external, and below."""

    base: KPath
    below: str

    @property
    def path(self) -> KPath:
        """The whole path."""
        return paths.join(self.base, self.below)


class Whereabouts:
    """The root of a graph's first namespace at a directory of the host, and the externals."""

    def __init__(self, graph: MountGraph, externals: Iterable[External], at: KPath) -> None:
        self._graph = graph
        self._sources = {each.mountpoint: each.source for each in externals}
        self._at = at

    def of(self, path: KPath) -> Place | None:
        """Say where a path of the first namespace lies; None if nowhere yet."""
        mount = self._graph.tree.lies_on(path)
        if mount is None or mount.deleted:
            return None
        inside = paths.rebase(path, mount.mountpoint, bare_root(mount))
        holders = [mount, *(other for _, other in self._graph.wider(mount))]
        for holder in holders:
            base = self._base(holder)
            if base is not None:
                return Place(base, paths.relative_to(inside, bare_root(holder)))
        return None

    def _base(self, mount: Mount) -> KPath | None:
        """Say where what a mount shows begins; mounts of other namespaces begin nowhere."""
        if mount is self._graph.root:
            return self._at
        if self._graph.tree.by_id.get(mount.id) is not mount or mount.deleted:
            return None
        return self._sources.get(mount.mountpoint)
