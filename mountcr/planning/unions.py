# SPDX-License-Identifier: Apache-2.0
"""
Overlays inside of a container: they are assembled again before CRIU restores what uses them.

CRIU would mount them by itself, with the paths as the container had them, in its own mount
namespace (rule O1). Their directories lie in the root, in what externals come from, or on the
host, as an engine mounts them. One whose directories CRIU itself brings back, as those on a tmpfs,
cannot be there before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mountcr import paths
from mountcr.driver import get_driver
from mountcr.graph.superblock import bare_root
from mountcr.graph.tree import MountTree
from mountcr.planning.choices import RESTORE_ROOT, UNIONS
from mountcr.planning.rootfs import read_only
from mountcr.planning.steps import Directory, Propagation, Scratch, Step
from mountcr.planning.whereabouts import Whereabouts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.graph import MountGraph
    from mountcr.model import Mount
    from mountcr.paths import KPath
    from mountcr.planning.records import External
    from mountcr.stack import Stack

__all__ = ["assemble_unions", "directories_on_host", "place_unions", "show_unions"]


def place_unions(
    graph: MountGraph, externals: tuple[External, ...], at: KPath
) -> tuple[External, ...]:
    """
    Give the externals, those that are overlays of known directories with stack and source.

    `at` is where the root will be. An overlay may lie on another one. What is mounted on the host
    too, or was given a source, has one already.
    """
    bases: dict[int, KPath] = {}
    while True:
        where = Whereabouts(graph, externals, at)
        placed = tuple(_placed(graph, each, where, bases) for each in externals)
        if placed == externals:
            return externals
        externals = placed


def _placed(
    graph: MountGraph, external: External, where: Whereabouts, bases: dict[int, KPath]
) -> External:
    mount = _mount(graph, external)
    if external.source is not None or mount is None or mount.fstype != "overlay":
        return external
    stack = get_driver("overlay").recognise(mount, MountTree(()))
    resolved = _resolved(stack, mount, where) if stack else None
    if resolved is None:
        return external
    base = paths.join(UNIONS, str(len(bases)))
    base = bases.setdefault(graph.superblock_of(mount), base)
    source = paths.join(base, bare_root(mount))
    return msgspec.structs.replace(external, source=source, stack=resolved)


def _mount(graph: MountGraph, external: External) -> Mount | None:
    """Give the mount that is meant; None where several are stacked."""
    here = graph.tree.at(external.mountpoint)
    return here[0] if len(here) == 1 else None


def _resolved(stack: Stack, mount: Mount, where: Whereabouts) -> Stack | None:
    """Give a stack with its directories as the host has them; None if one is not there yet."""
    given = (*stack.lowers, *stack.data, *filter(None, (stack.upper, stack.work)))
    known = {path: host for path in given if (host := _on_host(path, mount, where))}
    if not known.keys() >= set(given):
        return None
    return msgspec.structs.replace(
        stack,
        lowers=tuple(known[path] for path in stack.lowers),
        data=tuple(known[path] for path in stack.data),
        upper=known[stack.upper] if stack.upper else None,
        work=known[stack.work] if stack.work else None,
    )


def _on_host(path: KPath, mount: Mount, where: Whereabouts) -> KPath | None:
    """
    Say where a directory of an overlay is.

    One beneath the place of the root is of an overlay that was assembled by an earlier restore.
    """
    if paths.is_beneath(path, RESTORE_ROOT):
        path = paths.KPath("/" + paths.relative_to(path, RESTORE_ROOT))
    elif path not in mount.layers_inside:
        return path if path in mount.layers_outside else None
    place = where.of(path)
    return place.path if place else None


def directories_on_host(external: External) -> tuple[KPath, ...]:
    """Give the directories of an overlay that must be on the host before anything is assembled."""
    stack = external.stack
    if stack is None:
        return ()
    work = (stack.work,) if stack.work else ()
    return tuple(
        path
        for path in (*stack.directories, *stack.data, *work)
        if not paths.is_beneath(path, RESTORE_ROOT) and not paths.is_beneath(path, UNIONS)
    )


def assemble_unions(
    graph: MountGraph, externals: Sequence[External], *, readonly: bool = False
) -> list[Step]:
    """
    Give the steps that mount the overlays among the externals, in an order that works.

    They want the root in its place. `readonly` ones can be looked at and not written into.
    """
    steps: list[Step] = []
    bases: set[KPath] = set()
    unions = [
        (_number(each.source), each.stack, each) for each in externals if each.stack and each.source
    ]
    for number, stack, external in sorted(unions, key=lambda each: each[0]):
        base = paths.join(UNIONS, str(number))
        if base in bases:
            continue
        if not bases:
            because = "overlays of the container are assembled there, and gone with the namespace"
            steps.append(Scratch(at=UNIONS, because=because))
        bases.add(base)
        steps.append(Directory(path=base, because=f"{external.mountpoint} is assembled there"))
        made = read_only(stack, base) if readonly else get_driver("overlay").assemble(stack, base)
        steps.extend(made)
        mount = _mount(graph, external)
        if mount is not None and mount.master and not readonly:
            because = f"{external.mountpoint} was a slave, and CRIU copies that from its source"
            steps.append(Propagation(at=base, propagation="shared", because=because))
    return steps


def show_unions(graph: MountGraph, externals: Sequence[External], root: Stack) -> list[Step]:
    """
    Give the steps that show the overlays among the externals, read-only.

    Of the root, which is in its place then, they need what any of them has a layer in.
    """
    stacks = [each.stack for each in externals if each.stack]
    layers = (path for stack in stacks for path in (*stack.directories, *stack.data))
    inside = any(paths.is_beneath(path, RESTORE_ROOT) for path in layers)
    shown = read_only(root, RESTORE_ROOT) if inside else []
    return [*shown, *assemble_unions(graph, externals, readonly=True)]


def _number(source: KPath) -> int:
    """Give the number of a union; overlays are numbered after those they lie on."""
    return int(paths.relative_to(source, UNIONS).partition("/")[0])
