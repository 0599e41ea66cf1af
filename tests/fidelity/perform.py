# SPDX-License-Identifier: Apache-2.0
"""
Doing what a recipe says, beneath a directory and never outside of it.

Every path is walked from the root without following a symbolic link, by descriptors; what the file
system refuses is skipped and its error is the fate of the operation.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import stat
from functools import singledispatch
from typing import TYPE_CHECKING, Final

from fidelity import recipe as wish

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from fidelity.recipe import Operation

__all__ = ["attributes_of", "bytes_of", "perform"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_TYPES: Final = {
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "character": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}

_FALLOC_PUNCH: Final = 3
"""FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, fallocate(2)."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def perform(root: bytes, operations: Iterable[Operation], *, parents: bool = False) -> list[str]:
    """
    Do operations in order; give the fate of each, `ok` or the name of an error.

    With `parents`, missing directories on the way to something new are made.
    """
    fates: list[str] = []
    for each in operations:
        try:
            if parents and isinstance(each, _MAKING):
                _make_parents(root, each.path)
            _do(each, root)
        except OSError as error:
            fates.append(errno.errorcode.get(error.errno or 0, "unknown"))
        else:
            fates.append("ok")
    return fates


_MAKING: Final = (wish.Directory, wish.File, wish.Symlink, wish.Node)


def bytes_of(fill: int, length: int) -> bytes:
    """Give bytes that look like others with another `fill` nowhere."""
    return random.Random(fill).randbytes(length)  # noqa: S311  # has to be the same every time


