# SPDX-License-Identifier: Apache-2.0
"""
Open files that have no name any more, and what CRIU needs for them.

It puts the content of an unlinked file into the images, up to a limit (criu/files-reg.c,
`dump_ghost_remap()`), and gives one of which other names are left a name of its own beside the old
one, if it is allowed to (`dump_linked_remap()`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.model import InodeType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import OpenFile

__all__ = [
    "DELETED",
    "GHOST_LIMIT",
    "KERNEL_ONLY",
    "is_linked",
    "name_is_gone",
    "needed_ghost_limit",
    "size_on_disk",
]

GHOST_LIMIT: Final = 1 << 20
"""Bytes that CRIU takes of an unlinked file unless it is told (criu/include/cr_options.h)."""

_LARGEST_LIMIT: Final = (1 << 32) - 1
_BLOCK: Final = 512

DELETED: Final = "\\040(deleted)"
"""What follows the path of a file whose name is gone (fs/d_path.c, `path_with_deleted()`)."""

KERNEL_ONLY: Final = (
    "/memfd:", "/SYSV", "/[", "/dev/zero\\040(deleted)", "/anon_hugepage",
)  # fmt: skip
"""What the kernel shows of files that are on no mount at all."""


def name_is_gone(file: OpenFile) -> bool:
    """Tell whether the kernel says that the name by which a file was opened is gone."""
    named = file.shown.startswith("/") and not file.shown.startswith(KERNEL_ONLY)
    return named and file.shown.endswith(DELETED)


def is_linked(file: OpenFile) -> bool:
    """Tell whether the name of a file is gone while it has others; directories have one only."""
    stat = file.stat
    linkable = stat is not None and stat.nlink > 0 and stat.type is not InodeType.DIRECTORY
    return linkable and name_is_gone(file)


def size_on_disk(file: OpenFile) -> int:
    """Give the bytes that a file takes, which CRIU compares with its limit; 0 if unknown."""
    return max(file.stat.blocks, 0) * _BLOCK if file.stat else 0


def needed_ghost_limit(files: Iterable[OpenFile]) -> tuple[int, OpenFile] | None:
    """
    Give a limit for the largest of the files without a name, and that file.

    It is twice its size, because until the tasks are frozen it may grow. None where CRIU's own
    limit will do, and where no limit that CRIU can be given would.
    """
    gone = [file for file in files if name_is_gone(file)]
    largest = max(gone, key=size_on_disk, default=None)
    if largest is None or size_on_disk(largest) * 2 <= GHOST_LIMIT:
        return None
    if size_on_disk(largest) > _LARGEST_LIMIT:
        return None
    return min(size_on_disk(largest) * 2, _LARGEST_LIMIT), largest
