# SPDX-License-Identifier: Apache-2.0
"""
Mount tables: `/proc/<pid>/mountinfo` to `Mount` records and back, without losing a byte.

Format: proc_pid_mountinfo(5); fs/proc_namespace.c, `show_mountinfo()`. Fields are separated by
one space each, so an empty source (a mount(2) with source "") is an empty field. A line may be
longer than a page: overlay prints every layer. Parsing decides nothing about what it reads.
"""

from __future__ import annotations

from typing import Final

from mountcr.errors import PlanError
from mountcr.model import Mount, MountId
from mountcr.paths import KPath, from_line, to_line

__all__ = ["format_line", "format_table", "parse_line", "parse_table", "read"]

_FIXED: Final = 6
"""Fields before the optional ones: id, parent, dev, root, mountpoint, options."""


def parse_line(line: bytes) -> Mount:
    """
    Parse one line, without its newline.

    Raises PlanError when it is not a line of mountinfo.
    """
    fields = line.split(b" ")
    try:
        separator = fields.index(b"-", _FIXED)
        identity, parent = int(fields[0]), int(fields[1])
    except ValueError:
        msg = f"not a line of mountinfo: {from_line(line)[:80]!r}"
        raise PlanError(msg, hint="see proc_pid_mountinfo(5) for the format") from None
    fstype, source, super_options = _tail(fields[separator + 1 :])
    return Mount(
        id=MountId(identity),
        parent=MountId(parent),
        dev=from_line(fields[2]),
        root=from_line(fields[3]),
        mountpoint=from_line(fields[4]),
        options=from_line(fields[5]),
        optional=tuple(map(from_line, fields[_FIXED:separator])),
        fstype=fstype,
        source=source,
        super_options=super_options,
    )


def _tail(fields: list[bytes]) -> tuple[KPath, KPath | None, KPath]:
    """Split what follows the separator; with two fields there is no source at all."""
    if len(fields) < 2:  # noqa: PLR2004
        msg = f"a line of mountinfo ends early: {b' '.join(fields)!r}"
        raise PlanError(msg, hint="see proc_pid_mountinfo(5) for the format")
    if len(fields) == 2:  # noqa: PLR2004
        return from_line(fields[0]), None, from_line(fields[1])
    return from_line(fields[0]), from_line(fields[1]), from_line(b" ".join(fields[2:]))


def format_line(mount: Mount) -> bytes:
    """Give the line that `parse_line` took."""
    fields = [
        b"%d" % mount.id,
        b"%d" % mount.parent,
        to_line(mount.dev),
        to_line(mount.root),
        to_line(mount.mountpoint),
        to_line(mount.options),
        *map(to_line, mount.optional),
        b"-",
        to_line(mount.fstype),
    ]
    if mount.source is not None:
        fields.append(to_line(mount.source))
    return b" ".join([*fields, to_line(mount.super_options)])


def parse_table(text: bytes) -> tuple[Mount, ...]:
    """
    Parse a whole table.

    Raises PlanError naming the line that is none, or that is cut: the kernel ends every line with
    a newline.
    """
    mounts: list[Mount] = []
    lines = text.split(b"\n")
    if lines.pop():
        msg = f"line {len(lines) + 1}: the mount table is cut, its last line has no newline"
        raise PlanError(msg, hint="read /proc/PID/mountinfo again, to its end")
    for number, line in enumerate(lines, 1):
        try:
            mounts.append(parse_line(line))
        except PlanError as error:
            msg = f"line {number}: {error.message}"
            raise PlanError(msg, hint=error.hint) from None
    return tuple(mounts)


def format_table(mounts: tuple[Mount, ...]) -> bytes:
    """Give the text that `parse_table` took."""
    return b"".join(format_line(mount) + b"\n" for mount in mounts)


def read(pid: int | None = None) -> tuple[Mount, ...]:
    """
    Read the mount table of a task, or of the calling thread.

    Raises OSError; EINVAL is a zombie, whose mount namespace is gone.
    """
    path = f"/proc/{pid}/mountinfo" if pid else "/proc/thread-self/mountinfo"
    with open(path, "rb") as file:
        return parse_table(file.read())
