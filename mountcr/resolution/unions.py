# SPDX-License-Identifier: Apache-2.0
"""
The unions of a mount namespace, and what was seen in their layers.

A union is mounted whole or in parts, at the root or anywhere: paths go from the namespace to the
union and back by mountpoint and root of the mount.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr import paths
from mountcr.driver import get_driver, recognise
from mountcr.graph.superblock import bare_root, short_type
from mountcr.planning.remaps import DELETED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mountcr.driver import Driver
    from mountcr.graph.tree import MountTree
    from mountcr.model import Facts, Mount, SeenPath
    from mountcr.paths import KPath
    from mountcr.stack import Stack

__all__ = [
    "UNIONS",
    "Private",
    "Seen",
    "Union",
    "unions_of",
    "without_suffix",
]

UNIONS: Final = frozenset({"overlay", "aufs", "unionfs", "fuse"})
"""Types of file systems that are, or may be, made of layers."""


class Private(NamedTuple):
    """A mount that is in no table: the layer that it shows, and at which path it shows its root."""

    layer: KPath
    top: KPath


class Union:
    """
    A mount of a union, or of a plain root directory, in a namespace.

    `private` are mounts of its layers that are in no mount table, by their ids, as far as files
    have told.
    """

    def __init__(
        self,
        namespace: int,
        mount: Mount,
        stack: Stack,
        private: Mapping[int, Private] | None = None,
    ) -> None:
        self.namespace = namespace
        self.mount = mount
        self.stack = stack
        self.private = private or {}

    @property
    def driver(self) -> Driver:
        """The storage driver of the stack."""
        return get_driver(self.stack.driver)

    def inside(self, path: KPath) -> KPath:
        """Give the path from the root of the union of one that lies on the mount."""
        return paths.rebase(path, self.mount.mountpoint, bare_root(self.mount))

    def on_host(self, layer: KPath) -> bool:
        """Tell whether a layer is a path of the host, as those of a nested overlay need not be."""
        if self.mount.mountpoint == paths.ROOT or not self.mount.layers_inside:
            return True
        return layer in self.mount.layers_outside and layer not in self.mount.layers_inside

    def outside(self, path: KPath) -> KPath | None:
        """Give the path in the namespace of one of the union; None if it is not shown."""
        root = bare_root(self.mount)
        if not paths.is_beneath(path, root):
            return None
        return paths.rebase(path, root, self.mount.mountpoint)


class Seen:
    """What was looked at, by namespace and path."""

    def __init__(self, facts: Facts) -> None:
        self._paths = {(each.namespace, each.path): each for each in facts.paths}
        self._of: dict[int, list[SeenPath]] = {}
        for each in facts.paths:
            self._of.setdefault(each.namespace, []).append(each)

    def at(self, namespace: int, path: KPath) -> SeenPath | None:
        """Give what was seen at a path; None where nobody looked."""
        return self._paths.get((namespace, path))

    def of(self, namespace: int) -> Sequence[SeenPath]:
        """Give everything that was seen in a mount namespace."""
        return self._of.get(namespace, ())


def without_suffix(path: KPath) -> KPath:
    """Give a path without the mark of a name that is gone."""
    return paths.KPath(path.removesuffix(DELETED) or "/")


def unions_of(mounts: MountTree, host: MountTree, namespace: int) -> tuple[Union, ...]:
    """
    Give the unions of a mount table, and its root whatever that is.

    A bind of a part of a plain root is a union as well; other plain file systems are external.
    """
    found: list[Union] = []
    for mount in mounts.mounts:
        if short_type(mount) not in UNIONS and not _of_root(mount, mounts.root):
            continue
        stack = recognise(mount, host)
        if stack is not None:
            found.append(Union(namespace, mount, stack))
    return tuple(found)


def _of_root(mount: Mount, root: Mount | None) -> bool:
    """Tell the root, and a bind of a part of it."""
    if root is None or mount.dev != root.dev:
        return False
    return paths.is_beneath(bare_root(mount), bare_root(root))
