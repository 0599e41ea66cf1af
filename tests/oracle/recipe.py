# SPDX-License-Identifier: Apache-2.0
"""
A random container as plain data: its root and what is mounted in it, in order.

A recipe is a wish. The kernel refuses some of its operations, which are skipped then; what the
mount table shows in the end is the container. Paths are bytes, as the container sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = [
    "DIRECTORIES",
    "FILES",
    "HELD",
    "KINDS",
    "SOURCES",
    "SYSTEM",
    "Attributes",
    "BindInside",
    "BindOutside",
    "Deleted",
    "Device",
    "Hold",
    "Mask",
    "Move",
    "Nested",
    "Open",
    "Operation",
    "Overlay",
    "Propagate",
    "Pseudo",
    "Recipe",
    "Remount",
    "Tmpfs",
    "show",
]

DIRECTORIES: Final = (
    b"/data",
    b"/srv/app",
    b"/mnt/vol",
    b"/var/lib/x",
    b"/run",
    b"/opt/a b",
    b"/opt/c:d",
    b"/opt/n\xff\xfe",
    b"/opt/b\\134s",
    b"/opt/com,ma",
    b"/var/cache",
    b"/var/log",
    b"/mnt/other",
    b"/srv/www",
    b"/home",
    b"/tmp",
)
"""Directories of every root; names on which parsers stumble are among them."""

HELD: Final = ("memfd", "eventfd", "pidfd", "fscontext", "io_uring", "secretmem")
"""What a task may have a descriptor of; the last three CRIU does not dump."""

SYSTEM: Final = (b"/proc", b"/sys", b"/dev", b"/dev/pts", b"/dev/shm", b"/dev/mqueue")
"""Where a container has its pseudo file systems; `/dev` and what is in it are in every root."""

FILES: Final = (
    b"/etc/hosts",
    b"/etc/resolv.conf",
    b"/etc/secret",
    b"/etc/hostname",
    b"/etc/localtime",
    b"/etc/passwd",
    b"/var/lib/token",
    b"/opt/c:d/file",
    b"/opt/n\xff\xfe/file",
    b"/srv/app/config",
    b"/opt/a b/file",
)
"""Regular files of every root."""

SOURCES: Final = {
    "directory": "a directory",
    "file": "a regular file",
    "private": "a directory that is a private mount",
    "shared": "a directory that is a shared mount",
    "tmpfs": "the whole of a private tmpfs",
    "shared-tmpfs": "the whole of a shared tmpfs",
    "in-tmpfs": "a directory of a shared tmpfs",
    "tree": "a shared directory with mounts in it",
    "ramfs": "the whole of a file system that CRIU cannot mount",
    "ext4": "the whole of an ext4 on a loop device",
}
"""What a container can be given from the host."""


@dataclass(frozen=True)
class Tmpfs:
    """A tmpfs with `files` files and one more level of directories in it."""

    at: bytes
    files: int = 0
    attributes: tuple[str, ...] = ()
    options: bytes = b""
    source: bytes = b"tmpfs"


@dataclass(frozen=True)
class Pseudo:
    """One of proc, sysfs, devpts, mqueue, cgroup2."""

    fstype: str
    at: bytes
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BindInside:
    """A bind of a directory or a file that the container sees itself."""

    source: bytes
    at: bytes
    file: bool = False
    recursive: bool = False
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BindOutside:
    """
    A bind of one of `SOURCES`; `recursive` for the mounts below it too.

    `propagation` is `kept` to stay in the peer group of the source, if it is in one; `both` makes
    it a slave that is shared on.
    """

    source: str
    at: bytes
    propagation: str = "private"
    recursive: bool = False
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Device:
    """A device node of the host's /dev, bound one by one."""

    name: str
    at: bytes
    propagation: str = "private"


@dataclass(frozen=True)
class Mask:
    """A file hidden by the container's own /dev/null or, `outside`, by the host's."""

    at: bytes
    outside: bool = False


@dataclass(frozen=True)
class Deleted:
    """A bind, from inside, of a file or an empty directory that is then removed."""

    source: bytes
    at: bytes
    file: bool = False


@dataclass(frozen=True)
class Overlay:
    """
    An overlay in the container; `layers` says where these are.

    `root` is the container's root file system, `tmpfs` one of the container's tmpfs, at `where`,
    `host` a directory of the host. It is read-only without `upper`.
    """

    at: bytes
    layers: str
    where: bytes = b""
    upper: bool = False


@dataclass(frozen=True)
class Move:
    """A mount that is moved."""

    source: bytes
    at: bytes


@dataclass(frozen=True)
class Attributes:
    """Attributes that are added to a mount: `ro`, as by a bind remount, or others."""

    at: bytes
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class Remount:
    """A superblock that is made read-only."""

    at: bytes


@dataclass(frozen=True)
class Propagate:
    """Propagation: private, shared, slave or unbindable, maybe of all below."""

    at: bytes
    propagation: str
    recursive: bool = False


@dataclass(frozen=True)
class Open:
    """A file in a directory that the root task holds open."""

    directory: bytes
    write: bool = False


@dataclass(frozen=True)
class Nested:
    """A child task in a mount namespace of its own, and what it does there."""

    propagation: str
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True)
class Hold:
    """A descriptor of the root task that is of no file, one of `HELD`."""

    what: str


Operation: TypeAlias = (
    Tmpfs
    | Pseudo
    | BindInside
    | BindOutside
    | Device
    | Mask
    | Deleted
    | Overlay
    | Move
    | Attributes
    | Remount
    | Propagate
    | Open
    | Hold
    | Nested
)


@dataclass(frozen=True)
class Recipe:
    """
    A container: `lowers` overlay layers below a writable one, or with 0 a plain directory.

    `propagation` is that of the root: `private`, `slave` of the host's mount, or `shared`, a group
    of the container's own.
    """

    seed: int
    lowers: int
    propagation: str = "private"
    operations: tuple[Operation, ...] = ()


def show(recipe: Recipe) -> str:
    """Give a recipe as text, an operation a line."""
    root = f"overlay of {recipe.lowers} lowers" if recipe.lowers else "plain directory"
    lines = [f"seed {recipe.seed}: {root}, {recipe.propagation}"]
    for operation in recipe.operations:
        if isinstance(operation, Nested):
            lines.append(f"  Nested {operation.propagation}")
            lines += [f"    {each!r}" for each in operation.operations]
        else:
            lines.append(f"  {operation!r}")
    return "\n".join(lines)


KINDS: Final = (
    Tmpfs,
    Pseudo,
    BindInside,
    BindOutside,
    Device,
    Mask,
    Deleted,
    Overlay,
    Move,
    Attributes,
    Remount,
    Propagate,
    Open,
    Hold,
    Nested,
)
"""Every kind of operation there is."""
