# SPDX-License-Identifier: Apache-2.0
"""
The control groups of an image, moved to other paths.

Members of sets have whole paths. Directories are a tree: those at its top have a whole path without
the first slash, empty for the root, and the others their path from the one above
(`dump_cg_dirs()`, criu/cgroup.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr import paths
from mountcr.criu.prefixes import is_beneath
from mountcr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mountcr.criu import images_pb2

    Move = Callable[[bytes], bytes]
    Directory = images_pb2.CgroupDirectory

__all__ = ["move_groups", "thaw_groups"]

_RUNNING: Final = {b"freezer.state": b"THAWED", b"cgroup.freeze": b"0"}
"""The files of a group that say whether its tasks are frozen, and what they say if not."""


def move_groups(entry: images_pb2.CgroupEntry, move: Move, controller: str | None) -> None:
    """
    Give every group of an image the path that `move` gives for its own.

    `controller` chooses the hierarchy that has it, empty for version 2; None is all of them.
    Raises UsageError if a group would leave the root of its cgroup namespace.
    """
    chosen = _together(entry, controller)
    for group in entry.sets:
        for member in group.members:
            if chosen is None or chosen.intersection(member.name.split(b",")):
                _move_member(member, move)
    for hierarchy in entry.controllers:
        if chosen is None or chosen.intersection(hierarchy.names):
            _move_directories(hierarchy, move)


def _together(entry: images_pb2.CgroupEntry, controller: str | None) -> set[bytes] | None:
    """Give the names of the controllers that are in one hierarchy with another; None for all."""
    if controller is None:
        return None
    names = {controller.encode()}
    members = [each.name.split(b",") for group in entry.sets for each in group.members]
    for together in (*(hierarchy.names for hierarchy in entry.controllers), *members):
        if names.intersection(together):
            names.update(together)
    return names


def _move_member(member: images_pb2.CgroupMember, move: Move) -> None:
    """
    Move where tasks are.

    The first `namespace_prefix` bytes of the path are the root of the cgroup namespace, which the
    restored task makes there (`prepare_cgns()`, criu/cgroup.c): what it sees stays the same.
    """
    path = move(member.path)
    if member.HasField("namespace_prefix") and path != member.path:
        root = member.path[: member.namespace_prefix]
        there = move(root)
        if not is_beneath(path, there):
            msg = f"the group {paths.encode(path)} is not below the root of its cgroup namespace"
            raise UsageError(f"{msg}, {paths.encode(there)}", hint="map the root as well")
        member.namespace_prefix = len(there)
    member.path = path


def _move_directories(hierarchy: images_pb2.CgroupController, move: Move) -> None:
    """Move directories; one that leaves the one above it becomes one at the top."""
    top: list[Directory] = []
    kept = _moved(hierarchy.directories, b"", b"", move, top)
    del hierarchy.directories[:]
    hierarchy.directories.extend((*kept, *top))


def _moved(
    directories: Iterable[Directory],
    above: bytes,
    above_now: bytes,
    move: Move,
    top: list[Directory],
) -> list[Directory]:
    """Give the directories below one that was moved; protobuf bounds how deep they are."""
    from mountcr.criu import images_pb2 as pb

    kept: list[Directory] = []
    for directory in directories:
        copy = pb.CgroupDirectory()
        copy.CopyFrom(directory)
        path = _join(above, directory.name)
        now = move(path)
        below = _moved(directory.children, path, now, move, top)
        del copy.children[:]
        copy.children.extend(below)
        inside = above_now in {b"", b"/"} or (is_beneath(now, above_now) and now != above_now)
        copy.name = now[len(above_now.rstrip(b"/")) + 1 :] if inside else now[1:]
        (kept if inside else top).append(copy)
    return kept


def _join(above: bytes, name: bytes) -> bytes:
    return above.rstrip(b"/") + b"/" + name


def thaw_groups(entry: images_pb2.CgroupEntry) -> None:
    """Have no group of an image frozen."""
    for hierarchy in entry.controllers:
        _thaw(hierarchy.directories)


def _thaw(directories: Iterable[Directory]) -> None:
    for directory in directories:
        for each in directory.properties:
            running = _RUNNING.get(each.name)
            if running is not None and each.value.strip() != running:
                each.value = running
        _thaw(directory.children)
