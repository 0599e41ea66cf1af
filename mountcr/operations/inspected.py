# SPDX-License-Identifier: Apache-2.0
"""
Root file systems that were unpacked of a bundle only to be looked at, and where they are mounted.

Each has a file that says where. They go when they are unmounted there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mountcr import paths
from mountcr.kernel.removal import remove_tree
from mountcr.paths import decode, encode
from mountcr.planning.choices import IMPORTS

if TYPE_CHECKING:
    from mountcr.paths import KPath

__all__ = ["INSPECTED", "mark_inspected", "remove_inspected"]

INSPECTED: Final = paths.join(paths.parent(IMPORTS), "inspected")
"""Where they lie, each in a directory of its own."""

_WHERE: Final = "mountpoint"


def mark_inspected(directory: KPath, mountpoint: KPath) -> None:
    """Write down where a root file system in a directory is mounted. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(decode(paths.join(directory, _WHERE)), flags, 0o600), "wb") as file:
        file.write(decode(mountpoint))


def remove_inspected(mountpoint: KPath) -> bool:
    """Remove what was unpacked to be looked at there; tell whether anything was. Raises OSError."""
    try:
        names = os.listdir(decode(INSPECTED))
    except FileNotFoundError:
        return False
    removed = False
    for name in names:
        directory = paths.join(INSPECTED, encode(name))
        try:
            with open(decode(paths.join(directory, _WHERE)), "rb") as file:
                where = file.read()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if where == decode(mountpoint):
            remove_tree(directory)
            removed = True
    return removed
