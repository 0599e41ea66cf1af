# SPDX-License-Identifier: Apache-2.0
"""
The conditions under which CRIU refuses a mount, or restores another one than was there.

They follow criu/mount.c of CRIU 4 (`validate_mounts()`, `resolve_shared_mounts()`), whose walk
skips the roots of the namespaces. Each gives the mounts that are concerned as long as nothing
holds what they show; `mountcr.graph.coverage` tells what the root and the externals hold.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from mountcr.graph.attributes import parsed_options
from mountcr.graph.superblock import SUPPORTED
from mountcr.model import FileKind
from mountcr.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mountcr.graph import MountGraph, Node
    from mountcr.graph.tree import MountTree
    from mountcr.model import Container, Facts, Mount
    from mountcr.paths import KPath

    Found: TypeAlias = Iterator[tuple[Node, Mount]]

__all__ = [
    "chroot_of",
    "foreign_autofs",
    "foreign_fuse",
    "improper_roots",
    "nested_overlays",
    "own_cgroups",
    "own_pipes",
    "own_tmpfs",
    "tmpfs_of_host",
    "unreachable_masters",
    "unsupported",
]

_CGROUPS = frozenset({"cgroup", "cgroup2"})


def chroot_of(facts: Facts) -> KPath | None:
    """Give the root directory of the root task where it is not the root of its mounts."""
    for file in facts.tasks[0].files if facts.tasks else ():
        if file.kind is FileKind.ROOT and file.shown != ROOT:
            return file.shown
    return None


def own_cgroups(facts: Facts) -> bool:
    """Tell whether the container has a cgroup namespace of its own."""
    ours = facts.host.namespaces.get("cgroup")
    return bool(facts.tasks) and facts.tasks[0].namespaces.get("cgroup") != ours


def own_pipes(facts: Facts) -> frozenset[str]:
    """Give the pipes that tasks of the container have open for reading, as `pipe:[INO]`."""
    return frozenset(
        file.shown
        for task in facts.tasks
        for file in task.files
        if file.shown.startswith("pipe:[") and file.flags & os.O_ACCMODE == os.O_RDONLY
    )


def own_tmpfs(container: Container) -> frozenset[KPath]:
    """Give the mountpoints on the host of each tmpfs that an engine has for a container alone."""
    return frozenset(each.path for each in container.torn_down if each.type == "tmpfs")


def unsupported(graph: MountGraph) -> Found:
    """V3: the whole of a file system that CRIU cannot mount by itself."""
    types = [each for each in graph.types() if each not in SUPPORTED]
    for node, mount in graph.of_type(*types):
        if mount.root == ROOT and mount.mountpoint != ROOT:
            yield node, mount


def improper_roots(graph: MountGraph, *, own_cgroups: bool = False) -> Found:
    """
    V4: a part of a file system of which the container has no mount of the whole.

    In a cgroup namespace CRIU takes what it sees for the whole (criu/filesystems.c,
    `cgroup_parse()`), so control groups are none; without one they are binds as others are.
    """
    for _, roots in graph.superblocks():
        if ROOT in roots:
            continue
        for members in roots.values():
            for _, node, mount in members:
                if mount.mountpoint == ROOT or (own_cgroups and mount.fstype in _CGROUPS):
                    continue
                yield node, mount


def foreign_fuse(graph: MountGraph) -> Found:
    """C1: a FUSE mount, whose content only its daemon knows."""
    for node, mount in graph.of_type("fuse"):
        if mount.mountpoint != ROOT:
            yield node, mount


def foreign_autofs(graph: MountGraph, pipes: Collection[str]) -> Found:
    """
    C6: an autofs whose pipe no task of the container reads from.

    CRIU looks for the end of the pipe in the task that the mount names (criu/autofs.c,
    `autofs_find_pipe_read_end()`); the pipe is shown since Linux 4.6.
    """
    for node, mount in graph.of_type("autofs"):
        pipe = parsed_options(mount.super_options).get("pipe_ino")
        if mount.mountpoint != ROOT and f"pipe:[{pipe}]" not in pipes:
            yield node, mount


def nested_overlays(graph: MountGraph) -> Found:
    """
    O1: an overlay that is not the root.

    CRIU mounts it with the options that were shown, in its own mount namespace, where their paths
    are others or none (criu/mount-v2.c, `do_new_mount_v2()`).
    """
    for node, mount in graph.of_type("overlay"):
        if mount.mountpoint != ROOT:
            yield node, mount


def tmpfs_of_host(graph: MountGraph, host: MountTree, *, own: Collection[KPath] = ()) -> Found:
    """
    F10: a whole tmpfs that is mounted on the host too.

    CRIU copies its content into the images, and restores a tmpfs that is cut off from the host's.
    `own` are mountpoints on the host that an engine has for this container alone: what is mounted
    nowhere else there is the container's, and goes with it.
    """
    devices = host.devices
    if own:
        devices = frozenset(each.dev for each in host.mounts if each.mountpoint not in own)
    for node, mount in graph.of_type("tmpfs"):
        if mount.root == ROOT and mount.mountpoint != ROOT and mount.dev in devices:
            yield node, mount


def unreachable_masters(graph: MountGraph) -> Found:
    """S1: a mount that receives from a peer group which has no member in the container."""
    groups = graph.groups()
    for node, mount in graph.slaves():
        if mount.master not in groups and mount.mountpoint != ROOT:
            yield node, mount
