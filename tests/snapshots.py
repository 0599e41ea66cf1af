# SPDX-License-Identifier: Apache-2.0
"""Trees that have one of everything, and all that can be seen of a tree; nothing of mountcr."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ACL", "CAPABILITY", "DEFAULT_ACL", "NAMES", "Seen", "fill", "snapshot"]

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""`struct vfs_cap_data`, revision 2: cap_net_bind_service, permitted and effective."""

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *each)
    for each in ((1, 6, 0xFFFFFFFF), (2, 4, 7), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF),
                 (32, 0, 0xFFFFFFFF))
)  # fmt: skip
"""An access ACL with an entry for a user, acl(5) and linux/posix_acl_xattr.h."""

DEFAULT_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *each)
    for each in ((1, 7, 0xFFFFFFFF), (2, 7, 7), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF),
                 (32, 0, 0xFFFFFFFF))
)  # fmt: skip

NAMES = [b"a", b"b", b"a b", b"\xff\xfe", b"new\nline", b"back\\slash", "ä".encode(), b"x" * 255]


class Seen(NamedTuple):
    """What is to be seen of one inode; `names` are its hard links in the tree."""

    mode: int
    uid: int
    gid: int
    mtime: int
    rdev: int
    target: bytes
    xattrs: dict[str, bytes]
    content: str
    names: frozenset[bytes]


def snapshot(top: bytes | str) -> dict[bytes, Seen]:
    """Give what is to be seen of every path of a tree, the root's is empty."""
    top = os.fsencode(top)
    paths = [b""]
    for directory, below, files in os.walk(top):
        inside = os.path.relpath(directory, top)
        paths += [os.path.normpath(os.path.join(inside, name)) for name in (*below, *files)]
    found = {path: os.lstat(os.path.join(top, path)) for path in paths}
    names: dict[int, set[bytes]] = {}
    for path, each in found.items():
        names.setdefault(each.st_ino, set()).add(path)
    return {
        path: _seen(os.path.join(top, path), each, frozenset(names[each.st_ino]))
        for path, each in found.items()
    }


def _seen(path: bytes, found: os.stat_result, names: frozenset[bytes]) -> Seen:
    content = ""
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    return Seen(
        mode=found.st_mode,
        uid=found.st_uid,
        gid=found.st_gid,
        mtime=found.st_mtime_ns,
        rdev=found.st_rdev,
        target=os.readlink(path) if stat.S_ISLNK(found.st_mode) else b"",
        xattrs=_xattrs(path),
        content=content,
        names=names,
    )


def _xattrs(path: bytes) -> dict[str, bytes]:
    """Give extended attributes; none where the file system knows none, as unionfs-fuse."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def fill(top: Path) -> None:
    """Make a tree that has one of everything."""
    (top / "dir" / "deep").mkdir(parents=True)
    (top / "dir" / "file").write_bytes(b"content" * 9000)
    (top / "dir" / "empty").touch()
    os.link(top / "dir" / "file", top / "a-link")
    os.link(top / "dir" / "file", top / "dir" / "deep" / "z-link")
    (top / "setuid").write_bytes(b"#!")
    os.chown(top / "setuid", 1000, 2000)
    os.chmod(top / "setuid", 0o6755)  # noqa: S103
    (top / "capable").write_bytes(b"#!")
    os.chown(top / "capable", 1000, 1000)
    os.setxattr(top / "capable", "security.capability", CAPABILITY)
    (top / "acl").write_bytes(b"x")
    os.setxattr(top / "acl", "system.posix_acl_access", ACL)
    os.setxattr(top / "acl", "user.note", b"\0\xff")
    os.setxattr(top / "acl", "user.empty", b"")
    os.setxattr(top / "dir", "system.posix_acl_default", DEFAULT_ACL)
    os.setxattr(top / "dir", "user.on", b"a directory")
    os.symlink(b"/nowhere/\xff", os.fsencode(top / "symlink"))
    os.setxattr(top / "symlink", "trusted.on", b"a symbolic link", follow_symlinks=False)
    os.chown(top / "symlink", 5, 6, follow_symlinks=False)
    os.mknod(top / "fifo", stat.S_IFIFO | 0o640)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(top / "null", 0o666)  # noqa: S103
    os.setxattr(top / "null", "trusted.on", b"a device")
    os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(top / "socket"))
    for name in NAMES[2:]:
        with open(os.path.join(os.fsencode(top), name), "wb") as file:
            file.write(name)
    os.chmod(top / "dir" / "deep", 0o1511)  # noqa: S103
    for number, path in enumerate(sorted(snapshot(os.fspath(top)), reverse=True)):
        at = 10**18 + number * 1_000_000_007
        os.utime(os.path.join(os.fsencode(top), path), ns=(at, at + 1), follow_symlinks=False)
