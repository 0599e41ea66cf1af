# SPDX-License-Identifier: Apache-2.0
"""Predicates about mount tables: what CRIU cannot read, has no source for, or cannot restore."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mountcr import paths
from mountcr.graph import Node
from mountcr.graph.coverage import Coverage
from mountcr.graph.superblock import bare_root
from mountcr.mountinfo import format_line
from mountcr.paths import ROOT
from mountcr.planning.given import criu_bytes, dropped, orphans
from mountcr.rules import Found, conditions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mountcr.graph import MountGraph
    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount, MountNamespace
    from mountcr.rules import Context

__all__ = ["PREDICATES", "autofs", "graph_of", "refused", "remade"]


def graph_of(context: Context) -> MountGraph:
    """Give the graph, which is there where a condition is asked."""
    assert context.graph is not None  # for the type checkers
    return context.graph


# --- Parsing and the tree -------------------------------------------------------------------------

_LINE_LIMIT: Final = 4095
"""CRIU reads mountinfo with a buffer of 4096 bytes, the newline and a NUL included."""

_SHORT_FIELDS: Final = 512
"""More than what the fields of a line have together that are never long."""

_NEWLINE: Final = r"\012"


def _long_line(context: Context) -> Iterator[Found]:
    """P1: with autodetection CRIU reads the mount table of its own namespace too."""
    for namespace in context.graph.namespaces if context.graph else ():
        yield from _too_long(namespace.mounts, "")
    if context.given.autodetect:
        yield from _too_long(
            context.host.mounts, " of the host, which --external mnt[] makes CRIU read,"
        )


def _too_long(mounts: Iterable[Mount], whose: str) -> Iterator[Found]:
    for mount in mounts:
        characters = len(mount.super_options) + len(mount.mountpoint) + len(mount.root)
        # no character is spelled with more than four bytes
        if 4 * (characters + len(mount.source or "")) + _SHORT_FIELDS <= _LINE_LIMIT:
            continue
        length = len(format_line(mount)) + 1
        if length > _LINE_LIMIT:
            yield Found(mount.mountpoint, f"its line in mountinfo{whose} has {length} bytes")


_FIELD: Final = re.compile(r"(?:shared|master|propagate_from):[0-9]{1,10}|unbindable")


def _unknown_field(context: Context) -> Iterator[Found]:
    """P2."""
    if context.graph is None:
        return
    for _, mount in context.graph.tagged():
        for field in mount.optional:
            if _FIELD.fullmatch(field) is None:
                yield Found(mount.mountpoint, f"[{field}]")


def _newline(context: Context) -> Iterator[Found]:
    r"""
    P3: CRIU undoes only some escapes (criu/proc_parse.c, `cure_path()`), and `\012` is none.

    A newline in the root of a mount is no harm if the mount is external on its own, or if it is
    in the root of all that the mount could be bound from.
    """
    if context.graph is None:
        return
    for namespace in context.graph.namespaces:
        for mount in namespace.mounts:
            if _NEWLINE in mount.mountpoint:
                yield Found(mount.mountpoint, "a newline in the mountpoint")
            elif _NEWLINE in mount.root and not _is_external(context, namespace, mount):
                root = bare_root(mount)
                wider = (bare_root(other) for _, other in context.graph.wider(mount))
                if any(_NEWLINE in paths.relative_to(root, each) for each in wider):
                    yield Found(mount.mountpoint, f"a newline in its root {mount.root}")


def _is_external(context: Context, namespace: MountNamespace, mount: Mount) -> bool:
    return Node(namespace.id, mount.id) in context.coverage.externals


def _aufs_without_branches(context: Context) -> Iterator[Found]:
    """P4."""
    if context.graph is None:
        return
    for _, mount in context.graph.of_type("aufs"):
        if mount.mountpoint == ROOT and not re.search(r"(^|,)si=", mount.super_options):
            yield Found(mount.mountpoint, "no si= in its options")


def _orphans(context: Context) -> Iterator[Found]:
    """T1."""
    if context.graph is None:
        return
    for namespace in context.facts.namespaces:
        for mount in orphans(namespace, context.given):
            yield Found(mount.mountpoint, f"its parent {mount.parent} is left out")


def _no_root(context: Context) -> Iterator[Found]:
    """T2."""
    if context.graph is None:
        return
    for namespace in context.facts.namespaces:
        if len(list(dropped(namespace, context.given))) == len(namespace.mounts):
            yield Found(ROOT, f"every mount of mnt:[{namespace.id}] is left out")


# --- Externals ------------------------------------------------------------------------------------


def refused(
    condition: Callable[[Context], Iterable[tuple[Node, Mount]]],
    detail: Callable[[Mount], str],
    settled: Callable[[Coverage, Mount], bool] = Coverage.holds,
    *,
    enabled: bool = False,
) -> Callable[[Context], Iterator[Found]]:
    """
    Make a predicate of a condition on single mounts of the root task's namespace.

    With `enabled` what the user told CRIU to mount is cured.
    """

    def predicate(context: Context) -> Iterator[Found]:
        if context.graph is None:
            return
        root = context.graph.namespaces[0].id
        for node, mount in condition(context):
            if node.namespace == root and not settled(context.coverage, mount):
                cured = enabled and context.given.enables(mount)
                yield Found(mount.mountpoint, detail(mount), cured=cured)

    return predicate


def _improper(context: Context) -> Iterator[tuple[Node, Mount]]:
    own = conditions.own_cgroups(context.facts)
    return conditions.improper_roots(graph_of(context), own_cgroups=own)


def autofs(context: Context) -> Iterator[tuple[Node, Mount]]:
    """Give the mounts of C6."""
    return conditions.foreign_autofs(graph_of(context), conditions.own_pipes(context.facts))


def _keys(context: Context) -> Iterator[Found]:
    """E1: of a dump; in a restore a key is a name."""
    if context.graph is None or context.target is not None:
        return
    keys = context.given.keys()
    if not keys:
        return
    here = {criu_bytes(mount.mountpoint) for mount in context.graph.tree.mounts}
    used = {word for key, word in keys.items() if key in here}
    for word in dict.fromkeys(keys.values()):
        if word not in used:
            yield Found(paths.encode(word), "no mount of the container is at this mountpoint")


def _nested(context: Context) -> Iterator[Found]:
    """E2: what cannot be cured by a key, because the mount is in a nested namespace."""
    graph = context.graph
    if graph is None or len(graph.namespaces) == 1:
        return
    pids = {namespace.id: namespace.pid for namespace in graph.namespaces[1:]}
    concerned: dict[Node, tuple[Mount, bool]] = {}
    for (node, mount), settled, enabled in _refused_anywhere(context, graph):
        if node.namespace in pids and not settled(context.coverage, mount):
            _, others_cured = concerned.get(node, (mount, True))
            cured = enabled and context.given.enables(mount)
            concerned[node] = (mount, cured and others_cured)
    for node, (mount, cured) in concerned.items():
        where = f"{mount.fstype} in the namespace of pid {pids[node.namespace]}"
        yield Found(mount.mountpoint, where, cured=cured)


def _refused_anywhere(
    context: Context, graph: MountGraph
) -> Iterator[tuple[tuple[Node, Mount], Callable[[Coverage, Mount], bool], bool]]:
    """Give what needs to be external, what settles it, and whether CRIU can be told to mount it."""
    for each in conditions.unsupported(graph):
        yield each, Coverage.holds, True
    for found in (
        _improper(context),
        conditions.foreign_fuse(graph),
        autofs(context),
    ):
        for each in found:
            yield each, Coverage.holds, False
    for each in conditions.unreachable_masters(graph):
        yield each, Coverage.reaches_master, False


def _colons(context: Context) -> Iterator[Found]:
    """E3."""
    for external in context.externals:
        if ":" in external.mountpoint or ":" in external.key:
            yield Found(external.mountpoint, f"mnt[{external.mountpoint}]:{external.key}")


def _stacked(context: Context) -> Iterator[Found]:
    """E4: a mount that is not external on its own, at the mountpoint of one that is."""
    if context.graph is None:
        return
    for mountpoint in dict.fromkeys(external.mountpoint for external in context.externals):
        here = context.graph.tree.at(mountpoint)
        if len(here) > 1 and len({(mount.dev, mount.root) for mount in here}) > 1:
            yield Found(mountpoint, f"{len(here)} mounts are stacked there")


def _autodetection(context: Context) -> Iterator[Found]:
    """E5."""
    if context.given.autodetect:
        yield Found("mnt[]", "CRIU looks in its own namespace for what is mounted here too")


def _sourceless(context: Context) -> Iterator[Found]:
    """E6: of a dump; in a restore that is M3."""
    if context.target is None:
        for external in context.externals:
            if external.source is None and external.fstype != "overlay":  # that is O1
                yield Found(external.mountpoint, f"no path of this host leads to {external.fstype}")


# --- Sharing --------------------------------------------------------------------------------------


def _unlike_children(context: Context) -> Iterator[Found]:
    """S3: CRIU looks for the children of a mount at its peers (criu/mount.c)."""
    graph = context.graph
    if graph is None:
        return
    for members in graph.groups().values():
        if len(members) == 1:
            continue
        seen: dict[str, tuple[int, str]] = {}
        for node in members:
            parent = graph.mount(node)
            for child in graph.trees[node.namespace].children(parent):
                place = paths.rebase(child.mountpoint, parent.mountpoint, bare_root(parent))
                shown = (graph.superblock_of(child), bare_root(child))
                if seen.setdefault(place, shown) != shown:
                    what = f"{child.fstype} {child.dev} {child.root}"
                    yield Found(child.mountpoint, f"a peer of its parent has another than {what}")


def _twins(context: Context) -> Iterator[Found]:
    """V1."""
    graph = context.graph
    if graph is None:
        return
    for tree in graph.trees.values():
        yield from _twins_of(tree)


def _twins_of(tree: MountTree) -> Iterator[Found]:
    seen: dict[tuple[int, str], int] = {}
    for mount in tree.mounts:
        key = (mount.parent, mount.mountpoint)
        first = seen.setdefault(key, mount.id)
        if first != mount.id and mount is not tree.root:
            yield Found(mount.mountpoint, f"{first} and {mount.id} are both on {mount.parent}")


def remade(context: Context) -> Iterator[Mount]:
    """Give the binds of what is unlinked that CRIU makes again: those that are not external."""
    for namespace in context.graph.namespaces if context.graph else ():
        for mount in namespace.mounts:
            if mount.root.endswith("//deleted") and not _is_external(context, namespace, mount):
                yield mount


PREDICATES: Final = {
    "P1": _long_line,
    "P2": _unknown_field,
    "P3": _newline,
    "P4": _aufs_without_branches,
    "T1": _orphans,
    "T2": _no_root,
    "V1": _twins,
    "V3": refused(
        lambda context: conditions.unsupported(graph_of(context)),
        lambda mount: f"{mount.fstype} {mount.dev}, whole",
        enabled=True,
    ),
    "V4": refused(_improper, lambda mount: f"{mount.root} of {mount.fstype} {mount.dev}"),
    "S1": refused(
        lambda context: conditions.unreachable_masters(graph_of(context)),
        lambda mount: f"master:{mount.master}",
        Coverage.reaches_master,
    ),
    "S3": _unlike_children,
    "E1": _keys,
    "E2": _nested,
    "E3": _colons,
    "E4": _stacked,
    "E5": _autodetection,
    "E6": _sourceless,
}
