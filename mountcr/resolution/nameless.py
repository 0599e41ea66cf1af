# SPDX-License-Identifier: Apache-2.0
"""What has no path of its own: watches and sockets, named by the paths that they are about."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mountcr.model import InodeType, MountId
from mountcr.paths import KPath
from mountcr.resolution.quirks import Quirk
from mountcr.resolution.symptoms import identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.graph.tree import MountTree
    from mountcr.model import Mark, OpenFile, SeenPath

__all__ = ["Named", "name_of"]


class Named(NamedTuple):
    """What something is called, how that is known, and the quirks that were undone."""

    path: KPath
    how: str
    quirks: tuple[Quirk, ...] = ()


def name_of(
    file: OpenFile, seen: Sequence[SeenPath], tree: MountTree | None, *, told: bool
) -> Named:
    """
    Name what has no path.

    `seen` is what was looked at in the mount namespace, `tree` the mounts; `told` says that the
    kernel's table of unix sockets was read.
    """
    if file.marks:
        return _watching(file, seen, tree)
    if file.bound is not None:
        return Named(file.bound, "bound to it, by /proc/PID/net/unix")
    if file.shown.startswith("socket:[") and not told:
        sockets = [each for each in seen if each.stat and each.stat.type is InodeType.SOCKET]
        if len(sockets) == 1:
            return Named(sockets[0].path, "the only socket that is seen, and nobody read net/unix")
    return Named(file.shown, "it has no path")


def _watching(file: OpenFile, seen: Sequence[SeenPath], tree: MountTree | None) -> Named:
    words: list[str] = []
    quirks: tuple[Quirk, ...] = ()
    missed = 0
    for mark in sorted(file.marks, key=lambda each: each.wd):
        mount = tree.by_id.get(MountId(mark.mnt_id)) if tree and not mark.ino else None
        found = list(_watched(mark, seen, tree)) if mark.ino else []
        if len({identity(each.stat) for each in found}) == 1:
            found = found[:1]  # names of one file
        if mount is not None:
            words.append(mount.mountpoint)
        elif len(found) != 1:
            missed += 1
            words.append(f"inode {mark.dev} {mark.ino}" if mark.ino else f"mount {mark.mnt_id}")
        else:
            words.append(found[0].path)
            if found[0].stat and (found[0].stat.dev, found[0].stat.ino) != (mark.dev, mark.ino):
                quirks = (Quirk.WATCH_DEVICE,)
    how = f"of {missed} watches the path cannot be told" if missed else "what the watches name"
    return Named(KPath(f"{file.marks[0].kind}:{','.join(words)}"), how, quirks)


def _watched(mark: Mark, seen: Sequence[SeenPath], tree: MountTree | None) -> Iterator[SeenPath]:
    """
    Give the paths that may be watched.

    A watch names the device of the superblock, which stat(2) does not show of files of an overlay
    on several file systems, so that different ones may have its number. Which one it is, a handle
    with the inode of the layer tells, or that no other one has it.
    """
    for each in seen:
        stat = each.stat
        if stat is None or stat.ino != mark.ino:
            continue
        mount = tree.lies_on(each.path) if tree else None
        if stat.dev != mark.dev and (mount is None or mount.dev != mark.dev):
            continue
        inner = any(part.stat.ino == mark.inner for part in each.parts or ())
        if inner or (mark.inner < 0 and not mark.cut):
            yield each
