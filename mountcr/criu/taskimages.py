# SPDX-License-Identifier: Apache-2.0
"""
What a set of images says of tasks beside their files: names, namespaces, control groups, pipes.

Namespaces have ids of CRIU, one for each inode number that it met; those of CRIU itself, and so of
the host as it saw it, are in inventory.img.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr import paths
from mountcr.paths import KPath

if TYPE_CHECKING:
    from mountcr.criu import images_pb2
    from mountcr.criu.images import ImageSet

__all__ = [
    "Core",
    "GroupMember",
    "PipeImage",
    "core",
    "group_sets",
    "host_namespaces",
    "locked",
    "namespaces",
    "pipes",
]

_KINDS: Final = ("pid", "net", "ipc", "uts", "mnt", "user", "cgroup", "time")


class Core(NamedTuple):
    """A task: its name, and the number of its set of control groups, 0 if it is not known."""

    command: str = ""
    group_set: int = 0


class GroupMember(NamedTuple):
    """A control group of a hierarchy, which is named by its controllers; none for version 2."""

    controllers: str
    path: KPath


class PipeImage(NamedTuple):
    """An end of a pipe: the inode number, and the flags of open(2)."""

    inode: int
    flags: int


def core(images: ImageSet, pid: int) -> Core:
    """Give what the image of a task says of it; nothing for one that has none."""
    from mountcr.criu import images_pb2 as pb

    for entry in images.messages(f"core-{pid}.img", pb.CoreEntry, missing_ok=True):
        command = paths.from_line(entry.task.command)
        return Core(command, entry.task.cgroup_set or entry.thread.cgroup_set)
    return Core()


def namespaces(images: ImageSet, pid: int) -> dict[str, int]:
    """Give the ids of a task's namespaces by kind; none for one that had ended."""
    from mountcr.criu import images_pb2 as pb

    found = images.messages(f"ids-{pid}.img", pb.NamespaceIds, missing_ok=True)
    return _by_kind(found[0]) if found else {}


def host_namespaces(images: ImageSet) -> dict[str, int]:
    """Give the ids of the namespaces that CRIU itself was in at the dump."""
    from mountcr.criu import images_pb2 as pb

    found = images.messages("inventory.img", pb.Inventory)
    return _by_kind(found[0].root_ids) if found and found[0].HasField("root_ids") else {}


def _by_kind(ids: images_pb2.NamespaceIds) -> dict[str, int]:
    return {kind: getattr(ids, kind) for kind in _KINDS if ids.HasField(kind)}


def group_sets(images: ImageSet) -> dict[int, tuple[GroupMember, ...]]:
    """
    Give the control groups of each set that tasks were in, by its number.

    There is none where all were in those of CRIU.
    """
    from mountcr.criu import images_pb2 as pb

    return {
        found.id: tuple(
            GroupMember(paths.from_line(each.name), paths.join(KPath("/"), paths.encode(each.path)))
            for each in found.members
        )
        for entry in images.messages("cgroup.img", pb.CgroupEntry, missing_ok=True)
        for found in entry.sets
    }


def pipes(images: ImageSet) -> dict[int, PipeImage]:
    """Give the ends of pipes that tasks hold, by the ids of their files."""
    from mountcr.criu import images_pb2 as pb

    return {
        entry.id: PipeImage(entry.pipe.pipe_id, entry.pipe.flags)
        for entry in images.messages("files.img", pb.FileEntry, missing_ok=True)
        if entry.HasField("pipe")
    }


def locked(images: ImageSet) -> frozenset[tuple[int, int]]:
    """Give the descriptors that a lock is held on: pid and number."""
    from mountcr.criu import images_pb2 as pb

    found = images.messages("filelocks.img", pb.FileLock, missing_ok=True)
    return frozenset((each.pid, each.fd) for each in found)
