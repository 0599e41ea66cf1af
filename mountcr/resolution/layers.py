# SPDX-License-Identifier: Apache-2.0
"""
Files that the kernel shows by the mount or the path of a layer: where they are in the union.

What a path may stand for follows from the text alone; which of it is true, the inode tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mountcr import paths
from mountcr.planning.remaps import DELETED
from mountcr.resolution.quirks import Quirk
from mountcr.resolution.symptoms import identity, same_file
from mountcr.resolution.unions import Private, without_suffix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.model import LayerPart, OpenFile, SeenPath
    from mountcr.paths import KPath
    from mountcr.resolution.unions import Seen, Union

__all__ = [
    "PathFix",
    "beneath_branch",
    "by_branch",
    "by_layer",
    "layer_paths",
    "learn",
    "part_of",
]


class PathFix(NamedTuple):
    """
    Where a file is that the kernel shows otherwise.

    `path` is from the root of the namespace and without a mark of deletion, unless that is part of
    the name. `layer` is the directory that has the file, None if that is not known. `how` is the
    method in a few words, `evidence` what it went by. `gone` tells that the kernel says of the name
    that it is.
    """

    path: KPath
    layer: KPath | None
    quirks: tuple[Quirk, ...]
    how: str
    evidence: tuple[str, ...] = ()
    gone: bool = False


def layer_paths(file: OpenFile, union: Union) -> Iterator[tuple[KPath, KPath]]:
    """
    Give the paths of the namespace that a path within a layer may stand for.

    A mount of the layer alone shows paths from its root. One of a directory above it, which may
    itself be a part of a file system, shows the last components of the layer's path before them:
    with each path comes where the mount would show the root of the layer.
    """
    for shown in _spellings(file.shown):
        tops = [paths.ROOT]
        for layer in union.stack.directories:
            tops += (paths.KPath(layer[at:]) for at, each in enumerate(layer) if each == "/")
        for top in dict.fromkeys(tops):
            if paths.is_beneath(shown, top):
                path = union.outside(paths.KPath("/" + paths.relative_to(shown, top)))
                if path is not None:
                    yield path, top


def _spellings(shown: KPath) -> Iterator[KPath]:
    """Give a path as it is shown and, where a mark of deletion may be one, without it."""
    yield shown
    if shown.endswith(DELETED):
        yield without_suffix(shown)


def part_of(file: OpenFile, parts: Sequence[LayerPart] | None) -> LayerPart | None:
    """Give the part whose very inode a file is, by what stat or the line of maps tells."""
    known = [identity(file.stat)]
    if file.mapping is not None:
        known.append((file.mapping.dev, file.mapping.ino))
    return next((each for each in parts or () if identity(each.stat) in known), None)


def by_layer(file: OpenFile, union: Union, seen: Seen) -> PathFix | None:
    """
    Find a file of a mount that is in no table by its inode, in the layers and in the merged view.

    Overlays of Linux 3.18 to 4.1 show files by such mounts, and every kernel does what was opened
    through open_tree(2). A file without a name is told by another one of the same mount.
    """
    match = _match(file, union, seen)
    if match is None:
        return _by_mount(file, union)
    path, _, part = match
    if part is not None:
        what = f"inode {part.stat.dev} {part.stat.ino} is in layer {part.layer}"
        return PathFix(path, part.layer, _quirks(file, path), "inode of a layer", (what,))
    what = f"the inode of the file is at {path}"
    return PathFix(path, None, _quirks(file, path), "inode of the merged view", (what,))


def learn(file: OpenFile, union: Union, seen: Seen) -> Private | None:
    """Say which layer a mount shows that is in no table, by a file of it that a path leads to."""
    match = _match(file, union, seen)
    if match is None or match[2] is None:
        return None
    return Private(match[2].layer, match[1])


def _match(
    file: OpenFile, union: Union, seen: Seen
) -> tuple[KPath, KPath, LayerPart | None] | None:
    """Give the path at which a file is, where its mount shows the layer, and the layer's part."""
    for path, top in layer_paths(file, union):
        found = _seen_in(union, path, seen)
        if found is None:
            continue
        part = next((each for each in found.parts or () if same_file(each.stat, file.stat)), None)
        if part is not None or same_file(found.stat, file.stat):
            return path, top, part
    return None


def _seen_in(union: Union, path: KPath, seen: Seen) -> SeenPath | None:
    """Give what was seen at a path, unless another mount shows it, which says nothing of this."""
    found = seen.at(union.namespace, path)
    return found if found and found.mount in {-1, union.mount.id} else None


def _quirks(file: OpenFile, path: KPath) -> tuple[Quirk, ...]:
    foreign = (Quirk.PRIVATE_MOUNT,) if file.mnt_id >= 0 else ()
    rootless = (Quirk.ROOTLESS_PATH,) if path != without_suffix(file.shown) else ()
    return foreign + (() if path == file.shown else rootless)


def _by_mount(file: OpenFile, union: Union) -> PathFix | None:
    """Find a file that no path leads to any more by the mount that it is on."""
    known = union.private.get(file.mnt_id)
    shown = without_suffix(file.shown)
    if known is None or not paths.is_beneath(shown, known.top):
        return None
    path = union.outside(paths.KPath("/" + paths.relative_to(shown, known.top)))
    if path is None:
        return None
    evidence = f"mount {file.mnt_id} shows other files of {known.layer}"
    gone = shown != file.shown
    return PathFix(path, known.layer, _quirks(file, path), "mount of a layer", (evidence,), gone)


# --- Branches of AUFS -----------------------------------------------------------------------------


def beneath_branch(shown: KPath, union: Union) -> tuple[KPath, KPath] | None:
    """
    Give the branch that a path lies in, and the path from the root of the union.

    The longest branch wins, of equal ones the upper. Components count: `/diff/a` is no branch of
    `/diff/a-init/f`.
    """
    found = [each for each in union.stack.directories if paths.is_beneath(shown, each)]
    if not found:
        return None
    branch = max(found, key=len)
    return branch, paths.KPath("/" + paths.relative_to(shown, branch))


def by_branch(file: OpenFile, union: Union, seen: Seen) -> PathFix | None:
    """
    Find a mapping that AUFS shows by the file of a branch.

    Without the part of its patch that undoes it, map_files leads there, and maps shows it
    (fs/proc/base.c `map_files_get_link()`, fs/proc/task_mmu.c; aufs-mmap.patch).
    """
    found = beneath_branch(file.shown, union)
    if found is None:
        return None
    branch, inside = found
    path = union.outside(inside)
    if path is None:
        return None
    there = _is_in(branch, file, _seen_in(union, path, seen))
    gone = path.endswith(DELETED) and not there
    if there is False and not gone:
        return None  # some file of the branch that is no mapping of the union
    evidence = (f"{branch} is a branch of the AUFS at {union.mount.mountpoint}",)
    path = without_suffix(path) if gone else path
    return PathFix(path, branch, (Quirk.AUFS_BRANCH_PATH,), "path of a branch", evidence, gone)


def _is_in(branch: KPath, file: OpenFile, found: SeenPath | None) -> bool | None:
    """Tell whether a file is the one that a branch has at a path; None where it has none there."""
    for part in (found.parts if found else None) or ():
        if part.layer == branch:
            return file.stat is None or same_file(part.stat, file.stat)
    return None
