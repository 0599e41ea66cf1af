# SPDX-License-Identifier: Apache-2.0
"""
What /proc/<pid>/fdinfo tells of a descriptor, see proc_pid_fdinfo(5).

Lines are `key:<tab>value`; those of marks repeat and hold pairs of their own, in hexadecimal
(fs/notify/fdinfo.c).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from mountcr import devices
from mountcr.model import Mark

__all__ = ["FdInfo", "mount_id", "parse", "read"]

_OVERLAY_HANDLE: Final = re.compile(
    r"0{6}00fb[0-9a-f]{2}[0-9a-f]{2}(?P<type>[0-9a-f]{2})[0-9a-f]{32}(?P<ino>[0-9a-f]{8})"
)
"""Version 0 with the magic number 0xfb; text in hexadecimal."""

_INODE_FIRST: Final = frozenset({1, 2})
"""Handles that begin with an inode number of 32 bits (include/linux/exportfs.h)."""


class FdInfo(NamedTuple):
    """
    One fdinfo file; what it does not tell is -1, False, None or empty.

    `pidfd` is the process of a pidfd: -1 when it was reaped, 0 outside of the namespace of /proc.
    """

    mnt_id: int
    flags: int
    position: int
    locked: bool
    tty_index: int
    marks: tuple[Mark, ...]
    pidfd: int | None = None


def read(path: str) -> FdInfo:
    """Read a fdinfo file. Raises OSError."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return parse(file.read())


def mount_id(fd: int) -> int:
    """Give the id of the mount that an open descriptor of ours is on; -1 before Linux 3.15."""
    return read(f"/proc/thread-self/fdinfo/{fd}").mnt_id


def parse(text: str) -> FdInfo:
    """Parse the text of a fdinfo file."""
    found: dict[str, str] = {}
    marks: list[Mark] = []
    for line in text.splitlines():
        if line.startswith(("inotify ", "fanotify ")):
            marks.extend(_marks(line))
            continue
        key, _, value = line.partition(":")
        found[key] = value.strip()
    return FdInfo(
        mnt_id=int(found.get("mnt_id", "-1")),
        flags=int(found.get("flags", "0"), 8),
        position=int(found.get("pos", "-1")),
        locked="lock" in found,
        tty_index=int(found.get("tty-index", "-1")),
        marks=tuple(marks),
        pidfd=int(found["Pid"]) if "Pid" in found else None,
    )


def _marks(line: str) -> list[Mark]:
    """Parse a line of a mark; that of the flags of a whole fanotify group is none."""
    kind, *words = line.split()
    found = {key: value for key, _, value in (word.partition(":") for word in words)}
    if not {"ino", "mnt_id", "sdev"} & found.keys():
        return []
    return [
        Mark(
            kind=kind,
            wd=int(found.get("wd", "-1"), 16),
            dev=devices.of_kernel(int(found.get("sdev", "0"), 16)),
            ino=int(found.get("ino", "0"), 16),
            handle=int(found.get("fhandle-type", "-1"), 16),
            mnt_id=int(found.get("mnt_id", "-1"), 16),
            inner=_inner(found.get("f_handle", "")),
        )
    ]


def _inner(handle: str) -> int:
    """
    Give the inode number of the layer that a file handle of overlay holds, -1 for another one.

    After three bytes of padding come version, magic number, length, flags, type of the handle of
    the layer's file system, its UUID and that handle (fs/overlayfs/overlayfs.h, `struct ovl_fh`,
    since Linux 5.5).
    """
    match = _OVERLAY_HANDLE.match(handle)
    if match is None or int(match["type"], 16) not in _INODE_FIRST:
        return -1
    return int.from_bytes(bytes.fromhex(match["ino"]), "little")
