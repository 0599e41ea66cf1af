# SPDX-License-Identifier: Apache-2.0
"""Predicates about the host of a restore: layers, sources, mountpoints and files as found there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.model import InodeType
from mountcr.planning.cgroups import own_directories
from mountcr.planning.descriptors import inherited
from mountcr.planning.misreported import find_misreported
from mountcr.planning.requests import answered_files, made_sources
from mountcr.planning.unions import directories_on_host
from mountcr.rules import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mountcr.model import PathStat
    from mountcr.paths import KPath
    from mountcr.planning.files import NamedFile
    from mountcr.planning.records import External, Inherited
    from mountcr.rules import Context
    from mountcr.target import TargetFile

__all__ = ["PREDICATES"]


def _layers(context: Context) -> Iterator[Found]:
    """M1."""
    if context.target is None or context.stack is None:
        return
    wanted = context.stack.directories + context.stack.data
    for number, layer in enumerate(wanted, 1):
        if not _is_directory(context.target.layers.get(layer)):
            yield Found(layer, f"layer {number} of {len(wanted)}, top first")
    for external in context.externals:
        for layer in directories_on_host(external):
            if not _is_directory(context.target.layers.get(layer)):
                yield Found(layer, f"a directory of the overlay at {external.mountpoint}")


def _is_directory(stat: PathStat | None) -> bool:
    return stat is not None and stat.type is InodeType.DIRECTORY


def _sources(context: Context) -> Iterator[Found]:
    """
    M3: sources that are unknown, gone and not made again, or a directory for a file.

    What came from elsewhere asks for sources that nobody has given yet, and for files that lay
    outside, whatever the target.
    """
    for each in _open_files(context):
        if each.requested is not None:
            what = f"descriptor {each.fd}, a {each.type}, which only --allow-bind can allow"
            yield Found(each.requested, what)
    if context.target is None:
        for external in context.externals:
            if external.requested is not None:
                yield Found(external.mountpoint, _unknown(external))
        return
    made = _made_again(context)
    for external in context.externals:
        source = external.source
        if external.stack is not None:
            continue  # it is assembled from directories, which rule M1 is about
        if source is None:
            yield Found(external.mountpoint, _unknown(external))
            continue
        stat = context.target.sources.get(source)
        if stat is None:
            yield Found(external.mountpoint, f"{source} is not there", cured=source in made)
        elif external.type and (stat.type is InodeType.DIRECTORY) != (
            external.type is InodeType.DIRECTORY
        ):
            yield Found(external.mountpoint, f"{source} is a {stat.type}, it was a {external.type}")


def _open_files(context: Context) -> tuple[Inherited, ...]:
    """Give the descriptors of what came from elsewhere that led out, as they are answered."""
    facts = context.facts
    if facts.imported is None:
        return ()
    descriptors = inherited(facts, find_misreported(facts))
    return answered_files(facts, descriptors, context.choices, context.target)


def _unknown(external: External) -> str:
    """Say what is missing, and what a bundle had for it."""
    if external.requested is None:
        return f"no path of this host leads to the {external.fstype}"
    mode = "" if external.mode is None else f", mode {external.mode & 0o7777:04o}"
    kind = external.type or "file or directory"
    return f"a {kind}{mode}, {external.requested} where it came from"


def _made_again(context: Context) -> frozenset[KPath]:
    """
    Give what an engine took away and the restore makes again, or makes because it was asked to.

    That are the groups of the tasks, by CRIU or by the plan, and what the engine is known to
    remove.
    """
    groups = own_directories(context.facts, context.host, moved=context.choices.cgroup_root)
    made = {source for _, source in made_sources(context.facts, context.externals)}
    return frozenset(groups) | made | {each.path for each in context.facts.container.torn_down}


def _mountpoints(context: Context) -> Iterator[Found]:
    """R4: cured where the plan makes the mountpoint."""
    if context.target is None:
        return
    for path, stat in context.target.mountpoints.items():
        if stat is None:
            yield Found(path, "nothing is there", cured=path in context.made)


def _files(
    differs: Callable[[Context, NamedFile, TargetFile], str],
) -> Callable[[Context], Iterator[Found]]:
    """Make a predicate of a comparison of a file then and now."""

    def predicate(context: Context) -> Iterator[Found]:
        if context.target is None:
            return
        found = {each.path: each for each in context.target.files}
        for file in context.files:
            now = found.get(file.path)
            detail = differs(context, file, now) if now else ""
            if detail:
                yield Found(file.path, detail)

    return predicate


def _missing(_context: Context, _file: NamedFile, now: TargetFile) -> str:
    return "nothing is there" if now.stat is None else ""


def _size(_context: Context, file: NamedFile, now: TargetFile) -> str:
    if now.stat is None or file.size is None or file.size == now.stat.size:
        return ""
    return f"{now.stat.size} bytes, it had {file.size}"


def _mode(context: Context, file: NamedFile, now: TargetFile) -> str:
    if now.stat is None or file.mode is None or file.mode == now.stat.mode:
        return ""
    rwx = 0o777 if "--skip-file-rwx-check" in context.choices.extra else 0
    if file.mode & ~rwx == now.stat.mode & ~rwx:
        return ""
    return f"mode 0{now.stat.mode:o}, it had 0{file.mode:o}"


def _build_id(context: Context, file: NamedFile, now: TargetFile) -> str:
    """R10: CRIU looks at the build-id where size is as it was."""
    if not file.build_id or not now.build_id or _size(context, file, now):
        return ""
    if file.size is None or file.build_id == now.build_id:
        return ""
    return f"build-id {now.build_id[:12]}…, it was {file.build_id[:12]}…"


def _content(context: Context, file: NamedFile, now: TargetFile) -> str:
    """M5: said only where the size or the build-id does not say it already."""
    if not file.digest or not now.digest or file.digest == now.digest:
        return ""
    if _size(context, file, now) or _build_id(context, file, now):
        return ""
    if context.choices.allow_changed:
        return ""
    return f"SHA-256 {now.digest[:12]}…, it was {file.digest[:12]}…"


def _private_sources(context: Context) -> Iterator[Found]:
    """
    F2: a slave that CRIU restores as one, of a peer group that ends with the restore.

    One whose master is in the container receives from there again.
    """
    graph = context.graph
    if context.target is None or graph is None:
        return
    masters = {
        mount.mountpoint: mount.master
        for mount in graph.tree.mounts
        if mount.master not in graph.groups()
    }
    for external in context.externals:
        if not external.source or not masters.get(external.mountpoint):
            continue
        mount = context.host.lies_on(external.source)
        if mount and not mount.shared and not mount.master:
            yield Found(external.mountpoint, f"master:{masters[external.mountpoint]}")


PREDICATES: Final = {
    "M1": _layers,
    "M3": _sources,
    "F2": _private_sources,
    "R4": _mountpoints,
    "R8": _files(_size),
    "R9": _files(_mode),
    "R10": _files(_build_id),
    "M5": _files(_content),
    "M7": _files(_missing),
}
