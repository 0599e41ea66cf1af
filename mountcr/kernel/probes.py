# SPDX-License-Identifier: Apache-2.0
"""What this kernel does, found by calling: no version is compared anywhere."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from mountcr.kernel import mounts, statmount, syscalls
from mountcr.kernel.nsfs import all_mount_namespaces, mount_namespace_info
from mountcr.model import Capabilities

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["probe", "probe_aufs", "probe_criu_engine", "probe_fuse", "probe_mount_tables"]


_CALLS: Final[dict[str, Callable[[], object]]] = {
    "move_mount": lambda: syscalls.move_mount(-1, b"", -1, b"", 0),
    "mount_setattr": lambda: syscalls.mount_setattr(-1, b"", 0, 0, 0, 0),
    "openat2": lambda: syscalls.openat2(-1, b"", 0, 0, 0),
    "statmount": lambda: statmount.statmount(0, 0),
    "listmount": lambda: statmount.listmount(0),
    "pidfd_open": lambda: os.pidfd_open(-1),
}

_FILES: Final = {
    "map_files": "/proc/self/map_files",
    "time namespaces": "/proc/self/ns/time",
    "user namespaces": "/proc/self/ns/user",
    "cgroup namespaces": "/proc/self/ns/cgroup",
}
"""What is there where the kernel can do it."""


def _fsopen() -> bool:
    """Tell whether the mount API opens overlay, as root does."""
    try:
        os.close(syscalls.fsopen(b"overlay", syscalls.FSOPEN_CLOEXEC))
    except OSError:
        return False
    return True


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def probe_criu_engine() -> dict[str, bool]:
    """
    Ask for what CRIU's v2 engine needs, in microseconds: `move_mount set group` and `openat2`.

    What cannot be told, for want of CAP_SYS_ADMIN, is left out.
    """
    found = {"openat2": syscalls.is_known(_CALLS["openat2"])}
    try:
        syscalls.move_mount(-1, b"", -1, b"", syscalls.MOVE_MOUNT_SET_GROUP)
    except OSError as error:
        if error.errno != errno.EPERM:
            # an unknown flag is EINVAL, before the empty paths are ENOENT
            found["move_mount set group"] = error.errno not in {errno.EINVAL, errno.ENOSYS}
    return found


def probe_aufs() -> dict[str, bool]:
    """
    Ask whether the kernel has AUFS, which may load its module.

    Gives `aufs`, or nothing where only a caller with CAP_SYS_ADMIN would be told.
    """
    if _has_aufs():
        return {"aufs": True}
    try:
        _open_aufs()
    except OSError as error:
        if error.errno == errno.ENODEV:
            return {"aufs": False}
        return {} if error.errno == errno.EPERM else {"aufs": True}
    return {"aufs": True}


def probe_fuse() -> dict[str, bool]:
    """Ask for what a FUSE server is told apart from its mount with, in microseconds."""
    return {"open_tree": mounts.can_clone()}


def probe_mount_tables() -> dict[str, bool]:
    """Ask what `mountcr.kernel.mounttable` is told: options, sources, other mount namespaces."""
    groups = 0
    with contextlib.suppress(OSError):
        groups = statmount.told_groups()
    return {
        "statmount options": bool(groups & statmount.STATMOUNT_MNT_OPTS),
        "statmount source": bool(groups & statmount.STATMOUNT_SB_SOURCE),
        "listmount of another namespace": _lists_namespaces(),
    }


def _lists_namespaces() -> bool:
    """Tell whether the kernel gives all mount namespaces, one by one, and lists their mounts."""
    try:
        for fd in all_mount_namespaces():
            statmount.listmount(namespace=mount_namespace_info(fd)[0])
            return True
    except OSError:
        pass
    return False


def _has_aufs() -> bool:
    try:
        with open("/proc/filesystems", "rb") as file:
            return b"aufs" in file.read().split()
    except OSError:
        return False


def _open_aufs() -> None:
    """
    Open AUFS by the mount API; without it (before Linux 5.2) mount it with no branch.

    That it answers with EINVAL, before anything is mounted (fs/aufs/super.c, `aufs_fill_super()`).
    """
    try:
        os.close(syscalls.fsopen(b"aufs", syscalls.FSOPEN_CLOEXEC))
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        syscalls.mount(b"none", b"/", b"aufs", 0)


def probe() -> Capabilities:
    """
    Ask the kernel; nothing is mounted. What only CAP_SYS_ADMIN is told is False without it.

    `fuse` opens the device, which loads its module where that is one.
    """
    features = {name: syscalls.is_known(call) for name, call in _CALLS.items()}
    features |= probe_criu_engine()
    features |= probe_aufs()
    features |= probe_fuse()
    features |= {name: os.path.exists(path) for name, path in _FILES.items()}
    features |= probe_mount_tables()
    features["fsopen overlay"] = _fsopen()
    features["fuse"] = _opens("/dev/fuse")
    return Capabilities(kernel=os.uname().release, features=features)
