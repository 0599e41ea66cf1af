# SPDX-License-Identifier: Apache-2.0
"""
What of a union a file is: in a lower or in the upper, below a copy, or gone.

The layers tell where a path comes from. Which of several inodes of a path a task holds, the kernel
tells where it shows that of the layer: by the mount of the layer (Linux 3.18 to 4.1), by number in
/proc/<pid>/maps (before 6.8), by the path of a branch. Where it does not, what can only be read
beside a copy of its file is taken for opened before that: a writer is always on the copy.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mountcr.model import FileKind, InodeType
from mountcr.resolution.layers import part_of
from mountcr.resolution.symptoms import same_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.model import LayerPart, OpenFile, SeenPath
    from mountcr.paths import KPath
    from mountcr.resolution.unions import Union

__all__ = ["FileState", "Judgement", "is_whiteout", "state_in_union"]


class FileState(StrEnum):
    """
    What a file is.

    A directory of several layers is `merged`. `stale` is open or mapped below a copy of it, or
    only for reading beside one. `pseudo` are tmpfs, proc, devices, `anon` what has no path.
    """

    LOWER = "lower"
    UPPER = "upper"
    MERGED = "merged"
    STALE = "stale"
    DELETED = "deleted"
    EXTERNAL = "external"
    PSEUDO = "pseudo"
    ANON = "anon"
    UNRESOLVED = "unresolved"


class Judgement(NamedTuple):
    """A state and what it was told by; `proven` unless it may be another one."""

    state: FileState
    because: str
    proven: bool = True


def state_in_union(
    file: OpenFile, union: Union, found: SeenPath | None, layer: KPath | None
) -> Judgement:
    """
    Say what a file of a union is that has a name there.

    `found` is what lies at its path; `layer` the one that the kernel showed it in, None if it did
    not.
    """
    if union.driver.flat:
        return Judgement(FileState.UPPER, "a plain directory, which takes every change")
    if found is None or found.parts is None:
        return Judgement(FileState.UNRESOLVED, "nobody looked at the layers")
    parts = [each for each in found.parts if not is_whiteout(each)]
    if not parts:
        return Judgement(FileState.UNRESOLVED, "no layer has the path")
    if parts[0].stat.type is InodeType.DIRECTORY:
        return _of_directory(parts, union)
    holder = layer or _shown_layer(file, union, found)
    if holder is not None:
        return _of_layer(holder, parts, union)
    return _by_access(file, parts, union)


def _shown_layer(file: OpenFile, union: Union, found: SeenPath) -> KPath | None:
    """
    Give the layer that has the inode of a file, where the kernel tells that of the file itself.

    stat(2) of a file asks the union, which answers for its path: where both are the same it says
    nothing of the file. A FUSE server's inode in maps is that of the first look at the path.
    """
    if union.stack.driver in {"unionfs", "fuse-overlayfs"}:
        return None
    if same_file(file.stat, found.stat):
        file = msgspec.structs.replace(file, stat=None)
    own = part_of(file, found.parts)
    return own.layer if own else None


def is_whiteout(part: LayerPart) -> bool:
    """Tell the mark of overlayfs for a name that is gone, a character device 0:0."""
    return part.stat.type is InodeType.CHARACTER and part.stat.rdev == "0:0"


def _of_directory(parts: Sequence[LayerPart], union: Union) -> Judgement:
    opaque = next((number for number, each in enumerate(parts) if each.opaque), len(parts))
    merging = [each for each in parts[: opaque + 1] if each.stat.type is InodeType.DIRECTORY]
    if len(merging) > 1:
        names = ", ".join(each.layer for each in merging)
        return Judgement(FileState.MERGED, f"a directory of {names}")
    return _of_layer(parts[0].layer, parts[:1], union)


def _of_layer(holder: KPath, parts: Sequence[LayerPart], union: Union) -> Judgement:
    """Judge by the layer whose inode it is."""
    if parts[0].layer != holder:
        return Judgement(FileState.STALE, f"its inode is in {holder}, below {parts[0].layer}")
    state = FileState.UPPER if holder == union.stack.upper else FileState.LOWER
    return Judgement(state, f"in layer {holder}")


def _by_access(file: OpenFile, parts: Sequence[LayerPart], union: Union) -> Judgement:
    """Judge a file whose inode no layer has, by which layers have its path and by what it may."""
    top = parts[0].layer
    if top != union.stack.upper:
        return Judgement(FileState.LOWER, f"in layer {top}")
    below = next((each.layer for each in parts[1:]), None)
    if below is None or parts[0].stat.type is not InodeType.FILE:
        return Judgement(FileState.UPPER, f"in layer {top} only")
    if parts[0].metacopy:
        return Judgement(FileState.UPPER, f"in {top}, whose copy has the content of {below} still")
    if _is_on_copy(file):
        return Judgement(FileState.UPPER, f"held by a writer, which is on the copy in {top}")
    because = f"held for reading only, in {below} and copied to {top} at some time"
    return Judgement(FileState.STALE, because, proven=False)


def _is_on_copy(file: OpenFile) -> bool:
    """Tell what cannot be open below a copy: writers, and what is open as a path only."""
    if file.mapping is not None:
        return file.mapping.writes
    if file.kind is not FileKind.FD:
        return False
    return bool(file.flags & os.O_PATH) or file.flags & os.O_ACCMODE != os.O_RDONLY
