# SPDX-License-Identifier: Apache-2.0
"""
Which options of OverlayFS a kernel knows, found by mounting with each.

Only a mount tells: before Linux 6.5 fsconfig(2) takes any option of an overlay and mount(2) alone
refuses it. One that is known and that the file system of the layers cannot fulfil is dropped with
a word in the kernel's log, and counts as known.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from mountcr.kernel import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["probe_overlay_options"]

_BY_DATA: Final = {
    "redirect_dir": b"redirect_dir=on",
    "index": b"index=on",
    "nfs_export": b"index=on,nfs_export=on",
    "xino": b"xino=on",
    "metacopy": b"metacopy=on",
    "volatile": b"volatile",
    "userxattr": b"userxattr",
    "uuid": b"uuid=on",
    "verity": b"verity=on",
}
"""Options by name, and what mount(2) is given to see whether there is one."""

_SOURCE: Final = b"overlay"


def probe_overlay_options(scratch: bytes) -> dict[str, bool]:
    """
    Mount small overlays in an empty directory, on a file system that can take an upper.

    Gives whether each option is known, `lowerdir+`, `datadir+` and layers by descriptor among
    them. Nothing stays mounted; the directories stay. Works in a private namespace only.
    """
    found = {name: _succeeds(_by_data, scratch, name, data) for name, data in _BY_DATA.items()}
    found["data-only layers"] = _succeeds(_data_only, scratch)
    found["lowerdir+"] = _succeeds(_one_by_one, scratch, b"lowerdir+")
    found["datadir+"] = _succeeds(_one_by_one, scratch, b"datadir+")
    found["layers by descriptor"] = _succeeds(_by_descriptor, scratch)
    return found


def _succeeds(attempt: Callable[..., None], *arguments: object) -> bool:
    try:
        attempt(*arguments)
    except OSError:
        return False
    return True


def _directories(scratch: bytes, name: str, *parts: bytes) -> list[bytes]:
    """Make directories for one attempt; a work directory that was used is not used again."""
    found = [os.path.join(scratch, name.encode(), part) for part in parts]
    for each in found:
        os.makedirs(each, exist_ok=True)
    return found


def _mount(at: bytes, data: bytes) -> None:
    syscalls.mount(_SOURCE, at, b"overlay", 0, data)
    syscalls.umount2(at, syscalls.MNT_DETACH)


def _by_data(scratch: bytes, name: str, data: bytes) -> None:
    lower, upper, work, at = _directories(scratch, name, b"l", b"u", b"w", b"m")
    _mount(at, b"lowerdir=%s,upperdir=%s,workdir=%s,%s" % (lower, upper, work, data))


def _data_only(scratch: bytes) -> None:
    lower, data, at = _directories(scratch, "data", b"l", b"d", b"m")
    _mount(at, b"metacopy=on,lowerdir=%s::%s" % (lower, data))


def _one_by_one(scratch: bytes, key: bytes) -> None:
    lower, more = _directories(scratch, "one-by-one", b"l", b"d")
    with contextlib.ExitStack() as stack:
        context = syscalls.fsopen(b"overlay", syscalls.FSOPEN_CLOEXEC)
        stack.callback(os.close, context)
        if key == b"datadir+":
            syscalls.fsconfig_string(context, b"metacopy", b"on")
        syscalls.fsconfig_string(context, b"lowerdir+", lower)
        syscalls.fsconfig_string(context, key, more)
        syscalls.fsconfig_create(context)


def _by_descriptor(scratch: bytes) -> None:
    (lower,) = _directories(scratch, "descriptor", b"l")
    with contextlib.ExitStack() as stack:
        context = syscalls.fsopen(b"overlay", syscalls.FSOPEN_CLOEXEC)
        stack.callback(os.close, context)
        layer = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, layer)
        syscalls.fsconfig_fd(context, b"lowerdir+", layer)
