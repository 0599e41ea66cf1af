# SPDX-License-Identifier: Apache-2.0
"""Predicates about where the root file system comes from, and about what could not be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.paths import ROOT, KPath
from mountcr.planning.rootfs import holders
from mountcr.rules import Found
from mountcr.rules.conditions import chroot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.rules import Context

__all__ = ["PREDICATES"]


def _shares_mounts(context: Context) -> Iterator[Found]:
    """M9."""
    if context.facts.shares_mounts:
        yield Found("/", f"mnt:[{context.facts.host.namespaces['mnt']}]")


def _disagreement(context: Context) -> Iterator[Found]:
    """M4: only where the engine's rootfs is a mount of this host, and not the task's root."""
    recorded = context.facts.container.rootfs
    root = context.graph.root if context.graph else None
    if recorded is None or root is None:
        return
    mounted = context.host.lies_on(recorded)
    if mounted and mounted.mountpoint == recorded and mounted.dev != root.dev:
        yield Found(
            recorded,
            f"the engine's rootfs is {mounted.fstype} {mounted.dev}, "
            f"the task's root is {root.fstype} {root.dev}",
        )


def _unknown_layers(context: Context) -> Iterator[Found]:
    """M6: layers that are relative to a directory nobody recorded, or no stack at all."""
    stack = context.stack
    if context.facts.shares_mounts or (context.graph is None and chroot_of(context.facts)):
        return
    if stack is None:
        root = context.graph.root if context.graph else None
        shown = f"{root.fstype} {root.source or ''}".strip() if root else "no root mount"
        yield Found("/", shown)
        return
    for layer in (*stack.directories, *stack.data):
        if not layer.startswith("/"):
            yield Found(layer, "the layer path is not absolute")


def _upper_in_use(context: Context) -> Iterator[Found]:
    """
    M2: at restore, another stack on this host with our upper, or ours in another namespace.

    A mount of the host that other namespaces have a copy of is no second mount, and is bound; but
    what is somebody's root is a container that runs.
    """
    stack, target = context.stack, context.target
    if stack is None or target is None or context.choices.upper or context.choices.readonly:
        return
    for mount, other in holders(stack, context.host.mounts):
        if other.lowers != stack.lowers:
            yield Found(KPath(str(stack.upper)), f"mounted at {mount.mountpoint} with other layers")
    ours = {mount.dev for mount, _ in holders(stack, context.host.mounts)}
    for namespace in target.elsewhere:
        for mount, _ in holders(stack, namespace.mounts):
            if mount.dev in ours and mount.mountpoint != ROOT:
                continue
            where = f"pid {namespace.pid} has it mounted at {mount.mountpoint}"
            yield Found(KPath(str(stack.upper)), where)


def _unseen(context: Context) -> Iterator[Found]:
    """M8."""
    for each in context.facts.unseen:
        yield Found(each.what, each.why)


PREDICATES: Final = {
    "M2": _upper_in_use,
    "M4": _disagreement,
    "M6": _unknown_layers,
    "M8": _unseen,
    "M9": _shares_mounts,
}