def attributes_of(path: bytes) -> dict[bytes, bytes]:
    """Give the extended attributes of a path, none where the file system has none."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    found = ((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names))
    return {os.fsencode(name): value for name, value in found}


@contextlib.contextmanager
def _parent(root: bytes, path: bytes) -> Generator[tuple[int, bytes]]:
    """Open the directory that a path is in, beneath the root; give it and the last name."""
    *names, last = path.split(b"/") if path else [b"."]
    directory = os.open(root, _DIRECTORY)
    try:
        for name in names:
            below = os.open(name, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = below
        yield directory, last
    finally:
        os.close(directory)


@contextlib.contextmanager
def _opened(root: bytes, path: bytes, flags: int, mode: int = 0) -> Generator[int]:
    """Open a regular file; anything else is an error, so that nothing blocks."""
    with _parent(root, path) as (directory, name):
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fd = os.open(name, flags | _FILE, mode, dir_fd=directory)
        try:
            yield fd
        finally:
            os.close(fd)


def _make_parents(root: bytes, path: bytes) -> None:
    names = path.split(b"/")[:-1]
    for count in range(1, len(names) + 1):
        path = b"/".join(names[:count])
        with _parent(root, path) as (directory, name), contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=directory)


def _by_descriptor(directory: int, name: bytes) -> bytes:
    """Give a path for calls that know no directory descriptor."""
    return b"/proc/self/fd/%d/%s" % (directory, name)


@singledispatch
def _do(operation: object, root: bytes) -> None:
    raise TypeError(operation)


@_do.register
def _(operation: wish.Directory, root: bytes) -> None:
    with _parent(root, operation.path) as (directory, name):
        os.mkdir(name, dir_fd=directory)
        os.chmod(name, operation.mode, dir_fd=directory)


@_do.register
def _(operation: wish.File, root: bytes) -> None:
    with _opened(root, operation.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) as fd:
        for offset, length in operation.data:
            _write(fd, bytes_of(operation.fill + offset, length), offset)
        os.ftruncate(fd, operation.size)
        os.fchmod(fd, operation.mode)


@_do.register
def _(operation: wish.Symlink, root: bytes) -> None:
    with _parent(root, operation.path) as (directory, name):
        os.symlink(operation.target, name, dir_fd=directory)


@_do.register
def _(operation: wish.Node, root: bytes) -> None:
    with _parent(root, operation.path) as (directory, name):
        device = os.makedev(operation.major, operation.minor)
        os.mknod(name, _TYPES[operation.kind] | operation.mode, device, dir_fd=directory)


@_do.register
def _(operation: wish.Link, root: bytes) -> None:
    with (
        _parent(root, operation.source) as (source, source_name),
        _parent(root, operation.path) as (directory, name),
    ):
        os.link(source_name, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)


@_do.register
def _(operation: wish.Write, root: bytes) -> None:
    append = operation.offset < 0
    with _opened(root, operation.path, os.O_WRONLY | (os.O_APPEND if append else 0)) as fd:
        content = bytes_of(operation.fill, operation.length)
        if append:
            os.write(fd, content)
        else:
            _write(fd, content, operation.offset)


@_do.register
def _(operation: wish.Truncate, root: bytes) -> None:
    with _opened(root, operation.path, os.O_WRONLY) as fd:
        os.ftruncate(fd, operation.size)


@_do.register
def _(operation: wish.Punch, root: bytes) -> None:
    with _opened(root, operation.path, os.O_RDWR) as fd:
        offset, length = ctypes.c_int64(operation.offset), ctypes.c_int64(operation.length)
        if _LIBC.fallocate64(fd, _FALLOC_PUNCH, offset, length):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


@_do.register
def _(operation: wish.Chmod, root: bytes) -> None:
    with _parent(root, operation.path) as (directory, name):
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        os.chmod(name, operation.mode, dir_fd=directory)


@_do.register
def _(operation: wish.Chown, root: bytes) -> None:
    with _parent(root, operation.path) as (directory, name):
        os.chown(name, operation.uid, operation.gid, dir_fd=directory, follow_symlinks=False)


@_do.register
def _(operation: wish.Times, root: bytes) -> None:
    times = operation.atime, operation.mtime
    with _parent(root, operation.path) as (directory, name):
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


@_do.register
def _(operation: wish.SetXattr, root: bytes) -> None:
    with _parent(root, operation.path) as (directory, name):
        path = _by_descriptor(directory, name)
        os.setxattr(path, operation.name, operation.value, follow_symlinks=False)


@_do.register
def _(operation: wish.RemoveXattr, root: bytes) -> None:
    with _parent(root, operation.path) as (directory, name):
        path = _by_descriptor(directory, name)
        os.removexattr(path, operation.name, follow_symlinks=False)


@_do.register
def _(operation: wish.Move, root: bytes) -> None:
    with (
        _parent(root, operation.path) as (source, source_name),
        _parent(root, operation.to) as (directory, name),
    ):
        try:
            os.rename(source_name, name, src_dir_fd=source, dst_dir_fd=directory)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(name, dir_fd=directory)  # rename(2) replaces one that is empty
            _copy(_by_descriptor(source, source_name), _by_descriptor(directory, name))
            _remove(source, source_name)


@_do.register
def _(operation: wish.Remove, root: bytes) -> None:
    with _parent(root, operation.path) as (directory, name):
        _remove(directory, name)


def _write(fd: int, content: bytes, offset: int) -> None:
    while content:
        done = os.pwrite(fd, content, offset)
        content, offset = content[done:], offset + done


def _remove(directory: int, name: bytes) -> None:
    if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=directory)
        return
    inside = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        for each in os.listdir(inside):
            _remove(inside, os.fsencode(each))
    finally:
        os.close(inside)
    os.rmdir(name, dir_fd=directory)


def _copy(source: bytes, into: bytes) -> None:
    """Copy a tree as mv(1) does where it cannot rename, but for hard links."""
    found = os.stat(source, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode):
        os.mkdir(into)
        for name in os.listdir(source):
            _copy(source + b"/" + name, into + b"/" + name)
    elif stat.S_ISREG(found.st_mode):
        with open(source, "rb") as reader, open(into, "xb") as writer:
            writer.write(reader.read())
    elif stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source), into)
    else:
        os.mknod(into, found.st_mode, found.st_rdev)
    os.chown(into, found.st_uid, found.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(into, stat.S_IMODE(found.st_mode))
    for name, value in attributes_of(source).items():
        os.setxattr(into, name, value, follow_symlinks=False)
    os.utime(into, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)
