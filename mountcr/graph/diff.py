# SPDX-License-Identifier: Apache-2.0
"""
Equality of mount tables up to renaming: does a restored namespace look like the dumped one?

Mount ids, device numbers and peer group ids are the kernel's to choose, so mounts are matched by
their place in the tree, and devices and groups have to correspond one to one. What mounts show of a
superblock is compared relative to what they have in common. The root mount and what is carved
out of it are a class of their own, so that a root that came back on another driver or directory,
even on the device that a volume is on, is equal as long as its shape is.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, TypeAlias

from mountcr import paths
from mountcr.graph.tree import MountTree
from mountcr.model import Mount, Record
from mountcr.paths import ROOT, KPath

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Difference", "diff"]

Position: TypeAlias = tuple[tuple[KPath, int], ...]
"""Where a mount is: the mountpoints from the root down, each with its place in the stack there."""


class Difference(Record, frozen=True, kw_only=True, omit_defaults=False):
    """What is not as it was at a mountpoint; `before` and `after` are empty where there is none."""

    path: KPath
    what: str
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}: {self.before or 'none'} -> {self.after or 'none'}"


_VOLATILE: Final = frozenset({"rw", "ro", "seclabel"})


def diff(
    before: Iterable[Mount],
    after: Iterable[Mount],
    *,
    outside_before: Iterable[Mount] = (),
    outside_after: Iterable[Mount] = (),
) -> list[Difference]:
    """
    Give what differs, in the order of the first table; empty when they are equal.

    `outside_*` are the mounts of the host at either time: a group that had members there and has
    none now is a difference too.
    """
    first, second = MountTree(before), MountTree(after)
    ours, theirs = _positions(first), _positions(second)
    found = [
        Difference(path=mount.mountpoint, what="mount", before=_short(mount))
        for position, mount in ours.items()
        if position not in theirs
    ]
    found += [
        Difference(path=mount.mountpoint, what="mount", after=_short(mount))
        for position, mount in theirs.items()
        if position not in ours
    ]
    pairs = [(mount, theirs[position]) for position, mount in ours.items() if position in theirs]
    classes = (_Classes(first), _Classes(second))
    for one, other in pairs:
        found += _compare(one, other, classes)
    named = [(a.mountpoint, classes[0].name(a), classes[1].name(b)) for a, b in pairs]
    found += _correspondence("superblock", named)
    groups = [(a.mountpoint, str(a.shared or ""), str(b.shared or "")) for a, b in pairs]
    groups += [(a.mountpoint, str(a.master or ""), str(b.master or "")) for a, b in pairs]
    found += _correspondence("peer group", [each for each in groups if each[1] and each[2]])
    found += _host_peers(pairs, outside_before, outside_after)
    return found


def _short(mount: Mount) -> str:
    return f"{mount.fstype} {mount.root}"


def _positions(tree: MountTree) -> dict[Position, Mount]:
    """Give every mount by its place, parents first; mounts outside the tree are left out."""
    found: dict[Position, Mount] = {}

    def walk(mount: Mount, position: Position) -> None:
        found[position] = mount
        seen: Counter[KPath] = Counter()
        for child in tree.children(mount):
            walk(child, (*position, (child.mountpoint, seen[child.mountpoint])))
            seen[child.mountpoint] += 1

    if tree.root:
        walk(tree.root, ())
    return found


class _Classes:
    """The classes of mounts that show one superblock: by device, the root's carvings apart."""

    def __init__(self, tree: MountTree) -> None:
        self._root = tree.root
        members: dict[str, list[KPath]] = {}
        for mount in tree.mounts:
            members.setdefault(self.name(mount), []).append(mount.root)
        self._bases = {name: _common(roots) for name, roots in members.items()}

    def name(self, mount: Mount) -> str:
        """Name the class of a mount."""
        root = self._root
        if root and mount.dev == root.dev and paths.is_beneath(mount.root, root.root):
            return "root"
        return mount.dev

    def shown(self, mount: Mount) -> str:
        """Give what a mount shows, relative to what its class has in common."""
        if not mount.root.startswith("/"):
            return mount.root.partition(":")[0]  # a namespace, whose number is the kernel's
        return paths.relative_to(mount.root, self._bases[self.name(mount)])


def _common(roots: Sequence[KPath]) -> KPath:
    """Give the deepest directory that holds all roots; namespaces (`net:[…]`) lie in none."""
    directories = [root for root in roots if root.startswith("/")]
    base = directories[0] if directories else ROOT
    while not all(paths.is_beneath(root, base) for root in directories):
        base = paths.parent(base)
    return base


def _compare(one: Mount, other: Mount, classes: tuple[_Classes, _Classes]) -> Iterator[Difference]:
    """Compare two mounts of one place; of the root only what does not depend on its driver."""
    facts = [
        ("root", classes[0].shown(one), classes[1].shown(other)),
        ("options", _sorted(one.options), _sorted(other.options)),
        ("shared", _is(one.shared), _is(other.shared)),
        ("master", _is(one.master), _is(other.master)),
        ("unbindable", _is(one.unbindable), _is(other.unbindable)),
    ]
    if classes[0].name(one) != "root":
        facts += [
            ("fstype", one.fstype, other.fstype),
            ("source", one.source or "", other.source or ""),
            ("super options", _super(one), _super(other)),
        ]
    for what, was, now in facts:
        if was != now:
            yield Difference(path=one.mountpoint, what=what, before=was, after=now)


def _is(value: object) -> str:
    return "yes" if value else ""


def _sorted(options: str) -> str:
    return ",".join(sorted(options.split(",")))


def _super(mount: Mount) -> str:
    return ",".join(sorted(set(mount.super_options.split(",")) - _VOLATILE))


def _correspondence(what: str, pairs: Iterable[tuple[KPath, str, str]]) -> Iterator[Difference]:
    """Hold names one to one: what was one is one, what was two is two."""
    forward: dict[str, str] = {}
    backward: dict[str, str] = {}
    for path, was, now in pairs:
        if forward.setdefault(was, now) != now or backward.setdefault(now, was) != was:
            yield Difference(path=path, what=what, before=was, after=now)


def _host_peers(
    pairs: Iterable[tuple[Mount, Mount]], before: Iterable[Mount], after: Iterable[Mount]
) -> Iterator[Difference]:
    """Say which groups had members on the host and have none any more."""
    had = {mount.shared for mount in before if mount.shared}
    have = {mount.shared for mount in after if mount.shared}
    for one, other in pairs:
        if one.shared in had and other.shared not in have:
            was, now = f"shared:{one.shared}", f"shared:{other.shared}"
            yield Difference(path=one.mountpoint, what="host peers", before=was, after=now)
