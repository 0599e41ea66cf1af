# SPDX-License-Identifier: Apache-2.0
"""
By which a file is known that the kernel shows otherwise than it is.

Nothing else of this package is needed where no file has them, as on most kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.model import InodeType, MountId
from mountcr.planning.remaps import DELETED, KERNEL_ONLY

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from mountcr.model import Facts, OpenFile, PathStat, Task

__all__ = [
    "NET_UNIX",
    "foreign_files",
    "has_path",
    "identity",
    "is_foreign",
    "is_misreported",
    "is_suspicious",
    "may_have_names",
    "mounted_in",
    "same_file",
]

NET_UNIX: Final = "/net/unix"
"""The end of the name of the file that tells what unix sockets are bound to, in `Facts.unseen`."""


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


def may_have_names(file: OpenFile) -> bool:
    """Tell a file whose name is gone while it has other ones, as far as its inode says."""
    stat = file.stat
    linked = stat is not None and stat.nlink > 0 and stat.type is not InodeType.DIRECTORY
    return linked and file.shown.startswith("/") and file.shown.endswith(DELETED)


def is_foreign(file: OpenFile, mounted: Container[MountId]) -> bool:
    """Tell a file on a mount that no table has; what has no path is on none."""
    return file.mnt_id >= 0 and MountId(file.mnt_id) not in mounted and has_path(file)


def is_misreported(file: OpenFile, mounted: Container[MountId], there: PathStat | None) -> bool:
    """
    Tell a file that is not what lies at its path, or is on a mount that no table has.

    `mounted` are the ids of the mounts that its task has, `there` is what lies at the path as it is
    shown. Of a mapping there are two accounts, which may
    differ.
    """
    if file.mapping is not None and file.mapping.path != file.shown:
        return True
    if file.mnt_id >= 0:
        return is_foreign(file, mounted)
    return not same_file(there, file.stat)


def is_suspicious(file: OpenFile, mounted: Container[MountId]) -> bool:
    """Tell a misreported file by what was seen at its path when it was looked at itself."""
    return has_path(file) and is_misreported(file, mounted, file.at_path)


def mounted_in(facts: Facts) -> dict[int, frozenset[MountId]]:
    """Give the ids of the mounts of each mount namespace."""
    return {each.id: frozenset(mount.id for mount in each.mounts) for each in facts.namespaces}


def foreign_files(facts: Facts) -> Iterator[tuple[Task, OpenFile]]:
    """Give each file on a mount that is in no table of its task's namespace."""
    mounted = mounted_in(facts)
    for task in facts.tasks:
        ids = mounted.get(task.mount_namespace)
        for file in task.files if ids is not None else ():
            if ids is not None and is_foreign(file, ids):
                yield task, file
