# SPDX-License-Identifier: Apache-2.0
"""Pages of a process, as `ioctl(PAGEMAP_SCAN)` tells them: Documentation/admin-guide/mm/pagemap."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from mountcr.kernel._libc_ffi import ffi

__all__ = ["has_guards"]

_PAGEMAP_SCAN: Final = 0xC0606610
_PAGE_IS_GUARD: Final = 1 << 8
_ENDS: Final = tuple((1 << bits) - (1 << 16) for bits in (48, 47, 42, 39, 32))
"""Where the addresses of a process may end, whole pages; EFAULT if the kernel's end before."""

_ARGUMENTS: Final = struct.Struct("=12Q")
"""`struct pm_scan_arg` of include/uapi/linux/fs.h."""

_REGION: Final = 3
"""Numbers in a `struct page_region` there."""


def has_guards(pid: int) -> bool:
    """
    Tell whether a process has guard pages of `madvise(MADV_GUARD_INSTALL)` (Linux 6.13).

    Its page tables are walked as far as the first one. False where they may not be looked at, and
    where the kernel does not tell: Linux commit a516403787e0 ("fs/proc: extend the PAGEMAP_SCAN
    ioctl to report guard regions") (in v6.16).
    """
    try:
        fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _finds(fd)
    except OSError:
        return False
    finally:
        os.close(fd)


def _finds(fd: int) -> bool:
    """Look for one region in all that a process may address."""
    region = ffi.new("uint64_t[]", _REGION)
    address = int(ffi.cast("uintptr_t", region))
    guard = _PAGE_IS_GUARD
    for end in _ENDS:
        wanted = (_ARGUMENTS.size, 0, 0, end, 0, address, 1, 1, 0, guard, 0, guard)
        try:
            found: int = fcntl.ioctl(fd, _PAGEMAP_SCAN, bytearray(_ARGUMENTS.pack(*wanted)))
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
        else:
            return found > 0
    return False
