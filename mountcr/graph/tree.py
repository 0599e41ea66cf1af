# SPDX-License-Identifier: Apache-2.0
"""
The tree of one mount namespace: parents, children, and which mount a path lies on.

Path lookup follows the kernel: from the root mount, at every component the mount attached there
to the mount walked so far, the topmost one where several are stacked (fs/namei.c,
`follow_managed()`; `__lookup_mnt()` keys by parent and dentry).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr import paths
from mountcr.paths import ROOT, KPath

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mountcr.model import Mount, MountId

__all__ = ["MountTree"]


class MountTree:
    """
    One mount table with its tree. Mounts keep the order of mountinfo.

    `root` is the mount at `/` whose parent is not in the table; None for a table without one,
    as a process outside of its namespace's root sees it.
    """

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self.mounts: tuple[Mount, ...] = tuple(mounts)
        self.by_id: dict[MountId, Mount] = {mount.id: mount for mount in self.mounts}
        self._children: dict[MountId, dict[KPath, list[Mount]]] = {}
        for mount in self.mounts:
            if mount.parent != mount.id:
                below = self._children.setdefault(mount.parent, {})
                below.setdefault(mount.mountpoint, []).append(mount)
        self._roots: dict[tuple[str, KPath], list[Mount]] = {}
        self._at: dict[KPath, list[Mount]] = {}
        for mount in self.mounts:
            self._at.setdefault(mount.mountpoint, []).append(mount)
            self._roots.setdefault((mount.dev, mount.root), []).append(mount)
        self.root: Mount | None = next(filter(self._is_root, self.mounts), None)

    def _is_root(self, mount: Mount) -> bool:
        outside = mount.parent == mount.id or mount.parent not in self.by_id
        return outside and mount.mountpoint == ROOT

    def parent(self, mount: Mount) -> Mount | None:
        """Give the mount that this one is attached to; None for the root."""
        return self.by_id.get(mount.parent) if mount.parent != mount.id else None

    def children(self, mount: Mount) -> Iterator[Mount]:
        """Give what is attached to a mount, in the order of mountinfo per mountpoint."""
        for stacked in self._children.get(mount.id, {}).values():
            yield from stacked

    def lies_on(self, path: KPath) -> Mount | None:
        """Give the mount that a path of this namespace lies on; None without a root."""
        current = self.root
        for prefix in paths.prefixes(path):
            while current and (stacked := self._children.get(current.id, {}).get(prefix)):
                current = stacked[-1]
        return current

    def at(self, mountpoint: KPath) -> Sequence[Mount]:
        """Give every mount with a mountpoint, hidden ones too, in the order of mountinfo."""
        return self._at.get(mountpoint, ())

    def hidden(self, mount: Mount) -> bool:
        """Tell whether another mount lies over the mountpoint, so that no path leads there."""
        return self.lies_on(mount.mountpoint) is not mount

    def order(self) -> list[Mount]:
        """Give every mount once, after its parent, otherwise in the order of mountinfo."""
        placed: set[MountId] = set()
        ordered: list[Mount] = []
        for mount in self.mounts:
            chain: list[Mount] = []
            above: Mount | None = mount
            while above and above.id not in placed:
                placed.add(above.id)
                chain.append(above)
                above = self.parent(above)
            ordered += reversed(chain)
        return ordered

    def path_of(
        self, mount: Mount, *, prefer: Sequence[int] = (), widest: bool = False
    ) -> KPath | None:
        """
        Give a path in this namespace that leads to what `mount`, of any namespace, shows.

        That is a mount of the same superblock whose root is the same or wider, where nothing
        lies over the place. Members of the peer groups in `prefer` come first, then the closest
        root, or the widest, which outlasts binds of it, then the shortest path. None when no path
        leads there.
        """
        sign = 1 if widest else -1
        candidates = [
            (each.shared not in prefer, sign * len(each.root), len(path), path)
            for root in paths.prefixes(mount.root)
            if root == mount.root or not mount.deleted
            for each in self._roots.get((mount.dev, root), ())
            for path in (paths.rebase(mount.root, each.root, each.mountpoint),)
            if self.lies_on(path) is each
        ]
        return min(candidates)[-1] if candidates else None
