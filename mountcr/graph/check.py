# SPDX-License-Identifier: Apache-2.0
"""What a mount table must be for a plan: one tree, every parent there, nothing twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.errors import PlanError
from mountcr.paths import ROOT

if TYPE_CHECKING:
    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount, MountNamespace

__all__ = ["require_tree"]


def require_tree(namespace: MountNamespace, tree: MountTree) -> None:
    """
    Refuse a table that is no tree.

    Raises PlanError naming the line: a mount id that comes twice, a parent that is not there, a
    second root, no root at all, mounts that are each other's parents.
    """
    roots: list[int] = []
    seen: set[int] = set()
    for number, mount in enumerate(namespace.mounts, 1):
        if mount.id in seen:
            raise _error(namespace, number, mount, "another line has this id")
        seen.add(mount.id)
        if mount.parent != mount.id and mount.parent in tree.by_id:
            continue
        if mount.mountpoint != ROOT:
            raise _error(namespace, number, mount, f"its parent {mount.parent} is in no line")
        if roots:
            raise _error(namespace, number, mount, f"line {roots[0]} is a root already")
        roots.append(number)
    if not roots:
        msg = f"the mount table of mnt:[{namespace.id}] has no root: no line at / without a parent"
        raise PlanError(msg, hint=_HINT)
    _require_reach(namespace, tree)


_HINT = "the table is cut or edited, or was read from inside a chroot; observe the container again"


def _error(namespace: MountNamespace, number: int, mount: Mount, what: str) -> PlanError:
    where = f"line {number} of the mount table of mnt:[{namespace.id}]"
    msg = f"{where}: mount {mount.id} at {mount.mountpoint}: {what}"
    return PlanError(msg, hint=_HINT)


def _require_reach(namespace: MountNamespace, tree: MountTree) -> None:
    """Find a cycle: its mounts have parents, and those never lead to the root."""
    reached: set[int] = {tree.root.id} if tree.root else set()
    for number, mount in enumerate(namespace.mounts, 1):
        above: Mount = mount
        climbed: set[int] = set()
        while above.id not in reached:
            if above.id in climbed:
                raise _error(namespace, number, mount, "it is its own ancestor")
            climbed.add(above.id)
            above = tree.by_id[above.parent]
        reached |= climbed
