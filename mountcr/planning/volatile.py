# SPDX-License-Identifier: Apache-2.0
"""
Writable layers of volatile overlays, which the kernel mounts once and not again.

A volatile overlay omits every sync of its upper, and leaves `work/incompat/volatile` in its work
directory, with which no kernel mounts that upper again: after a crash of the host, what was
written may be lost in part, and nothing tells of what (Documentation/filesystems/overlayfs.rst,
"Volatile mount"). Without a crash nothing is lost: pages that were not written yet are in memory,
where every mount of the upper finds them, and end on the disk as those of any file do.

So the marker is removed in two cases only, and both want that the marker is that of the very mount
that was dumped, which was seen to be volatile:

- The host has not been booted since the mount was seen. There was no crash then.
- The dump went on to sync the file system of the upper when the tasks had ended (syncfs(2), which
  fails for what could not be written), and the marker is still the one of then, by inode number and
  time: who mounts the layer in between, which may crash, leaves another one.

In all other cases it stays, and the mount fails with a message that names it. That nobody has the
layer mounted is checked before (rule M2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr import paths
from mountcr.overlayopts import is_volatile
from mountcr.planning.steps import VolatileMarker
from mountcr.stack import Volatile

if TYPE_CHECKING:
    from mountcr.model import Facts
    from mountcr.planning.steps import Step
    from mountcr.stack import Stack

__all__ = ["marker_of", "marker_steps", "seen_volatile"]


def seen_volatile(stack: Stack, facts: Facts) -> Volatile | None:
    """Say what is known of the marker that the mount of these facts leaves; None for others."""
    if stack.driver != "overlay" or stack.work is None or not is_volatile(stack.options):
        return None
    return Volatile(boot=facts.host.boot, synced=facts.synced)


def marker_of(stack: Stack) -> paths.KPath | None:
    """Give where an overlay has the marker of a volatile mount; None without a work directory."""
    return paths.join(stack.work, "work/incompat/volatile") if stack.work else None


def marker_steps(stack: Stack, boot: str) -> list[Step]:
    """
    Give the step that removes the marker, if that is safe on a host in this boot.

    `boot` is that of the host that will mount the stack, empty where it is not known.
    """
    known, path = stack.volatile, marker_of(stack)
    if known is None or path is None:
        return []
    if known.boot and known.boot == boot:
        because = "the mount was volatile, and the host was not booted since"
        return [VolatileMarker(path=path, because=because)]
    if known.synced:
        because = "the mount was volatile, and its layer was synced when the tasks had ended"
        return [VolatileMarker(path=path, identity=known.synced, because=because)]
    return []
