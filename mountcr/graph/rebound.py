# SPDX-License-Identifier: Apache-2.0
"""
Mounts that come back from another source because somebody asked for it.

Such a mount, and what is bound from it, shows another file system, which is no difference; that
all of them show the same one, and the same parts of it, still counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mountcr import paths
from mountcr.graph.diff import match

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from mountcr.model import Mount, MountId
    from mountcr.paths import KPath

    Tables = list[tuple[Mount, ...]]

__all__ = ["without_sources", "without_times"]

_TIMES: Final = frozenset({"relatime", "noatime", "strictatime", "nodiratime"})
"""Attributes of a mount that say when times of access are written."""


class _Rebound(NamedTuple):
    """A mount whose source was chosen, as it was and as it is."""

    before: Mount
    after: Mount

    def holds(self, was: Mount, now: Mount) -> bool:
        """Tell whether a mount was of the same superblock, and is."""
        return _holds(self.before, was) and _holds(self.after, now)


def _holds(wide: Mount, mount: Mount) -> bool:
    return mount.dev == wide.dev and paths.is_beneath(mount.root, wide.root)


def without_sources(
    before: Sequence[tuple[Mount, ...]],
    after: Sequence[tuple[Mount, ...]],
    chosen: Collection[KPath],
) -> tuple[Tables, Tables]:
    """
    Give the tables of several namespaces without what comes from sources that were chosen.

    `chosen` are mountpoints of the first namespace. The mounts there, and those of any namespace
    that are of their superblocks, get a device of their own and lose type, source and options of
    the superblock. Tables in one position belong together.
    """
    if not chosen or not before or not after:
        return list(before), list(after)
    rebound = [
        _Rebound(was, now) for was, now in match(before[0], after[0]) if was.mountpoint in chosen
    ]
    ours: Tables = []
    theirs: Tables = []
    for one, other in zip(before, after, strict=False):
        blank = {
            (was.id, now.id): f"chosen:{number}"
            for was, now in match(one, other)
            for number, each in reversed(list(enumerate(rebound)))
            if each.holds(was, now)
        }
        ours.append(_blanked(one, {was: name for (was, _), name in blank.items()}))
        theirs.append(_blanked(other, {now: name for (_, now), name in blank.items()}))
    return ours + list(before[len(ours) :]), theirs + list(after[len(theirs) :])


def _blanked(mounts: Iterable[Mount], devices: dict[MountId, str]) -> tuple[Mount, ...]:
    """Replace the superblocks of some mounts by nothing but a device."""
    return tuple(
        msgspec.structs.replace(
            mount, dev=devices[mount.id], fstype="", source=None, super_options=""
        )
        if mount.id in devices
        else mount
        for mount in mounts
    )


def without_times(
    before: Sequence[tuple[Mount, ...]],
    after: Sequence[tuple[Mount, ...]],
    chosen: Collection[KPath],
) -> tuple[Tables, Tables]:
    """
    Give the tables of several namespaces without how times of access are written at mountpoints.

    `chosen` are mountpoints of the first namespace. A bind has that from its source, which may be
    another one now.
    """
    ours, theirs = list(before), list(after)
    for tables in (ours, theirs):
        if tables:
            tables[0] = tuple(
                _timeless(mount) if mount.mountpoint in chosen else mount for mount in tables[0]
            )
    return ours, theirs


def _timeless(mount: Mount) -> Mount:
    words = [each for each in mount.options.split(",") if each not in _TIMES]
    return msgspec.structs.replace(mount, options=",".join(words))
