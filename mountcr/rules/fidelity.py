# SPDX-License-Identifier: Apache-2.0
"""Predicates about what CRIU restores otherwise than it was, without a word."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mountcr.graph import Node
from mountcr.graph.superblock import bare_root, short_type
from mountcr.model import InodeType
from mountcr.paths import ROOT
from mountcr.planning.given import ALWAYS_DROPPED, dropped, orphans
from mountcr.planning.torn import torn_sources
from mountcr.rules import Found, conditions
from mountcr.rules.content import own_tmpfs
from mountcr.rules.mounts import graph_of, refused, remade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.model import Mount
    from mountcr.rules import Context

__all__ = ["PREDICATES"]


def _outside_peers(context: Context) -> Iterator[Found]:
    """
    F1.

    The older engine leaves an external among the peers of its source, which in the namespace where
    mountcr restores are a group that receives from the host's.
    """
    graph = context.graph
    if graph is None or not graph.groups():
        return
    ours = context.facts.host.namespaces.get("mnt")
    if ours and ours == graph.namespaces[0].id:
        return
    outside = graph.host_peers(context.facts.host.mounts)
    for _, mount in graph.tagged() if outside else ():
        if mount.shared in outside:
            yield Found(mount.mountpoint, f"shared:{mount.shared}")


def _copies(context: Context) -> Iterator[Found]:
    """F3: once for all, at the first."""
    if context.graph is None:
        return
    found = list(own_tmpfs(context))
    if found:
        yield Found(found[0].mountpoint, f"{len(found)} tmpfs of the container's own")


# --- Attributes -----------------------------------------------------------------------------------


def _lost_attributes(context: Context) -> Iterator[Found]:
    """F4."""
    kinds: dict[tuple[str, str], tuple[str, ...]] = {}
    for namespace in context.graph.namespaces if context.graph else ():
        for mount in namespace.mounts:
            key = (mount.options, mount.super_options)
            if key not in kinds:
                kinds[key] = _unknown_attributes(mount)
            if kinds[key]:
                yield from _if_lost(context, Node(namespace.id, mount.id), mount, kinds[key])


def _if_lost(
    context: Context, node: Node, mount: Mount, attributes: tuple[str, ...]
) -> Iterator[Found]:
    found = [each for each in attributes if not _comes_back(context, node, mount, each)]
    if found:
        yield Found(mount.mountpoint, ", ".join(found))


_UNKNOWN: Final = frozenset({"nosymfollow", "idmapped"})


def _unknown_attributes(mount: Mount) -> tuple[str, ...]:
    """
    Give what CRIU loses of the flags of a mount.

    `sync` it takes for MS_SYNC, which is MS_NODEV of a mount (seen with CRIU 4.1.1).
    """
    found = [each for each in mount.options.split(",") if each in _UNKNOWN]
    if "sync" in mount.super_options.split(","):
        found.append("sync, which comes back as nodev")
    return tuple(found)


def _comes_back(context: Context, node: Node, mount: Mount, what: str) -> bool:
    if what == "nosymfollow":
        return mount is graph_of(context).root  # mountcr mounts it
    if what == "idmapped":
        return node in context.coverage.externals and _has_idmapped_source(context, mount)
    return context.coverage.holds(mount)


def _has_idmapped_source(context: Context, mount: Mount) -> bool:
    """Tell whether an external comes from a mount that is idmapped, which its clone is too."""
    sources = (each.source for each in context.externals if each.mountpoint == mount.mountpoint)
    source = next(sources, None)
    lies_on = context.host.lies_on(source) if source else None
    return lies_on is not None and "idmapped" in lies_on.options.split(",")


def _lost_unbindable(context: Context) -> Iterator[Found]:
    """F7: the older engine makes a mount unbindable, or gives it a master (criu/mount.c)."""
    graph = context.graph
    if graph is None or not context.compat:
        return
    for _, mount in graph.tagged():
        if mount.unbindable and (mount.master or mount.shared):
            yield Found(mount.mountpoint, " ".join(mount.optional))


_LITERAL: Final = re.compile(r"\\(043|012)")


def _literal_sources(context: Context) -> Iterator[Found]:
    """F8: on every mount of a superblock that CRIU makes anew."""
    graph = context.graph
    for _, roots in graph.superblocks() if graph else ():
        members = [each for found in roots.values() for each in found]
        if not _LITERAL.search(members[0][2].source or ""):
            continue
        for _, _node, mount in sorted(members, key=lambda each: each[0]):
            if mount.mountpoint != ROOT and not context.coverage.holds(mount):
                yield Found(mount.mountpoint, f"{mount.fstype} from {mount.source}")


# --- Propagation ----------------------------------------------------------------------------------


def _root_masters(context: Context) -> Iterator[Found]:
    """F9: the root, and what was bound from it."""
    graph = context.graph
    root = graph.root if graph else None
    if graph is None or root is None or context.choices.root_at:
        return
    if not root.master or root.master in graph.groups():
        return
    number = graph.superblock_of(root)
    for node, mount in graph.slaves():
        if mount.master != root.master or graph.superblock_of(mount) != number:
            continue
        if node not in context.coverage.externals:
            yield Found(mount.mountpoint, f"master:{mount.master}")


def _tmpfs_of_host(context: Context) -> Iterator[tuple[Node, Mount]]:
    own = conditions.own_tmpfs(context.facts.container)
    return conditions.tmpfs_of_host(graph_of(context), context.origin, own=own)


# --- What is not there any more -------------------------------------------------------------------


def _nested_overlay_files(context: Context) -> Iterator[Found]:
    """F6: the file shows the device of a layer, so that CRIU looks for it on other overlays."""
    if context.graph is None:
        return
    overlays = {
        int(mount.id): mount
        for _, mount in context.graph.of_type("overlay")
        if mount.mountpoint != ROOT
    }
    if not overlays or context.graph.root is None:
        return
    for task in context.facts.tasks:
        for file in task.files:
            mount = overlays.get(file.mnt_id)
            if mount is None or file.stat is None or file.stat.type is InodeType.DIRECTORY:
                continue
            if file.stat.dev != mount.dev:
                yield Found(file.shown, f"mount {mount.id}, device {file.stat.dev} of a layer")


def _left_out(context: Context) -> Iterator[Found]:
    """F11."""
    if context.graph is None:
        return
    for namespace in context.facts.namespaces:
        if any(orphans(namespace, context.given)):
            continue
        for mount in dropped(namespace, context.given):
            why = ALWAYS_DROPPED if mount.fstype == ALWAYS_DROPPED else "--skip-mnt"
            yield Found(mount.mountpoint, why)


def _emptied(context: Context) -> Iterator[Found]:
    """F12: a file system of no device that CRIU mounts anew because it was told to."""
    graph = context.graph
    if graph is None or not context.given.enable_fs:
        return
    for _, mount in conditions.unsupported(graph):
        memory = mount.dev.startswith("0:") and context.given.enables(mount)
        if memory and not context.coverage.holds(mount):
            yield Found(mount.mountpoint, f"--enable-fs {short_type(mount)}")


def _emptied_files(context: Context) -> Iterator[Found]:
    """F13: the bind of an unlinked file, which CRIU makes again by creat(2) and unlinks."""
    for mount in remade(context):
        if mount.type is InodeType.FILE:
            yield Found(mount.mountpoint, f"{bare_root(mount)} is unlinked")


def _torn_down(context: Context) -> Iterator[Found]:
    """F14."""
    for external, torn in torn_sources(context.facts.container, context.externals):
        if torn.type == "tmpfs":
            yield Found(external.mountpoint, f"{torn.path} of {context.facts.container.engine}")


PREDICATES: Final = {
    "F1": _outside_peers,
    "F3": _copies,
    "F4": _lost_attributes,
    "F6": _nested_overlay_files,
    "F7": _lost_unbindable,
    "F8": _literal_sources,
    "F9": _root_masters,
    "F10": refused(_tmpfs_of_host, lambda mount: f"tmpfs {mount.dev}"),
    "F11": _left_out,
    "F12": _emptied,
    "F13": _emptied_files,
    "F14": _torn_down,
}
