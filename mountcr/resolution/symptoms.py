# SPDX-License-Identifier: Apache-2.0
"""
By which a file is known that the kernel shows otherwise than it is.

Nothing else of this package is needed where no file has them, as on most kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.graph.tree import MountTree
from mountcr.model import MountId, SeenPath
from mountcr.planning.remaps import KERNEL_ONLY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.model import Facts, OpenFile, PathStat, Task

__all__ = [
    "DELETED",
    "foreign_files",
    "has_path",
    "identity",
    "is_foreign",
    "is_misreported",
    "is_suspicious",
    "same_file",
]

DELETED: Final = "\\040(deleted)"
"""What follows the path of a file whose name is gone (fs/d_path.c, `path_with_deleted()`)."""


def identity(stat: PathStat | None) -> tuple[str, int] | None:
    """Give what tells one inode from others; None where nothing is known."""
    return (stat.dev, stat.ino) if stat else None


def same_file(stat: PathStat | None, other: PathStat | None) -> bool:
    """Tell whether both are known, and the same inode."""
    return stat is not None and other is not None and identity(stat) == identity(other)


def has_path(file: OpenFile) -> bool:
    """Tell a file with a path from what only the kernel has, as a memfd, which has no name."""
    kernels = file.shown.startswith(KERNEL_ONLY) and file.shown.endswith(DELETED)
    return file.shown.startswith("/") and not kernels


def is_foreign(file: OpenFile, tree: MountTree) -> bool:
    """Tell a file on a mount that no table has; what has no path is on none."""
    return file.mnt_id >= 0 and MountId(file.mnt_id) not in tree.by_id and has_path(file)


def is_misreported(file: OpenFile, tree: MountTree, found: SeenPath | None) -> bool:
    """
    Tell a file that is not what lies at its path, or is on a mount that no table has.

    `found` is what lies at the path as it is shown. Of a mapping there are two accounts, which may
    differ.
    """
    if file.mapping is not None and file.mapping.path != file.shown:
        return True
    if file.mnt_id >= 0:
        return is_foreign(file, tree)
    return found is None or not same_file(found.stat, file.stat)


def is_suspicious(file: OpenFile, tree: MountTree) -> bool:
    """Tell a misreported file by what was seen at its path when it was looked at itself."""
    if not has_path(file):
        return False
    place = SeenPath(namespace=0, path=file.shown, stat=file.at_path, missing=file.missing)
    return is_misreported(file, tree, place)


def foreign_files(facts: Facts) -> Iterator[tuple[Task, OpenFile]]:
    """Give each file on a mount that is in no table of its task's namespace."""
    trees = {each.id: MountTree(each.mounts) for each in facts.namespaces}
    for task in facts.tasks:
        tree = trees.get(task.mount_namespace)
        for file in task.files if tree else ():
            if tree and is_foreign(file, tree):
                yield task, file
