# SPDX-License-Identifier: Apache-2.0
"""
Equality of mount tables up to renaming: do restored namespaces look like the dumped ones?

Mounts are matched by their place: namespace by namespace, from the root down, by mountpoint, and
where several hang at one mountpoint of one parent, by their order in mountinfo, which is that of
their stack. Hidden mounts have a place as others have. The order of lines means nothing otherwise.

Compared is, of two mounts in one place: type, source, the options of the mount and of the
superblock as sets, whether its root is deleted, whether it is shared, receives, is unbindable.
Compared is, over all namespaces together: that superblocks, peer groups and bound namespaces
(`net:[…]`) correspond one to one, so that what was one is one and what was two is two.

What mounts show of a superblock is compared relative to what they have in common, so that a volume
may come back from another directory as a whole. The root mount and what is carved out of it are a
class of their own, of which type, source and superblock options are not compared, so that a root
that came back on another driver or directory, even on the device that a volume is on, is equal as
long as its shape is. Never compared are mount ids, device numbers, group ids and numbers of bound
namespaces, which are the kernel's to choose, `seclabel`, which is the host's, and what is in no
mount table: contents, and the type and mode of mountpoints.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.graph.classes import SuperblockClasses
from mountcr.graph.tree import MountTree
from mountcr.model import Mount, Record
from mountcr.paths import ROOT, KPath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Difference", "diff", "diff_namespaces", "match"]


class Difference(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What is not as it was at a mountpoint; `before` and `after` are empty where there is none.

    `namespace` counts mount namespaces, 0 is the root task's.
    """

    path: KPath
    what: str
    before: str = ""
    after: str = ""
    namespace: int = 0

    def __str__(self) -> str:
        where = f"{self.path} in nested namespace {self.namespace}" if self.namespace else self.path
        return f"{where}: {self.what}: {self.before or 'none'} -> {self.after or 'none'}"


class _Pair(NamedTuple):
    """Two mounts in one place."""

    namespace: int
    before: Mount
    after: Mount

    def differs(self, what: str, before: str, after: str) -> Difference:
        return Difference(
            path=self.before.mountpoint,
            what=what,
            before=before,
            after=after,
            namespace=self.namespace,
        )


_VOLATILE: Final = frozenset({"seclabel"})
"""Options of superblocks that the kernel shows or not, depending on the host's security module."""


def diff(
    before: Iterable[Mount],
    after: Iterable[Mount],
    *,
    outside_before: Iterable[Mount] = (),
    outside_after: Iterable[Mount] = (),
) -> list[Difference]:
    """Give what differs in two tables of one namespace; see `diff_namespaces`."""
    return diff_namespaces(
        (before,), (after,), outside_before=outside_before, outside_after=outside_after
    )


def diff_namespaces(
    before: Sequence[Iterable[Mount]],
    after: Sequence[Iterable[Mount]],
    *,
    outside_before: Iterable[Mount] = (),
    outside_after: Iterable[Mount] = (),
) -> list[Difference]:
    """
    Give what differs in the tables of several namespaces; empty when they are equal.

    Tables in one position belong together, the root task's are first. A namespace that is missing,
    or whose table is empty, on one side is one difference. `outside_*` are the mounts of the host
    at either time: a group that had members there and has none now is a difference too. Mounts
    that are their own ancestors have no place and are left out.
    """
    count = max(len(before), len(after))
    ours = [MountTree(each) for each in before] + [MountTree(())] * (count - len(before))
    theirs = [MountTree(each) for each in after] + [MountTree(())] * (count - len(after))
    pairs: list[_Pair] = []
    found: list[Difference] = []
    for namespace, (first, second) in enumerate(zip(ours, theirs, strict=True)):
        if bool(first.mounts) != bool(second.mounts):
            sizes = (_size(first), _size(second))
            found.append(_missing(namespace, ROOT, "namespace", *sizes))
            continue
        matched, unmatched = _match(namespace, first, second)
        pairs += matched
        found += unmatched
    classes = (
        SuperblockClasses(ours[0].root if ours else None, [pair.before for pair in pairs]),
        SuperblockClasses(theirs[0].root if theirs else None, [pair.after for pair in pairs]),
    )
    for pair in pairs:
        found += _compare(pair, classes)
    found += _correspondence("superblock", _superblocks(pairs, classes))
    found += _correspondence("peer group", _groups(pairs))
    found += _correspondence("bound namespace", _bound_namespaces(pairs))
    found += _host_peers(pairs, outside_before, outside_after)
    return found


def _size(tree: MountTree) -> str:
    return f"{len(tree.mounts)} mounts" if tree.mounts else ""


def _missing(namespace: int, path: KPath, what: str, before: str, after: str) -> Difference:
    return Difference(path=path, what=what, before=before, after=after, namespace=namespace)


# --- Matching -------------------------------------------------------------------------------------


def match(before: Iterable[Mount], after: Iterable[Mount]) -> list[tuple[Mount, Mount]]:
    """Give the mounts of two tables of one namespace that are in one place, as `diff` does."""
    pairs, _ = _match(0, MountTree(before), MountTree(after))
    return [(pair.before, pair.after) for pair in pairs]


