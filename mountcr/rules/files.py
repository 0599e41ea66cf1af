# SPDX-License-Identifier: Apache-2.0
"""
Predicates about the files that tasks hold.

CRIU checks each in one order and stops at what it finds first (criu/files-reg.c,
`dump_one_reg_file()`, `check_path_remap()`), so at most one of L0 to L5 is found of a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr import paths
from mountcr.criu.rewriting import OrdinaryFile
from mountcr.graph.superblock import short_type
from mountcr.model import FileKind, InodeType, MountId
from mountcr.planning.descriptors import file_key, inherited, is_terminal
from mountcr.planning.remaps import (
    GHOST_LIMIT,
    KERNEL_ONLY,
    is_linked,
    name_is_gone,
    needed_ghost_limit,
    size_on_disk,
)
from mountcr.rules import Found
from mountcr.rules.conditions import chroot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mountcr.graph.tree import MountTree
    from mountcr.model import Mark, Mount, OpenFile, PathStat, Task
    from mountcr.paths import KPath
    from mountcr.rules import Context

__all__ = ["PREDICATES"]

_BY_PATH: Final = frozenset(
    {InodeType.FILE, InodeType.DIRECTORY, InodeType.SYMLINK, InodeType.FIFO, InodeType.CHARACTER}
)
"""What CRIU opens again by its path; terminals apart."""

_UNCHECKED: Final = frozenset({"proc", "devpts", "aufs"})
"""Where CRIU does not look at the path, or looks at another one than the kernel shows."""


# --- Which check of CRIU a file fails -------------------------------------------------------------


def _fails(rule: str) -> Callable[[Context], Iterator[Found]]:
    """Make a predicate of one of the checks that CRIU makes of each file."""

    def predicate(context: Context) -> Iterator[Found]:
        if context.graph is None:
            return
        judge = _Judge(context)
        for task, file in _held(context):
            failed = judge.check(task, file)
            if failed and failed[0] == rule:
                yield failed[1]

    return predicate


def _held(context: Context) -> Iterator[tuple[Task, OpenFile]]:
    """Give each file that CRIU opens again by its path once."""
    seen: set[tuple[KPath, int, bool]] = set()
    for task in context.facts.tasks:
        for file in task.files:
            key = (file.shown, file.mnt_id, file.kind is FileKind.FD)
            if key in seen or file.stat is None or file.stat.type not in _BY_PATH:
                continue
            if is_terminal(file) or file.shown.startswith(KERNEL_ONLY):
                continue
            seen.add(key)
            yield task, file


class _Judge:
    """Makes CRIU's checks of files."""

    def __init__(self, context: Context) -> None:
        self._trees = context.graph.trees.values() if context.graph else ()
        self._given = context.given
        self._limit = context.given.ghost_limit
        keys = [each.key for each in context.inherited]
        keys += (each.key for each in context.rewrites if isinstance(each, OrdinaryFile))
        keys += (word.partition("]:")[0] for word in context.given.externals)
        self._declared = {each.rstrip("]") for each in keys}

    def check(self, task: Task, file: OpenFile) -> tuple[str, Found] | None:
        """Give the rule of the first check that fails, and what is found."""
        if file.mnt_id < 0:
            return None
        mount, tree = self._mount(file)
        if mount is None or tree is None:
            return self._outside(task, file)
        detail = _holder(task, file)
        if tree.hidden(mount):
            return "L4", self._found(file, f"{detail}, on mount {mount.id}")
        if not file.shown.startswith("/"):
            return "L5", self._found(file, detail)
        if short_type(mount) in _UNCHECKED:
            return None
        return self._path(file, mount, tree, detail)

    def _mount(self, file: OpenFile) -> tuple[Mount, MountTree] | tuple[None, None]:
        for tree in self._trees:
            mount = tree.by_id.get(MountId(file.mnt_id))
            if mount is not None:
                return mount, tree
        return None, None

    def _found(self, file: OpenFile, detail: str, *, cured: bool = False) -> Found:
        """Give what is found; CRIU makes no check of what it was told is external."""
        declared = file_key(file).rstrip("]") in self._declared
        return Found(file.shown, detail, cured=cured or declared)

    def _outside(self, task: Task, file: OpenFile) -> tuple[str, Found] | None:
        """L0: what is given back, or put right in the images, CRIU is told of."""
        if not file.shown.startswith("/"):
            return None
        return "L0", self._found(file, f"{_holder(task, file)}, {file_key(file)}")

    def _path(
        self, file: OpenFile, mount: Mount, tree: MountTree, detail: str
    ) -> tuple[str, Found] | None:
        """L1 to L3: what is at the path that the file is shown with."""
        stat, there = file.stat, file.at_path
        if stat is None:
            return None
        if stat.nlink == 0:
            return self._ghost(file, detail)
        if name_is_gone(file) or file.missing:
            reachable = tree.lies_on(_directory(file)) is mount
            if is_unlinked_on_fuse_overlayfs(stat, mount):
                unlinked = f"{detail}, unlinked on {mount.fstype}, which gives it no new name"
                return "L1", self._found(file, unlinked)
            links = f"{detail}, {stat.nlink} other links are left"
            return "L1", self._found(file, links, cured=is_linked(file) and reachable)
        if there is None or (there.dev, there.ino) == (stat.dev, stat.ino):
            return None
        device = stat.type is InodeType.CHARACTER and stat.rdev == there.rdev
        cured = device and self._given.evasive_devices
        shown = f"{detail}, inode {stat.dev}:{stat.ino}, but {there.dev}:{there.ino} is there"
        return "L3", self._found(file, shown, cured=cured)

    def _ghost(self, file: OpenFile, detail: str) -> tuple[str, Found] | None:
        """L2."""
        size = size_on_disk(file)
        if size <= GHOST_LIMIT:
            return None
        planned = needed_ghost_limit([file])
        limit = self._limit if self._limit is not None else (planned[0] if planned else 0)
        return "L2", self._found(file, f"{detail}, {size} bytes", cured=limit >= size)


