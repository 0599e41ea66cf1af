# SPDX-License-Identifier: Apache-2.0
"""What this kernel does, found by calling: no version is compared anywhere."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from mountcr.errors import MountcrError
from mountcr.kernel import mounts, statmount, syscalls
from mountcr.model import Capabilities
from mountcr.overlayopts import OverlayOptions
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["probe", "probe_aufs", "probe_criu_engine", "probe_fuse"]


_CALLS: Final[dict[str, Callable[[], object]]] = {
    "move_mount": lambda: syscalls.move_mount(-1, b"", -1, b"", 0),
    "mount_setattr": lambda: syscalls.mount_setattr(-1, b"", 0, 0, 0, 0),
    "openat2": lambda: syscalls.openat2(-1, b"", 0, 0, 0),
    "statmount": lambda: statmount.statmount(0, 0),
    "listmount": lambda: statmount.listmount(0),
}


def _fsopen() -> bool:
    """Tell whether the mount API opens overlay, as root does."""
    try:
        os.close(syscalls.fsopen(b"overlay", syscalls.FSOPEN_CLOEXEC))
    except OSError:
        return False
    return True


def _layers_by_fd() -> bool:
    """Tell whether overlay takes layers as descriptors (Linux 6.13)."""
    try:
        context = syscalls.fsopen(b"overlay", syscalls.FSOPEN_CLOEXEC)
    except OSError:
        return False
    try:
        layer = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.fsconfig_fd(context, b"lowerdir+", layer)
        finally:
            os.close(layer)
    except OSError:
        return False
    finally:
        os.close(context)
    return True


def _overlay() -> bool:
    """Tell whether an overlay of two layers with an upper can be mounted in a private namespace."""
    # 10 ms, which a plan has no use for
    import tempfile

    from mountcr.kernel.private import in_private_namespace

    with tempfile.TemporaryDirectory(prefix="mountcr-probe-") as scratch:
        try:
            in_private_namespace(lambda: _try_overlay(scratch))
        except (OSError, MountcrError):
            return False
    return True


def _try_overlay(scratch: str) -> None:
    from mountcr.kernel.overlay import mount_overlay

    # on a tmpfs of its own: the scratch directory may lie on an overlay, which cannot be an upper
    base = encode(scratch)
    syscalls.mount(b"tmpfs", os.fsencode(scratch), b"tmpfs", 0, b"size=64k")
    names = ("a", "b", "upper", "work", "merged")
    for name in names:
        os.mkdir(f"{scratch}/{name}")
    a, b, upper, work, merged = (KPath(f"{base}/{name}") for name in names)
    mount_overlay(merged, OverlayOptions(lowers=(a, b), upper=upper, work=work))


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
    """Ask the kernel; nothing is left behind. Without CAP_SYS_ADMIN what mounts is False."""
    features = {name: syscalls.is_known(call) for name, call in _CALLS.items()}
    features |= probe_criu_engine()
    features |= probe_aufs()
    features |= probe_fuse()
    features["fsopen overlay"] = _fsopen()
    features["overlay layers by descriptor"] = _layers_by_fd()
    features["overlay"] = _overlay()
    return Capabilities(kernel=os.uname().release, features=features)
