# SPDX-License-Identifier: Apache-2.0
"""Predicates about what is in mounts: what CRIU copies, unions, file systems of daemons."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mountcr import paths
from mountcr.graph.superblock import short_type
from mountcr.overlayopts import parse_options
from mountcr.paths import ROOT
from mountcr.rules import Found, conditions
from mountcr.rules.mounts import autofs, graph_of, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mountcr.model import Mount
    from mountcr.rules import Context

__all__ = ["PREDICATES", "own_tmpfs"]


def _uncopied(context: Context) -> Iterator[Found]:
    """C3: what CRIU makes an archive of, where the host has not the programs for it."""
    features = context.facts.host.capabilities.features if context.facts.host.capabilities else {}
    missing = [each for each in ("tar", "gzip") if features.get(each) is False]
    if context.graph is None or not missing:
        return
    for mount in own_tmpfs(context):
        yield Found(mount.mountpoint, f"{' and '.join(missing)} cannot be found")


def own_tmpfs(context: Context) -> Iterator[Mount]:
    """Give one mount of each tmpfs that CRIU copies: whole, and held by nothing from outside."""
    seen: set[int] = set()
    graph = graph_of(context)
    for _, mount in graph.of_type("tmpfs"):
        number = graph.superblock_of(mount)
        if mount.root == ROOT and number not in seen and not context.coverage.holds(mount):
            seen.add(number)
            yield mount


def _overlays(said: Callable[[Mount], str]) -> Callable[[Context], Iterator[Found]]:
    """Make a predicate of what is said of an overlay that is not the root, if anything is."""

    def predicate(context: Context) -> Iterator[Found]:
        if context.graph is None:
            return
        lost = {each.mountpoint for each in context.externals if each.source is None}
        for _, mount in conditions.nested_overlays(context.graph):
            if context.coverage.holds(mount) and mount.mountpoint not in lost:
                continue
            if detail := said(mount):
                yield Found(mount.mountpoint, detail)

    return predicate


def _layers_here(mount: Mount) -> str:
    options = parse_options(mount.super_options)
    lowers = ":".join(options.lowers)
    return f"lowerdir={lowers}" + (f",upperdir={options.upper}" if options.upper else "")


_ESCAPE: Final = re.compile(r"\\[0-7]{3}")


def _escapes(mount: Mount) -> str:
    found = _ESCAPE.findall(mount.super_options)
    return f"{' '.join(dict.fromkeys(found))} in its options" if found else ""


_LATER_OPTIONS: Final = frozenset(
    {
        "uuid", "xino", "verity", "lowerdir+", "datadir+", "userxattr", "metacopy",
        "redirect_dir", "index", "nfs_export", "fsync",
    }
)  # fmt: skip
"""What overlay of Linux 3.18 did not know."""


def _later_options(mount: Mount) -> str:
    names = (word.partition("=")[0] for word in mount.super_options.split(","))
    return ", ".join(dict.fromkeys(name for name in names if name in _LATER_OPTIONS))


def _leaking_branches(context: Context) -> Iterator[Found]:
    """O5: a mapping that is shown below a branch, or at a path where nothing lies."""
    root = context.graph.root if context.graph else None
    if root is None or short_type(root) != "aufs":
        return
    branches = context.stack.directories if context.stack else ()
    for task in context.facts.tasks:
        for file in task.files:
            if file.kind == "map" and (
                file.missing or any(paths.is_beneath(file.shown, each) for each in branches)
            ):
                yield Found(file.shown, f"a mapping of pid {task.pid}")


PREDICATES: Final = {
    "C1": refused(
        lambda context: conditions.foreign_fuse(graph_of(context)), lambda mount: mount.fstype
    ),
    "C3": _uncopied,
    "C6": refused(autofs, lambda mount: f"autofs {mount.dev}"),
    "O1": _overlays(_layers_here),
    "O2": _overlays(_escapes),
    "O3": _overlays(_later_options),
    "O5": _leaking_branches,
}
