# SPDX-License-Identifier: Apache-2.0
"""
A place to try things: a tmpfs in a mount namespace of its own, over mountcr's run-time directory.

What is tried below it, FUSE servers and roots of restores included, finds the paths that it always
has and touches nothing of the host's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final, TypeVar

from mountcr.kernel import syscalls
from mountcr.kernel.locks import is_held_by_others
from mountcr.kernel.private import in_private_namespace
from mountcr.paths import KPath, decode

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SCRATCH", "in_scratch"]

T = TypeVar("T")

_RUN: Final = b"/run/mountcr"

SCRATCH: Final = KPath("/run/mountcr/scratch")
"""An empty directory on the tmpfs."""


def in_scratch(work: Callable[[], T]) -> T:
    """
    Call `work` in a private mount namespace where `SCRATCH` is an empty directory on a tmpfs.

    It runs in a forked child, see `in_private_namespace`, which says what is raised. The directory
    that mountcr has on the host is removed if it had to be made.
    """

    def prepared() -> T:
        syscalls.mount(b"mountcr", _RUN, b"tmpfs", 0, b"size=64m,mode=755")
        os.mkdir(decode(SCRATCH))
        return work()

    made = not os.path.isdir(_RUN)
    os.makedirs(_RUN, exist_ok=True)
    used = os.open(_RUN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(used, fcntl.LOCK_SH)
        return in_private_namespace(prepared)
    finally:
        if made:
            _remove(used)
        os.close(used)


def _remove(used: int) -> None:
    """
    Remove the directory unless somebody else works with it.

    For that one rmdir(2) would take away what is mounted there, see
    kernel-notes/rmdir-of-a-mountpoint.md.
    """
    if not is_held_by_others(used):
        with contextlib.suppress(OSError):
            os.rmdir(_RUN)
