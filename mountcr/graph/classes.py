# SPDX-License-Identifier: Apache-2.0
"""
Classes of mounts that show one superblock, for telling whether two tables show them alike.

A class is a device, but for the root: the root mount and what lies in its directory on its device
are a class of their own, because a root may come back on the device that something else is on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr import paths
from mountcr.graph.superblock import bare_root
from mountcr.paths import ROOT, KPath

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import Mount

__all__ = ["SuperblockClasses"]

_ROOT_CLASS: Final = "root"


class SuperblockClasses:
    """
    The classes of some mounts, of any namespaces; `root` is the root task's root mount.

    Every mount that is asked about must be one of them.
    """

    def __init__(self, root: Mount | None, mounts: Iterable[Mount]) -> None:
        self._root = root
        self._root_directory = bare_root(root) if root else ROOT
        members: dict[str, set[KPath]] = {}
        for mount in mounts:
            members.setdefault(self.name(mount), set()).add(bare_root(mount))
        self._bases = {name: _common(roots) for name, roots in members.items()}

    def of_root(self, mount: Mount) -> bool:
        """Tell whether a mount is the root or carved out of it."""
        root = self._root
        return (
            root is not None
            and mount.dev == root.dev
            and paths.is_beneath(bare_root(mount), self._root_directory)
        )

    def name(self, mount: Mount) -> str:
        """Name the class of a mount."""
        return _ROOT_CLASS if self.of_root(mount) else mount.dev

    def shown(self, mount: Mount) -> str:
        """Give what a mount shows, relative to what its class has in common."""
        directory = bare_root(mount)
        if not directory.startswith("/"):
            return directory.partition(":")[0]  # a namespace, whose number is the kernel's
        return paths.relative_to(directory, self._bases[self.name(mount)])


def _common(roots: Iterable[KPath]) -> KPath:
    """Give the deepest directory that holds all roots; namespaces (`net:[…]`) lie in none."""
    directories = [root for root in roots if root.startswith("/")]
    if not directories:
        return ROOT
    # what the first and the last have in common, by components, all between them have too
    base = min(directories, key=_components)
    last = max(directories, key=_components)
    while not paths.is_beneath(last, base):
        base = paths.parent(base)
    return base


def _components(path: KPath) -> list[str]:
    return path.split("/")
