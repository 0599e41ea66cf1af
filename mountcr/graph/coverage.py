# SPDX-License-Identifier: Apache-2.0
"""
What the root mount and the external mounts of a container hold.

CRIU asks nothing more of a mount that shows a part of what it has anyway (criu/mount.c,
`mnt_is_root_bind()`, `mnt_is_external_bind()`): it makes it by a bind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.graph.superblock import bare_root
from mountcr.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from mountcr.graph import MountGraph, Node
    from mountcr.model import Mount
    from mountcr.paths import KPath

__all__ = ["Coverage", "is_part"]


class Coverage:
    """The root mount of a graph, and the mounts that are external; more of these can be added."""

    def __init__(self, graph: MountGraph, externals: Iterable[Node] = ()) -> None:
        self.graph = graph
        self.externals: set[Node] = set()
        self._held: dict[int, set[KPath]] = {}
        self._masters: dict[tuple[int, int], set[KPath]] = {}
        if graph.root is not None:
            self._hold(graph.root)
        for node in externals:
            self.add(node)

    def add(self, node: Node) -> None:
        """Make a mount external."""
        self.externals.add(node)
        self._hold(self.graph.mount(node))

    def _hold(self, mount: Mount) -> None:
        superblock, root = self.graph.superblock_of(mount), bare_root(mount)
        self._held.setdefault(superblock, set()).add(root)
        if mount.optional and mount.master:
            self._masters.setdefault((superblock, mount.master), set()).add(root)

    def holds(self, mount: Mount) -> bool:
        """Tell whether the root or an external, maybe the mount itself, holds what it shows."""
        return is_part(mount, self._held.get(self.graph.superblock_of(mount), ()))

    def reaches_master(self, mount: Mount) -> bool:
        """
        Tell whether one of those that hold what a slave shows receives from the same group.

        CRIU then takes the master of the slave from what is given for that one.
        """
        key = (self.graph.superblock_of(mount), mount.master)
        return is_part(mount, self._masters.get(key, ()))


def is_part(mount: Mount, roots: Collection[KPath]) -> bool:
    """Tell whether one of some roots is the root of a mount or a directory that holds it."""
    if not roots:
        return False
    root = bare_root(mount)
    directory: str = root  # upwards, because an external is held by itself
    while directory:
        if directory in roots:
            return True
        directory = directory.rpartition("/")[0]
    return root.startswith("/") and ROOT in roots
