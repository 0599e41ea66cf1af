# SPDX-License-Identifier: Apache-2.0
"""Predicates about limits of CRIU that none of its checks names, as seen with CRIU 4.1.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.graph.superblock import bare_root
from mountcr.model import InodeType
from mountcr.paths import ROOT, KPath
from mountcr.rules import Found
from mountcr.rules.mounts import remade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.graph import MountGraph
    from mountcr.model import Mount
    from mountcr.rules import Context

__all__ = ["PREDICATES"]

_PROC: Final = KPath("/proc")
_TMP: Final = KPath("/tmp")  # noqa: S108  # of the container


def _unseen_proc(context: Context) -> Iterator[Found]:
    """
    L9: CRIU's code in a task opens /proc/self, else mounts a proc on a directory that it makes.

    It makes that in the task's root (criu/pie/parasite.c, `get_proc_fd()`).
    """
    graph = context.graph
    if graph is None:
        return
    for namespace in graph.namespaces:
        tree = graph.trees[namespace.id]
        proc = tree.lies_on(_PROC)
        if _is_proc(proc):
            if proc and "nosymfollow" in proc.options.split(","):
                yield Found(_PROC, "its nosymfollow hides /proc/self")
        elif tree.root and (tree.root.readonly or _is_readonly(tree.root.super_options)):
            yield Found(_PROC, "none, and the root is read-only")


def _is_readonly(options: str) -> bool:
    return "ro" in options.split(",")


def _is_proc(mount: Mount | None) -> bool:
    """Tell whether what lies at /proc is a whole proc."""
    return mount is not None and (mount.fstype, mount.mountpoint, mount.root) == (
        "proc",
        _PROC,
        ROOT,
    )


def _no_proc(context: Context) -> Iterator[Found]:
    """
    R15: the v2 engine makes a mount shared, or a slave, by /proc/self/fd of the namespace it is in.

    The older engine does so before it enters the namespace.
    """
    graph = context.graph
    if graph is None:
        return
    needing = {node.namespace for node, mount in graph.tagged() if mount.shared or mount.master}
    for namespace in graph.namespaces:
        if namespace.id not in needing:
            continue
        if not _is_proc(graph.trees[namespace.id].lies_on(_PROC)):
            where = f"none in the namespace of pid {namespace.pid}"
            yield Found(_PROC, where, cured=context.compat)


def _unbindable_root(context: Context) -> Iterator[Found]:
    """
    R16: CRIU puts the old root of a namespace below the new one, at /tmp, on a tmpfs.

    The mount that /tmp lies on must not be unbindable for that (criu/mount.c, `cr_pivot_root()`).
    """
    graph = context.graph
    if graph is None:
        return
    for namespace in graph.namespaces:
        mount = graph.trees[namespace.id].lies_on(_TMP)
        if mount and mount.unbindable:
            yield Found(mount.mountpoint, f"in the namespace of pid {namespace.pid}")


def _unlinked_again(context: Context) -> Iterator[Found]:
    """R17: CRIU makes what was unlinked again for each mount of it, by way of a wider one."""
    graph = context.graph
    seen: set[tuple[str, str]] = set()
    for mount in remade(context):
        key = (mount.dev, mount.root)
        if key in seen:
            yield Found(mount.mountpoint, f"{bare_root(mount)} is unlinked and mounted twice")
        elif graph and (wider := _made_through(graph, mount)) and wider.readonly:
            what = f"{bare_root(mount)} is unlinked, and {wider.mountpoint} is read-only"
            yield Found(mount.mountpoint, what)
        seen.add(key)


def _made_through(graph: MountGraph, mount: Mount) -> Mount | None:
    """Give the mount that CRIU binds another from; the root becomes read-only at the end only."""
    wider = (other for _, other in graph.wider(mount) if not other.deleted)
    found = next(wider, None)
    return None if found is graph.root else found


def _held_unlinked(context: Context) -> Iterator[Found]:
    """R18: CRIU cannot unlink again what is in use."""
    directories = {int(mount.id) for mount in remade(context)}
    for task in context.facts.tasks if directories else ():
        for file in task.files:
            directory = file.stat is not None and file.stat.type is InodeType.DIRECTORY
            if file.mnt_id in directories and directory:
                yield Found(file.shown, f"{file.kind} of pid {task.pid}, on what is unlinked")


def _removed_groups(context: Context) -> Iterator[Found]:
    """R19: a control group that was removed is empty, and mountinfo does not mark it."""
    if context.graph:
        for _, mount in context.graph.of_type("cgroup", "cgroup2"):
            if mount.entries == 0:
                yield Found(mount.mountpoint, f"the control group {mount.root}")


PREDICATES: Final = {
    "L9": _unseen_proc,
    "R15": _no_proc,
    "R16": _unbindable_root,
    "R17": _unlinked_again,
    "R18": _held_unlinked,
    "R19": _removed_groups,
}
