# SPDX-License-Identifier: Apache-2.0
"""
Which mounts are of one superblock, as CRIU sees it.

CRIU compares device, source, type and the superblock's options (criu/mount.c,
`mounts_sb_equal()`), so that two mounts of one superblock which print different options are no
binds of each other for it. Types are compared up to the first dot: all of FUSE is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.paths import KPath

if TYPE_CHECKING:
    from mountcr.model import Mount

__all__ = ["SUPPORTED", "bare_root", "short_type", "superblock"]

_FLAGS: Final = frozenset({"rw", "ro", "sync", "dirsync", "mand"})
"""Options that are flags of the superblock and not part of its option text."""

_DELETED: Final = "//deleted"
"""What follows the root of a mount when it is unlinked (fs/d_path.c, `dentry_path()`)."""

SUPPORTED: Final = frozenset(
    {
        "proc", "sysfs", "devtmpfs", "binfmt_misc", "tmpfs", "devpts", "simfs", "pstore", "mqueue",
        "securityfs", "fusectl", "debugfs", "tracefs", "cgroup", "cgroup2", "aufs", "fuse",
        "overlay", "autofs",
    }
)  # fmt: skip
"""The types that CRIU 4 restores by itself (criu/filesystems.c, `fstypes[]`)."""


def short_type(mount: Mount) -> str:
    """Give the type without its subtype: `fuse` for `fuse.sshfs`."""
    return mount.fstype.partition(".")[0]


def bare_root(mount: Mount) -> KPath:
    """Give the root of a mount as CRIU compares it: without the mark of one that was unlinked."""
    return KPath(mount.root.removesuffix(_DELETED) or "/")


def superblock(mount: Mount) -> tuple[str, ...]:
    """Give a key that is equal for mounts which CRIU takes for one superblock."""
    options = [each for each in mount.super_options.split(",") if each not in _FLAGS]
    if mount.fstype == "btrfs":
        options = [each for each in options if not each.startswith(("subvol=", "subvolid="))]
    return (mount.dev, mount.source or "", short_type(mount), ",".join(options))
