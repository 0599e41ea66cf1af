# SPDX-License-Identifier: Apache-2.0
"""
The order in which CRIU's v2 engine makes mounts (criu/mount-v2.c, `populate_mnt_ns_v2()`).

It walks the trees, parents first, and of siblings the deeper mountpoints first
(criu/mount.c, `__mnt_resort_children()`). A mount waits, with all below it, until it can be made: a
root or an external mount at once, the whole of a file system too unless the root or an external
mount holds it, everything else by a bind of a wider mount that is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.graph import Node
from mountcr.graph.coverage import Coverage, is_part
from mountcr.graph.superblock import bare_root
from mountcr.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.graph import MountGraph
    from mountcr.paths import KPath

__all__ = ["build_order"]


def build_order(graph: MountGraph, externals: Iterable[Node] = ()) -> tuple[list[Node], list[Node]]:
    """Give the mounts in the order in which they are made, and those that never can be."""
    builder = _Builder(graph, externals)
    waiting = [Node(identity, tree.root.id) for identity, tree in graph.trees.items() if tree.root]
    while waiting:
        made = len(builder.made)
        waiting = builder.round(waiting)
        if len(builder.made) == made:
            break
    stuck = [each for node in waiting for each in builder.below(node)]
    return builder.made, stuck


class _Builder:
    """What is made, and what can be bound because of it."""

    def __init__(self, graph: MountGraph, externals: Iterable[Node]) -> None:
        self.graph = graph
        self.coverage = Coverage(graph, externals)
        self.made: list[Node] = []
        self._there: dict[int, set[KPath]] = {}

    def round(self, starts: list[Node]) -> list[Node]:
        """Make what can be made of some subtrees; give those that have to wait."""
        postponed: list[Node] = []
        for start in starts:
            stack = [start]
            while stack:
                node = stack.pop()
                if self._can_be_made(node):
                    self._make(node)
                    stack.extend(reversed(self.children(node)))
                else:
                    postponed.append(node)
        return postponed

    def children(self, node: Node) -> list[Node]:
        """Give what is attached to a mount, in CRIU's order."""
        children = list(self.graph.trees[node.namespace].children(self.graph.mount(node)))
        children.reverse()
        children.sort(key=lambda mount: -mount.mountpoint.count("/"))
        return [Node(node.namespace, mount.id) for mount in children]

    def below(self, node: Node) -> list[Node]:
        """Give a mount and everything on it."""
        found: list[Node] = []
        stack = [node]
        while stack:
            each = stack.pop()
            found.append(each)
            stack.extend(self.children(each))
        return found

    def _can_be_made(self, node: Node) -> bool:
        mount = self.graph.mount(node)
        if mount is self.graph.root or node in self.coverage.externals:
            return True
        if is_part(mount, self._there.get(self.graph.superblock_of(mount), ())):
            return True
        return bare_root(mount) == ROOT and not self.coverage.holds(mount)

    def _make(self, node: Node) -> None:
        mount = self.graph.mount(node)
        self.made.append(node)
        self._there.setdefault(self.graph.superblock_of(mount), set()).add(bare_root(mount))
