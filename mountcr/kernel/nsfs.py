# SPDX-License-Identifier: Apache-2.0
"""
Mount namespaces by descriptor: their 64-bit ids, and all of them, one after another.

Format: include/uapi/linux/nsfs.h, of Linux 6.12. Elsewhere than on most architectures the numbers
are others, so that the answer is ENOTTY as of an older kernel.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["all_mount_namespaces", "mount_namespace_info"]

_NS_MNT_GET_INFO: Final = 0x8010B70A
_NS_MNT_GET_NEXT: Final = 0x8010B70B
_NS_MNT_GET_PREV: Final = 0x8010B70C

_INFO: Final = struct.Struct("=IIQ")
"""struct mnt_ns_info: its size, how many mounts, the id."""


def mount_namespace_info(fd: int) -> tuple[int, int]:
    """
    Give the 64-bit id of a mount namespace and how many mounts are in it, without its own root.

    Raises OSError: ENOTTY before Linux 6.12, EINVAL for what is no mount namespace.
    """
    info = bytearray(_INFO.size)
    fcntl.ioctl(fd, _NS_MNT_GET_INFO, info)
    _, count, number = _INFO.unpack(info)
    return number, count


def all_mount_namespaces() -> Generator[int]:
    """
    Give a descriptor of each mount namespace of the machine, the caller's included.

    It is valid until the next one is asked for. Left out is what the caller may not see; before
    Linux 6.12 that is all but its own.
    """
    for request in (_NS_MNT_GET_PREV, _NS_MNT_GET_NEXT):
        current = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if request == _NS_MNT_GET_NEXT:
                yield current
            while (following := _neighbour(current, request)) is not None:
                os.close(current)
                current = following
                yield current
        finally:
            os.close(current)


def _neighbour(fd: int, request: int) -> int | None:
    """Give the namespace next to one in the order of ids, which the caller owns; None at an end."""
    try:
        found: int = fcntl.ioctl(fd, request, bytearray(_INFO.size))
    except OSError:
        return None
    return found
