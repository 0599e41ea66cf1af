# SPDX-License-Identifier: Apache-2.0
"""Predicates about where the root file system comes from, and about what could not be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.aufsopts import options_of
from mountcr.driver import get_driver, recognise
from mountcr.model import Severity
from mountcr.paths import ROOT, KPath
from mountcr.planning.choices import new_upper
from mountcr.planning.conversion import is_foreign
from mountcr.planning.recorded import disagreement
from mountcr.planning.rootfs import holders
from mountcr.rules import Found
from mountcr.rules.conditions import chroot_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from mountcr.aufsopts import Branch
    from mountcr.rules import Context

__all__ = ["PREDICATES"]


def _shares_mounts(context: Context) -> Iterator[Found]:
    """M9."""
    if context.facts.shares_mounts:
        yield Found("/", f"mnt:[{context.facts.host.namespaces['mnt']}]")


def _disagreement(context: Context) -> Iterator[Found]:
    """
    M4: the layers by the mount table and by the record; or the engine's rootfs, where that is a
    mount of this host, and not the task's root.
    """
    container = context.facts.container
    recorded = container.rootfs
    root = context.graph.root if context.graph else None
    if root is None or context.facts.of_images:  # in which the mount table tells no layers
        return
    told = recognise(root, context.origin) if container.stack else None
    sides = disagreement(told, container.stack) if told and container.stack else ""
    if sides:
        yield Found("/", sides)
    if recorded is None:
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
    what is somebody's root is a container that runs. Holders are found by inode, so that they may
    have our upper by another path, or be of another driver.
    """
    stack, target = context.stack, context.target
    if stack is None or target is None or context.choices.upper or context.choices.readonly:
        return
    for mount, other in holders(stack, context.host.mounts):
        if other.lowers != stack.lowers:
            yield Found(KPath(str(stack.upper)), f"mounted at {mount.mountpoint} with other layers")
    ours = {mount.dev for mount, _ in holders(stack, context.host.mounts)}
    upper = KPath(str(stack.upper))
    for holder in target.holders:
        if holder.dev in ours and not (holder.pid and holder.mountpoint == ROOT):
            continue
        who = f"{holder.who} has it" if holder.who else f"a {holder.fstype} has it by another path,"
        yield Found(upper, f"{who} mounted at {holder.mountpoint}")
    told = {(holder.namespace, holder.mountpoint) for holder in target.holders}
    for namespace in target.elsewhere:
        for mount, _ in holders(stack, namespace.mounts):
            if (namespace.id, mount.mountpoint) in told:
                continue
            if mount.dev in ours and mount.mountpoint != ROOT:
                continue
            yield Found(upper, f"{namespace.who} has it mounted at {mount.mountpoint}")


def _lacking(context: Context, drivers: Container[str], feature: str) -> Iterator[Found]:
    """Find that the host of the restore lacks a feature; before there is one, it is a note."""
    driver = context.choices.driver or (context.stack.driver if context.stack else "")
    host = context.target.host if context.target else context.facts.host
    if driver in drivers and host.capabilities and host.capabilities.features.get(feature) is False:
        severity = None if context.target else Severity.NOTE
        yield Found("/", f"the kernel {host.capabilities.kernel}", severity=severity)


def _without_aufs(context: Context) -> Iterator[Found]:
    """M10."""
    yield from _lacking(context, {"aufs"}, "aufs")


def _without_open_tree(context: Context) -> Iterator[Found]:
    """M14."""
    yield from _lacking(context, {"unionfs", "fuse-overlayfs"}, "open_tree")


def _branches(context: Context) -> tuple[Branch, ...]:
    """Give the branches of an AUFS root, which a stack has in another order."""
    root = context.graph.root if context.graph else None
    if root is None or root.fstype != "aufs":
        return ()
    same = (each for each in context.origin.mounts if each.dev == root.dev)
    found = (options_of(each).branches for each in (root, *same) if each.fstype == "aufs")
    return next(filter(None, found), ())


def _covered_upper(context: Context) -> Iterator[Found]:
    """M11."""
    branches = _branches(context)
    writable = next((each for each in branches if each.writable), None)
    if writable and writable is not branches[0]:
        above = f"{branches[0].path}={branches[0].permission} lies above it"
        yield Found(writable.path, above)


def _several_uppers(context: Context) -> Iterator[Found]:
    """M12: a loss on another driver, or with another upper, where one layer takes all changes."""
    writable = [each.path for each in _branches(context) if each.writable]
    if len(writable) > 1:
        choices = context.choices
        converted = choices.upper or choices.driver not in {None, "aufs"}
        rest = ", ".join(writable[1:])
        told = f"{rest} can be written too"
        if converted:
            told = f"{rest} could be written too, and will only be read"
        yield Found(writable[0], told, severity=Severity.LOSS if converted else None)


def _without_xattrs(context: Context) -> Iterator[Found]:
    """M13: for a root that had them, or may have had."""
    stack = context.stack
    if stack is not None and context.choices.driver == "unionfs" != stack.driver:
        yield Found("/", f"it was on {stack.driver}")


def _taken_upper(context: Context) -> Iterator[Found]:
    """M15."""
    stack, target = context.stack, context.target
    if stack is not None and target is not None and target.upper is not None:
        upper = new_upper(context.choices, context.facts.container.id, stack)
        if upper:
            yield Found(upper, f"a {target.upper.type}")


def _other_marks(context: Context) -> Iterator[Found]:
    """M16: of the layers that are used as they are."""
    stack, target = context.stack, context.target
    if stack is None or target is None or new_upper(context.choices, "", stack):
        return
    if is_foreign(stack, get_driver(stack.driver), target.survey.dialect):
        yield Found("/", f"{target.survey.dialect} here, the layers are {stack.dialect}")


def _damaged(context: Context) -> Iterator[Found]:
    """M17."""
    for each in context.facts.container.damages:
        where = f"{each.field}: {each.what}" if each.field else each.what
        yield Found(each.file, where)


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
    "M10": _without_aufs,
    "M11": _covered_upper,
    "M12": _several_uppers,
    "M13": _without_xattrs,
    "M14": _without_open_tree,
    "M15": _taken_upper,
    "M16": _other_marks,
    "M17": _damaged,
}
