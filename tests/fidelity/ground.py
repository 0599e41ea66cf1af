# SPDX-License-Identifier: Apache-2.0
"""
The ground truth: what a tree holds, by plain system calls, and how two trees differ.

Independent of every reader of mountcr. The time of access and the inode numbers are not compared,
sizes are those of regular files and symbolic links, and a file may lie on fewer blocks than before
but not on more.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from fidelity.perform import attributes_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "FIELDS",
    "Difference",
    "Entry",
    "Snapshot",
    "compare",
    "digest_of",
    "take",
    "with_stored_xattrs",
]

_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME

_CHUNK: Final = 1 << 20

_LONGEST: Final = 200
"""Characters of a value that are shown."""

_TYPES: Final = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
}


class Entry(NamedTuple):
    """
    What is at a path. `type` is the name of an error where it could not be read.

    `links` are all names of the same inode, this one included; `blocks` have 512 bytes.
    """

    type: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    digest: str = ""
    rdev: tuple[int, int] = (0, 0)
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    links: frozenset[bytes] = frozenset()
    blocks: int = 0


Snapshot = dict[bytes, Entry]

FIELDS: Final = Entry._fields


class Difference(NamedTuple):
    """A path, the field in which it differs, and both values to be read."""

    path: bytes
    field: str
    wanted: str
    found: str

    def __str__(self) -> str:
        """Give a line to be read."""
        return f"{self.path!r}: {self.field}: {self.wanted} became {self.found}"


def take(root: bytes) -> Snapshot:
    """Give everything beneath a directory, itself as `b""`."""
    found: Snapshot = {}
    names: defaultdict[tuple[int, int], set[bytes]] = defaultdict(set)
    inodes: dict[bytes, tuple[int, int]] = {}
    left = [b""]
    while left:
        path = left.pop()
        full = root + b"/" + path if path else root
        try:
            status = os.lstat(full)
            found[path] = _entry(full, status)
            if stat.S_ISDIR(status.st_mode):
                left += [path + b"/" + name if path else name for name in os.listdir(full)]
            elif status.st_nlink > 1:
                inodes[path] = status.st_dev, status.st_ino
                names[inodes[path]].add(path)
        except FileNotFoundError:
            continue  # unionfs-fuse lists names that it does not have
        except OSError as error:
            found[path] = Entry(errno.errorcode.get(error.errno or 0, "unknown"))
    for path, inode in inodes.items():
        if len(names[inode]) > 1 and path in found:
            found[path] = found[path]._replace(links=frozenset(names[inode]))
    return found


def _entry(path: bytes, status: os.stat_result) -> Entry:
    kind = _TYPES[stat.S_IFMT(status.st_mode)]
    is_file, is_device = kind == "file", kind in {"character", "block"}
    rdev = (os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0)
    return Entry(
        type=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        size=status.st_size if is_file or kind == "symlink" else 0,
        digest=_digest(path) if is_file else "",
        rdev=rdev,
        target=os.readlink(path) if kind == "symlink" else b"",
        xattrs=tuple(attributes_of(path).items()),
        blocks=status.st_blocks if is_file else 0,
    )


def _digest(path: bytes) -> str:
    try:
        fd = os.open(path, _FILE)
    except PermissionError:  # FUSE lets the owner of the daemon only
        fd = os.open(path, _FILE & ~os.O_NOATIME)
    try:
        return digest_of(fd)
    finally:
        os.close(fd)


def digest_of(fd: int) -> str:
    """Give the first digits of the SHA-256 of what an open file has from where it is on."""
    digest = hashlib.sha256()
    while chunk := os.read(fd, _CHUNK):
        digest.update(chunk)
    return digest.hexdigest()[:16]


def with_stored_xattrs(found: Snapshot, branches: Sequence[bytes]) -> Snapshot:
    """
    Take extended attributes from the topmost branch that has the path, for a union that has none.

    unionfs-fuse 1.0 of Debian 12 answers ENOTSUP to every call about them; they are on the disk
    all the same, and seen on any other driver.
    """
    return {
        path: entry._replace(xattrs=_stored_xattrs(path, branches)) for path, entry in found.items()
    }


def _stored_xattrs(path: bytes, branches: Sequence[bytes]) -> tuple[tuple[bytes, bytes], ...]:
    for branch in branches:
        full = branch + b"/" + path if path else branch
        if os.path.lexists(full):
            return tuple(attributes_of(full).items())
    return ()


def compare(wanted: Mapping[bytes, Entry], found: Mapping[bytes, Entry]) -> list[Difference]:
    """Give the differences of two trees, by path."""
    differences: list[Difference] = []
    for path in sorted(wanted.keys() | found.keys()):
        old, new = wanted.get(path), found.get(path)
        if old is None or new is None:
            there = ("nothing" if each is None else f"a {each.type}" for each in (old, new))
            differences.append(Difference(path, "existence", *there))
        elif old != new:
            differences += _fields(path, old, new)
    return differences


def _fields(path: bytes, old: Entry, new: Entry) -> list[Difference]:
    if old.type != new.type:
        return [Difference(path, "type", old.type, new.type)]
    return [
        Difference(path, name, _shown(name, before), _shown(name, after))
        for name, before, after in zip(FIELDS, old, new, strict=True)
        if before != after and not (name == "blocks" and new.blocks < old.blocks)
    ]


def _shown(field: str, value: object) -> str:
    if field == "mode" and isinstance(value, int):
        return oct(value)
    if field == "links":
        return repr(sorted(cast("frozenset[bytes]", value)))
    shown = repr(value)
    return f"{shown[:_LONGEST]}..." if len(shown) > _LONGEST else shown
