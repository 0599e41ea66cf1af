# SPDX-License-Identifier: Apache-2.0
"""
The tree of one mount namespace: parents, children, and which mount a path lies on.

Path lookup follows the kernel: from the root mount, at every component the mount attached there
to the mount walked so far, the topmost one where several are stacked (fs/namei.c,
`follow_managed()`; `__lookup_mnt()` keys by parent and dentry).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar

from mountcr import paths
from mountcr.paths import ROOT, KPath

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from mountcr.model import Mount, MountId

__all__ = ["MountTree", "put"]

K = TypeVar("K")
V = TypeVar("V")


def put(found: dict[K, Sequence[V]], key: K, value: V) -> None:
    """
    Add a value to those of a key.

    Mostly it stays alone: in a tuple, because the collector of cycles, which looks at every list
    again and again, lets go of tuples in which no cycle can be.
    """
    there = found.get(key)
    if there is None:
        found[key] = (value,)
    elif isinstance(there, list):
        there.append(value)
    else:
        found[key] = [*there, value]


class MountTree:
    """
    One mount table with its tree. Mounts keep the order of mountinfo.

    `root` is the mount at `/` whose parent is not in the table; None for a table without one,
    as a process outside of its namespace's root sees it.
    """

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self.mounts: tuple[Mount, ...] = tuple(mounts)
        self.by_id: dict[MountId, Mount] = {mount.id: mount for mount in self.mounts}
        self._children: dict[MountId, dict[KPath, Sequence[Mount]]] = {}
        for mount in self.mounts:
            if mount.parent != mount.id:
                below = self._children.setdefault(mount.parent, {})
                put(below, mount.mountpoint, mount)
        self._paths: dict[tuple[object, ...], KPath | None] = {}
        self._walked: dict[str, Mount] = {}
        self._holding: dict[tuple[str, str], tuple[KPath, ...]] = {}
        self._tops: dict[tuple[MountId, KPath], Mount] = {}
        self.root: Mount | None = next(filter(self._is_root, self.mounts), None)

    def _is_root(self, mount: Mount) -> bool:
        outside = mount.parent == mount.id or mount.parent not in self.by_id
        return outside and mount.mountpoint == ROOT

    # Of the table of a host, or of a container, only some of these are ever asked for.

    @functools.cached_property
    def devices(self) -> frozenset[str]:
        """The devices that are mounted, `major:minor`."""
        return frozenset(mount.dev for mount in self.mounts)

    @functools.cached_property
    def _at(self) -> dict[KPath, Sequence[Mount]]:
        """The mounts by mountpoint."""
        found: dict[KPath, Sequence[Mount]] = {}
        for mount in self.mounts:
            put(found, mount.mountpoint, mount)
        return found

    @functools.cached_property
    def _roots(self) -> dict[str, dict[KPath, Sequence[Mount]]]:
        """The mounts by device and root."""
        found: dict[str, dict[KPath, Sequence[Mount]]] = {}
        for mount in self.mounts:
            put(found.setdefault(mount.dev, {}), mount.root, mount)
        return found

    def parent(self, mount: Mount) -> Mount | None:
        """Give the mount that this one is attached to; None for the root."""
        return self.by_id.get(mount.parent) if mount.parent != mount.id else None

    def parents(self) -> Iterator[Mount]:
        """Give the mounts of the table to which others are attached."""
        for identity in self._children:
            if identity in self.by_id:
                yield self.by_id[identity]

    def children(self, mount: Mount) -> Iterator[Mount]:
        """Give what is attached to a mount, in the order of mountinfo per mountpoint."""
        for stacked in self._children.get(mount.id, {}).values():
            yield from stacked

    def lies_on(self, path: KPath) -> Mount | None:
        """Give the mount that a path of this namespace lies on; None without a root."""
        if self.root is None:
            return None
        directory = path.rpartition("/")[0]  # many paths have theirs in common
        if directory not in self._walked:
            current = self.root
            for prefix in paths.prefixes(KPath(directory or ROOT)):
                current = self._step(current, prefix)
            self._walked[directory] = current
        return self._step(self._walked[directory], path)

    def _step(self, mount: Mount, path: KPath) -> Mount:
        """Give the mount that a path lies on whose directory lies on `mount`."""
        below = self._children.get(mount.id)
        return self._top(mount, path) if below and path in below else mount

    def _top(self, mount: Mount, path: KPath) -> Mount:
        """Give the topmost mount of a stack, which is walked once however high it is."""
        key = (mount.id, path)
        if key not in self._tops:
            top = mount
            while stacked := self._children.get(top.id, {}).get(path):
                top = stacked[-1]
            self._tops[key] = top
        return self._tops[key]

    def at(self, mountpoint: KPath) -> Sequence[Mount]:
        """Give every mount with a mountpoint, hidden ones too, in the order of mountinfo."""
        return self._at.get(mountpoint, ())

    def hidden(self, mount: Mount) -> bool:
        """Tell whether another mount lies over the mountpoint, so that no path leads there."""
        return self.lies_on(mount.mountpoint) is not mount

    def walk(self) -> Iterator[Mount]:
        """Give what hangs on the root, it first, each mount with all below it before the next."""
        waiting = [self.root] if self.root else []
        while waiting:
            mount = waiting.pop()
            yield mount
            waiting.extend(reversed(list(self.children(mount))))

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
        key = (mount.dev, mount.root, tuple(prefer), widest)
        if key not in self._paths:
            self._paths[key] = self._find_path(mount, prefer, widest=widest)
        return self._paths[key]

    def _wider_roots(self, mount: Mount, roots: Collection[KPath]) -> Iterator[KPath]:
        """Give those of the roots of a device that hold what a mount shows."""
        directory = mount.root.rpartition("/")[0]
        if mount.root.startswith("/") and mount.root != ROOT and not mount.deleted:
            key = (mount.dev, directory)  # many mounts have that in common
            if key not in self._holding:
                above = paths.prefixes(KPath(directory or ROOT))
                self._holding[key] = tuple(each for each in above if each in roots)
            yield from self._holding[key]
        if mount.root in roots:
            yield mount.root

    def _find_path(self, mount: Mount, prefer: Sequence[int], *, widest: bool) -> KPath | None:
        roots = self._roots.get(mount.dev)
        if not roots:
            return None
        sign = 1 if widest else -1
        candidates = [
            (each.shared not in prefer, sign * len(root), len(path), path)
            for root in self._wider_roots(mount, roots)
            for each in roots[root]
            for path in (paths.join(each.mountpoint, mount.root[len(root) :]),)
            if self.lies_on(path) is each
        ]
        return min(candidates)[-1] if candidates else None
