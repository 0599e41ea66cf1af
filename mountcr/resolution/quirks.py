# SPDX-License-Identifier: Apache-2.0
"""
The quirks that are undone to say what a file is; `kernel-notes/<name>.md` explains each.

A quirk is named where its symptom was seen, whatever the version of the kernel.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Quirk"]


class Quirk(StrEnum):
    """What a kernel shows otherwise than it is."""

    AUFS_BRANCH_PATH = "aufs-branch-path"
    AUFS_STALE_HANDLE = "aufs-stale-handle"
    DELETED_WITHOUT_MARK = "deleted-without-mark"
    MAPPING_INODE = "mapping-inode"
    NAME_LIKE_DELETED = "name-like-deleted"
    NAME_REMOVED = "name-removed"
    PRIVATE_MOUNT = "private-mount"
    ROOTLESS_PATH = "rootless-path"
    STALE_BELOW_COPY = "stale-below-copy"
    WATCH_DEVICE = "watch-device"
