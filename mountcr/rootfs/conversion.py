# SPDX-License-Identifier: Apache-2.0
"""Layers of a host, written anew: what a stack shows, or what its topmost layer changes."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

from mountcr import journal
from mountcr.paths import decode
from mountcr.rootfs.changes import changes, everything
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.opened import opened
from mountcr.rootfs.tree import DirectoryTree
from mountcr.rootfs.writer import write, write_beneath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.paths import KPath
    from mountcr.rootfs.tar import Findings
    from mountcr.rootfs.writer import Progress, Written
    from mountcr.stack import StoredLayer

__all__ = ["fill", "write_changes", "write_merged", "write_nothing"]


def write_merged(
    layers: Sequence[StoredLayer],
    data: Sequence[KPath],
    into: KPath,
    *,
    progress: Progress | None = None,
    archives: dict[KPath, Findings] | None = None,
) -> Written:
    """
    Write what layers show, top first, into a directory that is not there yet.

    Its parents are made. `archives` is as for `opened`. Raises OSError, RefusedError naming what
    cannot be written; the directory is not there then, and the layers are untouched.
    """
    journal.make_directories(os.path.dirname(decode(into)))
    with opened(layers, data, archives=archives) as view:
        return write(everything(view), into, get_dialect("vfs"), progress=progress)


def fill(source: KPath, into: KPath, *, progress: Progress | None = None) -> Written:
    """
    Copy what is in a directory into an empty one, with owner and mode of the directory itself.

    Raises OSError naming the path; what was written until then stays.
    """
    fd = os.open(decode(into), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with DirectoryTree(source) as tree:
            return write_beneath(everything(tree), fd, get_dialect("vfs"), progress=progress)
    finally:
        os.close(fd)


def write_changes(
    layers: Sequence[StoredLayer],
    data: Sequence[KPath],
    into: KPath,
    to: str,
    *,
    writable: bool = True,
    progress: Progress | None = None,
    archives: dict[KPath, Findings] | None = None,
) -> Written:
    """
    Write what the topmost of some layers changes of the others, in the dialect `to`.

    `writable` tells that it is the writable one of a stack; another one, which stays for the next
    who needs it, is on the disk when it gets its name, and where it lies is the owner's alone: any
    file of it may be setuid. Everything else is as in `write_merged`.
    """
    journal.make_directories(os.path.dirname(decode(into)), 0o755 if writable else 0o700)
    with opened(layers, data, archives=archives) as view:
        entries = changes(view.layers[0], view.below(), writable=writable)
        return write(entries, into, get_dialect(to), progress=progress, durable=not writable)


def write_nothing(layers: Sequence[StoredLayer], into: KPath, to: str) -> Written:
    """
    Write a layer, in the dialect `to`, that changes nothing of what others show, top first.

    Its root is as theirs is. Everything else is as in `write_merged`.
    """
    journal.make_directories(os.path.dirname(decode(into)))
    with opened(layers) as view:
        return write(islice(everything(view), 1), into, get_dialect(to))
