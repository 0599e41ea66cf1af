# SPDX-License-Identifier: Apache-2.0
"""
Binding, attributes and propagation of mounts, with the older way where the newer call is missing.

Every function acts on paths of the calling thread's mount namespace and raises OSError.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from mountcr import mountinfo
from mountcr.kernel import syscalls
from mountcr.paths import KPath, decode

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ATTRIBUTES",
    "attach",
    "bind",
    "can_clone",
    "clear_attributes",
    "clone",
    "rebind",
    "set_attributes",
    "set_propagation",
]

ATTRIBUTES: Final = {
    "ro": (syscalls.MOUNT_ATTR_RDONLY, syscalls.MS_RDONLY),
    "nosuid": (syscalls.MOUNT_ATTR_NOSUID, syscalls.MS_NOSUID),
    "nodev": (syscalls.MOUNT_ATTR_NODEV, syscalls.MS_NODEV),
    "noexec": (syscalls.MOUNT_ATTR_NOEXEC, syscalls.MS_NOEXEC),
    "noatime": (syscalls.MOUNT_ATTR_NOATIME, syscalls.MS_NOATIME),
    "nodiratime": (syscalls.MOUNT_ATTR_NODIRATIME, syscalls.MS_NODIRATIME),
    "nosymfollow": (syscalls.MOUNT_ATTR_NOSYMFOLLOW, syscalls.MS_NOSYMFOLLOW),
}
"""Attributes in the words of mountinfo: the bits of mount_setattr(2) and of mount(2)."""

_PROPAGATION: Final = {
    "private": syscalls.MS_PRIVATE,
    "shared": syscalls.MS_SHARED,
    "slave": syscalls.MS_SLAVE,
    "unbindable": syscalls.MS_UNBINDABLE,
}


def can_clone() -> bool:
    """Ask the kernel for open_tree(2) (Linux 5.2), with a path that is nowhere."""
    return syscalls.is_known(lambda: syscalls.open_tree(-1, b"", 0))


def clone(path: KPath, *, recursive: bool = False) -> int:
    """
    Give a detached clone of the mount at a path as a descriptor that the caller owns.

    It goes away when the descriptor is closed and nothing has attached it. ENOSYS before Linux 5.2.
    """
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
    if recursive:
        flags |= syscalls.AT_RECURSIVE
    return syscalls.open_tree(syscalls.AT_FDCWD, decode(path), flags)


def attach(fd: int, at: KPath) -> None:
    """Attach a detached mount at a path. The descriptor stays the caller's."""
    syscalls.move_mount(fd, b"", syscalls.AT_FDCWD, decode(at), syscalls.MOVE_MOUNT_F_EMPTY_PATH)


def bind(source: KPath, at: KPath) -> None:
    """Bind a file or directory, without the mounts below it, and make the result private."""
    try:
        fd = clone(source)
        try:
            attach(fd, at)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        rebind(source, at)
    set_propagation(at, "private")


def rebind(source: KPath, at: KPath) -> None:
    """Bind a mount at another place in the peer group, if any, that it is in."""
    syscalls.mount(decode(source), decode(at), b"", syscalls.MS_BIND, b"")


def set_propagation(at: KPath, propagation: str, *, recursive: bool = False) -> None:
    """Set the propagation of the mount at a path: private, shared, slave or unbindable."""
    flags = _PROPAGATION[propagation] | (syscalls.MS_REC if recursive else 0)
    syscalls.mount(b"", decode(at), b"", flags, b"")


def set_attributes(at: KPath, attributes: Iterable[str]) -> None:
    """
    Set attributes of the mount at a path, leaving the others as they are.

    Before mount_setattr(2) (Linux 5.12) a remount sets all of them anew, so the ones that are
    set already are read and passed along. Words that are no attribute are an EINVAL.
    """
    wanted = _known(at, attributes)
    # the kernel wants the whole of the access time field cleared to set a part of it
    clear = syscalls.MOUNT_ATTR__ATIME if "noatime" in wanted else 0
    if not _set(at, _bits(wanted), clear):
        _remount(at, wanted, set())


def clear_attributes(at: KPath, attributes: Iterable[str]) -> None:
    """Clear attributes of the mount at a path; everything else is as in `set_attributes`."""
    unwanted = _known(at, attributes)
    # relatime, which is none of the bits, takes the place of noatime
    clear = syscalls.MOUNT_ATTR__ATIME if "noatime" in unwanted else 0
    if not _set(at, 0, clear | _bits(unwanted)):
        _remount(at, set(), unwanted)


def _known(at: KPath, attributes: Iterable[str]) -> set[str]:
    words = set(attributes)
    unknown = words - ATTRIBUTES.keys()
    if unknown:
        raise OSError(errno.EINVAL, f"no mount attribute: {', '.join(sorted(unknown))}", at)
    return words


def _bits(attributes: Iterable[str]) -> int:
    bits = 0
    for each in attributes:
        bits |= ATTRIBUTES[each][0]
    return bits


def _set(at: KPath, bits: int, clear: int) -> bool:
    """Set and clear bits; tell whether the kernel has mount_setattr(2)."""
    try:
        syscalls.mount_setattr(syscalls.AT_FDCWD, decode(at), 0, bits, clear, 0)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return False
    return True


def _remount(at: KPath, wanted: set[str], unwanted: set[str]) -> None:
    os.stat(decode(at))
    mounted = [each for each in mountinfo.read() if each.mountpoint == at]
    if not mounted:
        raise OSError(errno.EINVAL, "not a mountpoint", at)
    flags = syscalls.MS_REMOUNT | syscalls.MS_BIND
    if "noatime" in unwanted:
        flags |= syscalls.MS_RELATIME
    for each in wanted | ((set(mounted[-1].options.split(",")) & ATTRIBUTES.keys()) - unwanted):
        flags |= ATTRIBUTES[each][1]
    syscalls.mount(b"", decode(at), b"", flags, b"")