def _match(
    namespace: int, first: MountTree, second: MountTree
) -> tuple[list[_Pair], list[Difference]]:
    """
    Walk two trees at once and give the pairs, and what has no counterpart.

    Parents come before children, siblings in the order of the first table. It is a loop and no
    recursion, because a container can stack mounts deeper than Python can call.
    """
    pairs: list[_Pair] = []
    gone: list[Difference] = []
    extra: list[Difference] = []
    waiting = list(reversed(_couples(_heads(first), _heads(second))))
    while waiting:
        one, other = waiting.pop()
        if one and other:
            pairs.append(_Pair(namespace, one, other))
        elif one:
            gone.append(_missing(namespace, one.mountpoint, "mount", _short(one), ""))
        elif other:
            extra.append(_missing(namespace, other.mountpoint, "mount", "", _short(other)))
        ours = first.children(one) if one else ()
        theirs = second.children(other) if other else ()
        waiting.extend(reversed(_couples(ours, theirs)))
    return pairs, gone + extra


def _heads(tree: MountTree) -> Iterator[Mount]:
    """Give what has no parent in the table: the root, or what a task in a chroot sees instead."""
    return (mount for mount in tree.mounts if tree.parent(mount) is None)


def _couples(
    ours: Iterable[Mount], theirs: Iterable[Mount]
) -> list[tuple[Mount | None, Mount | None]]:
    """Couple the children of one parent with those of another by mountpoint and order there."""
    stacks: dict[KPath, deque[Mount]] = {}
    for mount in theirs:
        stacks.setdefault(mount.mountpoint, deque()).append(mount)
    found: list[tuple[Mount | None, Mount | None]] = []
    for mount in ours:
        stack = stacks.get(mount.mountpoint)
        found.append((mount, stack.popleft() if stack else None))
    found += [(None, mount) for stack in stacks.values() for mount in stack]
    return found


def _short(mount: Mount) -> str:
    return f"{mount.fstype} {mount.root}"


# --- Comparing ------------------------------------------------------------------------------------


def _compare(
    pair: _Pair, classes: tuple[SuperblockClasses, SuperblockClasses]
) -> Iterator[Difference]:
    """Compare two mounts of one place; of the root only what does not depend on its driver."""
    one, other = pair.before, pair.after
    facts = [
        ("root", classes[0].shown(one), classes[1].shown(other)),
        ("options", *_options(one.options, other.options)),
        ("deleted", _is(one.deleted), _is(other.deleted)),
        ("shared", _is(one.shared), _is(other.shared)),
        ("master", _is(one.master), _is(other.master)),
        ("propagate_from", _is(one.propagate_from), _is(other.propagate_from)),
        ("unbindable", _is(one.unbindable), _is(other.unbindable)),
    ]
    if not (classes[0].of_root(one) and classes[1].of_root(other)):
        facts += [
            ("fstype", one.fstype, other.fstype),
            ("source", one.source or "", other.source or ""),
            ("super options", *_options(one.super_options, other.super_options)),
        ]
    for what, was, now in facts:
        if was != now:
            yield pair.differs(what, was, now)


def _is(value: object) -> str:
    return "yes" if value else ""


def _options(one: str, other: str) -> tuple[str, str]:
    """Give options in a form in which their order is nothing; mostly they are the same anyhow."""
    return ("", "") if one == other else (_sorted(one), _sorted(other))


def _sorted(options: str) -> str:
    return ",".join(sorted(set(options.split(",")) - _VOLATILE))


# --- Correspondence -------------------------------------------------------------------------------


def _correspondence(what: str, names: Iterable[tuple[_Pair, str, str]]) -> Iterator[Difference]:
    """Hold names one to one; a mount is named where its names are not those of what came before."""
    forward: dict[str, str] = {}
    backward: dict[str, str] = {}
    for pair, was, now in names:
        if forward.setdefault(was, now) != now or backward.setdefault(now, was) != was:
            yield pair.differs(what, was, now)


def _superblocks(
    pairs: Iterable[_Pair], classes: tuple[SuperblockClasses, SuperblockClasses]
) -> Iterator[tuple[_Pair, str, str]]:
    for pair in pairs:
        yield pair, classes[0].name(pair.before), classes[1].name(pair.after)


def _groups(pairs: Sequence[_Pair]) -> Iterator[tuple[_Pair, str, str]]:
    """
    Give the peer groups that mounts are in, then those that they receive from.

    Both are held together: the slave of a group inside stays one of that group, and that of a
    group outside one of a group outside, because the groups inside are taken by their members.
    """
    ways: tuple[Callable[[Mount], int], ...] = (
        lambda mount: mount.shared,
        lambda mount: mount.master,
        lambda mount: mount.propagate_from,
    )
    for group in ways:
        for pair in pairs:
            was, now = group(pair.before), group(pair.after)
            if was and now:
                yield pair, str(was), str(now)


def _bound_namespaces(pairs: Iterable[_Pair]) -> Iterator[tuple[_Pair, str, str]]:
    for pair in pairs:
        was, now = pair.before.root, pair.after.root
        if not was.startswith("/") and not now.startswith("/"):
            yield pair, was, now


def _host_peers(
    pairs: Iterable[_Pair], before: Iterable[Mount], after: Iterable[Mount]
) -> Iterator[Difference]:
    """Say which groups had members on the host and have none any more."""
    had = {mount.shared for mount in before if mount.shared}
    have = {mount.shared for mount in after if mount.shared}
    for pair in pairs:
        was, now = pair.before.shared, pair.after.shared
        if was in had and now not in have:
            yield pair.differs("host peers", f"shared:{was}", f"shared:{now}")