def is_unlinked_on_fuse_overlayfs(stat: PathStat, mount: Mount) -> bool:
    """
    Tell a file, whose name is gone, that still has one link and cannot get another.

    The server has moved it into its work directory (fuse-overlayfs 1.10).
    """
    return mount.fstype == "fuse.fuse-overlayfs" and stat.nlink == 1


def _holder(task: Task, file: OpenFile) -> str:
    held = f"descriptor {file.fd}" if file.kind is FileKind.FD else file.kind
    return f"{held} of pid {task.pid}"


def _directory(file: OpenFile) -> KPath:
    """Give where CRIU would link a file whose name is gone."""
    return paths.parent(file.shown)


# --- Descriptors ----------------------------------------------------------------------------------

_outside: Final = _fails("L0")


def _foreign_files(context: Context) -> Iterator[Found]:
    """
    L0: every file that leads out and is not declared; pipes are no file of a mount.

    A root task with a root directory of its own sees a part of the mounts only (T3).
    """
    if context.facts.shares_mounts or chroot_of(context.facts) is not None:
        return
    given = {each.key for each in context.inherited}
    for each in inherited(context.facts):
        if each.key.startswith("tty[") and each.key not in given:
            yield Found(each.shown, f"descriptor {each.fd} of pid {each.pid}, {each.key}")
    yield from _outside(context)


def _locks(context: Context) -> Iterator[Found]:
    """L6: the plan tells CRIU to dump them."""
    seen: set[KPath] = set()
    for task in context.facts.tasks:
        for file in task.files:
            if file.locked and file.shown not in seen:
                seen.add(file.shown)
                yield Found(file.shown, _holder(task, file), cured=True)


def _leftovers(context: Context) -> Iterator[Found]:
    """F5: CRIU leaves the names that it gives, on whatever is not gone with the container."""
    if context.graph is None:
        return
    for task, file in _held(context):
        if is_linked(file) and context.graph.tree.by_id.get(MountId(file.mnt_id)):
            yield Found(file.shown, _holder(task, file))


# --- Watches --------------------------------------------------------------------------------------

_DEFAULT_HANDLE: Final = 0x81
"""FILEID_INO64_GEN, which the kernel gives for a file system that takes no handles (Linux 6.7)."""

_NUMBERED: Final = frozenset({"xfs", "erofs"})
"""Types that take handles of that very type (fs/xfs/xfs_export.c, `xfs_fs_encode_fh()`)."""


def _watches(context: Context) -> Iterator[Found]:
    """N1: what is watched is opened by its file handle, else searched in a few directories."""
    graph = context.graph
    watched = [
        (task, file, mark)
        for task in context.facts.tasks
        for file in task.files
        for mark in file.marks
        if mark.ino
    ]
    if graph is None or not watched:
        return
    wanted = {mark.dev for _, _, mark in watched}
    by_device = {mount.dev: mount for _, mount in graph.nodes() if mount.dev in wanted}
    searched = bool(context.given.irmap_scan_paths)
    for task, file, mark in watched:
        mount = by_device.get(mark.dev)
        if mount and mark.path is None and _takes_no_handle(mount, mark):
            what = f"{mark.kind} inode {mark.ino} on {mount.fstype}"
            yield Found(_where(mount, mark), f"{_holder(task, file)}, {what}", cured=searched)


def _where(mount: Mount, mark: Mark) -> str:
    return f"inode {mark.ino} on {mount.mountpoint}"


def _takes_no_handle(mount: Mount, mark: Mark) -> bool:
    """Tell whether open_by_handle_at(2) fails; CRIU asks a tmpfs for the path instead."""
    fstype = short_type(mount)
    if fstype == "overlay":
        return "nfs_export=on" not in mount.super_options.split(",")
    if fstype in {"tmpfs", "devtmpfs"}:
        return False
    if fstype in {"aufs", "fuse"}:
        return True
    return mark.handle == _DEFAULT_HANDLE and fstype not in _NUMBERED


PREDICATES: Final = {
    "L0": _foreign_files,
    "L1": _fails("L1"),
    "L2": _fails("L2"),
    "L3": _fails("L3"),
    "L4": _fails("L4"),
    "L5": _fails("L5"),
    "L6": _locks,
    "N1": _watches,
    "F5": _leftovers,
}
