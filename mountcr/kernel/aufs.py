# SPDX-License-Identifier: Apache-2.0
"""
Mounting AUFS: what goes into a page by mount(2), the rest by remounts that append branches.

No kernel has AUFS by itself; one without it says so when it is mounted.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from mountcr import mountinfo
from mountcr.aufsopts import AufsOptions, format_options, options_of
from mountcr.errors import CapabilityError, StepError
from mountcr.kernel import syscalls
from mountcr.observation.aufs import with_branches
from mountcr.paths import KPath, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.aufsopts import Branch

__all__ = ["mount_aufs"]

_MISSING_HINT: Final = "rebuild it on another driver: --driver overlay, vfs or unionfs"
_LAYER_HINT: Final = "the image was removed since the dump; pull it again, by digest"


def mount_aufs(at: KPath, options: AufsOptions) -> None:
    """
    Mount AUFS at a directory and compare the result with what was asked.

    Without a writable branch the superblock is read-only. Raises RefusedError, before anything is
    mounted, for a branch that AUFS has no words for, StepError naming the branch that is gone,
    CapabilityError when the kernel has no AUFS, OSError otherwise. Nothing stays mounted on
    failure.
    """
    first, *more = format_options(options)
    _check_branches(options.branches)
    writable = any(branch.writable for branch in options.branches)
    flags = 0 if writable else syscalls.MS_RDONLY
    try:
        syscalls.mount(b"none", decode(at), b"aufs", flags, first)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        msg = f"aufs at {at}: this kernel has no AUFS"
        raise CapabilityError(msg, probe="aufs", hint=_MISSING_HINT) from error
    try:
        for data in more:
            syscalls.mount(b"none", decode(at), b"aufs", flags | syscalls.MS_REMOUNT, data)
        _compare(at, options.branches)
    except BaseException:
        syscalls.umount2(decode(at), syscalls.MNT_DETACH)
        raise


def _check_branches(branches: Sequence[Branch]) -> None:
    """Name the missing branch, which the kernel does not: it answers EINVAL for any of them."""
    for number, branch in enumerate(branches):
        if not os.path.isdir(decode(branch.path)):
            msg = f"branch {number} of {len(branches)} ({branch.permission}) is gone: {branch.path}"
            raise StepError(msg, errno=errno.ENOENT, hint=_LAYER_HINT)


def _compare(at: KPath, wanted: Sequence[Branch]) -> None:
    """Read the mount back: the branches, their order and what AUFS made of their permissions."""
    mounted = [each for each in mountinfo.read() if each.mountpoint == at][-1:]
    found = options_of(with_branches(mounted[0])).branches if mounted else ()
    if not found:
        msg = f"aufs at {at}: nobody tells what the kernel mounted"
        raise StepError(msg, errno=errno.EIO, hint="mount sysfs at /sys")
    if _real(wanted) != _real(found):
        msg = f"aufs at {at}: the kernel mounted other branches than asked: {_shown(found)}, "
        raise StepError(f"{msg}not {_shown(wanted)}", errno=errno.EIO)


def _real(branches: Sequence[Branch]) -> list[tuple[bytes, str]]:
    """Resolve links on the way: AUFS shows the real path."""
    return [(os.path.realpath(decode(each.path)), each.permission) for each in branches]


def _shown(branches: Sequence[Branch]) -> str:
    return ":".join(f"{each.path}={each.permission}" for each in branches)
