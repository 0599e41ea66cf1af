# SPDX-License-Identifier: Apache-2.0
"""Predicates about a restore: what CRIU must be told, and what it cannot do on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import paths
from mountcr.model import InodeType
from mountcr.paths import ROOT, KPath
from mountcr.planning.externals import external_nodes, given_nodes
from mountcr.planning.given import Given, parse_given
from mountcr.rules import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.rules import Context

__all__ = ["PREDICATES"]


def _types(context: Context) -> Iterator[Found]:
    """R5: a file can be mounted on a file only, a directory on a directory."""
    if context.target is None or context.graph is None:
        return
    for path, stat in context.target.mountpoints.items():
        for mount in context.graph.tree.at(KPath(path))[:1]:
            if stat is None or mount.type is None:
                continue
            if (stat.type is InodeType.DIRECTORY) != (mount.type is InodeType.DIRECTORY):
                yield Found(path, f"a {stat.type}, it was a {mount.type}")


# --- What the user told CRIU, at the dump and now -------------------------------------------------


def _now(context: Context) -> Given:
    """Give what the user tells CRIU at the restore; `context.given` has what was told before."""
    return parse_given(context.choices.extra)


def _no_root(context: Context) -> Iterator[Found]:
    """R0: CRIU mounts the root of the namespace from a directory that it is given."""
    if context.target is None or context.graph is None or context.stack is not None:
        return
    words = context.choices.extra
    given = any(word == "-r" or word.startswith(("--root", "-r/")) for word in words)
    yield Found(ROOT, "the layers are not known", cured=given)


def _unmapped(context: Context) -> Iterator[Found]:
    """R1: an external by a name that the user gave at the dump."""
    if context.target is None:
        return
    names = {_key(word) for word in _now(context).externals if word.startswith("mnt[")}
    for word in parse_given(context.choices.dumped).externals:
        name = word.partition("]:")[2]
        if word.startswith("mnt[") and name and name not in names:
            yield Found(paths.encode(_key(word)), f"it is called {name} in the images")


def _autodetected(context: Context) -> Iterator[Found]:
    """R2: the images say of a mount that it was autodetected, which one with a key is not."""
    dumped = parse_given(context.choices.dumped)
    if context.target is None or context.graph is None or not dumped.autodetect:
        return
    again = _now(context).autodetect
    alone = msgspec.structs.replace(dumped, externals=())
    found = given_nodes(context.graph, context.origin.mounts, alone)
    keyed = given_nodes(context.graph, (), dumped) | external_nodes(
        context.graph, context.externals
    )
    for node, mount in context.graph.nodes() if found else ():
        if node in found and node not in keyed:
            yield Found(mount.mountpoint, f"{mount.fstype} {mount.dev}", cured=again)


def _no_device(context: Context) -> Iterator[Found]:
    """R3: a file system that was dumped as that of a device by a name."""
    if context.target is None:
        return
    names = {_key(word) for word in _now(context).externals if word.startswith("dev[")}
    for word in parse_given(context.choices.dumped).externals:
        name = word.partition("]:")[2]
        if word.startswith("dev[") and name not in names:
            yield Found(f"dev[{name}]", f"{_key(word)} at the dump")


def _key(word: str) -> str:
    """Give what is in the brackets of an external."""
    return word.partition("[")[2].partition("]")[0]


# --- What this kernel and this CRIU cannot do -----------------------------------------------------


def _slaves(context: Context) -> Iterator[Found]:
    """R12."""
    if context.target is None or context.graph is None:
        return
    for _, mount in context.graph.slaves():
        yield Found(mount.mountpoint, f"master:{mount.master}", cured=context.compat)


def _locked_flags(context: Context) -> Iterator[Found]:
    """R13: CRIU remounts the root from inside the user namespace."""
    tasks, ours = context.facts.tasks, context.facts.host.namespaces.get("user")
    if context.target is None or context.graph is None or not tasks:
        return
    inside = tasks[0].namespaces.get("user")
    if inside and ours and inside != ours:
        yield Found(ROOT, f"user:[{inside}]")


PREDICATES: Final = {
    "R0": _no_root,
    "R1": _unmapped,
    "R2": _autodetected,
    "R3": _no_device,
    "R5": _types,
    "R12": _slaves,
    "R13": _locked_flags,
}
