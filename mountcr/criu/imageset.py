# SPDX-License-Identifier: Apache-2.0
"""
Files of an images directory, replaced all at once.

One file is written beside the old one and renamed over it. For several, a directory beside the old
one gets the new files and a hard link of every other, and both change places (renameat2(2),
RENAME_EXCHANGE). However that ends, the directory at the path is wholly the old or wholly the new
one, on the disk too. What is left of it beside has a name that begins with `.NAME.mountcr-`, NAME
being that of the file or directory, and goes with the next try, also if that has nothing to do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from mountcr.errors import ImageError, LeftBehindError, RefusedError, StepError
from mountcr.kernel import syscalls
from mountcr.kernel.locks import is_held_by_others
from mountcr.kernel.removal import remove_beneath
from mountcr.paths import decode, encode

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from mountcr.paths import KPath

__all__ = ["replace"]

_MARK: Final = b".mountcr-"
_LONGEST_NAME: Final = 255
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_EXCHANGE_FAILED: Final = {
    errno.EBUSY: ("it is a mountpoint", "copy the images to a directory that is none"),
    **dict.fromkeys(
        (errno.EINVAL, errno.EXDEV, errno.ENOSYS),
        (
            "this file system cannot exchange directories",
            "copy the images to another one, as ext4, xfs, btrfs or tmpfs",
        ),
    ),
}


def replace(directory: KPath, contents: Mapping[str, bytes], *, locked: bool = False) -> None:
    """
    Give files of a directory, by their names, other contents; owners and modes stay.

    `locked` tells that the caller keeps others from doing so (flock(2) of the directory).

    Whoever has the directory open, or as its working directory, keeps the old one where several
    files are replaced. Raises ImageError for a directory that holds another, RefusedError while
    somebody else does this, StepError where a file cannot be linked or the directory not exchanged,
    and OSError: then nothing is changed, unless it is the disk that fails at the very end. Raises
    LeftBehindError when the directory that is not wanted, the old or the new one, stays beside.
    """
    place = os.path.realpath(decode(directory))
    new = {os.fsencode(name): content for name, content in contents.items()}
    with _held(place, directory, locked=locked) as fd:
        _clean_up(fd, place)
        if len(new) == 1:
            _replace_file(fd, *new.popitem())
        elif new:
            _replace_directory(fd, place, new)


@contextlib.contextmanager
def _held(place: bytes, directory: KPath, *, locked: bool) -> Generator[int]:
    """Open a directory for a block and keep everybody else from doing so meanwhile."""
    while True:
        fd = os.open(place, _OPEN)
        try:
            if not locked and is_held_by_others(fd):
                msg = f"another mountcr is just working with {directory}"
                raise RefusedError(msg, hint="wait until it is done")
            # What was exchanged between opening and locking is no longer the one at the path.
            if os.path.samestat(os.fstat(fd), os.stat(place)):
                yield fd
                return
        finally:
            os.close(fd)


def _replace_file(fd: int, name: bytes, content: bytes) -> None:
    temporary = _beside(name)
    try:
        _write(fd, temporary, content, os.stat(name, dir_fd=fd))
        os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=fd)
        raise
    os.fsync(fd)


def _replace_directory(fd: int, place: bytes, contents: Mapping[bytes, bytes]) -> None:
    above, name = os.path.split(place)
    _refuse_subdirectories(fd, place)
    parent = os.open(above, _OPEN)
    try:
        if _mount_of(fd) != _mount_of(parent):
            raise _stays(place, errno.EBUSY)
        temporary = _beside(name)
        os.mkdir(temporary, 0o700, dir_fd=parent)
        try:
            _fill(fd, parent, temporary, contents, place)
            _exchange(parent, name, temporary, place)
        except BaseException as error:
            _remove(parent, temporary, above, f"it failed ({error})")
            raise
        os.fsync(parent)
        _remove(parent, temporary, above, f"the new images are at {encode(place)}")
    finally:
        os.close(parent)


def _refuse_subdirectories(fd: int, place: bytes) -> None:
    with os.scandir(fd) as found:
        for each in found:
            if each.is_dir(follow_symlinks=False):
                path = encode(os.path.join(place, os.fsencode(each.name)))
                raise ImageError(
                    f"{path} is a directory: it cannot be linked into a new set",
                    file=path,
                    hint="move it out of the directory of images",
                )


def _fill(
    fd: int, parent: int, temporary: bytes, contents: Mapping[bytes, bytes], place: bytes
) -> None:
    """Make a directory what another one is, but for some files, down to the disk."""
    new = os.open(temporary, _OPEN | os.O_NOFOLLOW, dir_fd=parent)
    try:
        for name in map(os.fsencode, os.listdir(fd)):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if name in contents:
                _write(new, name, contents[name], os.stat(name, dir_fd=fd))
            elif stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(name, dir_fd=fd), name, dir_fd=new)
                os.chown(name, status.st_uid, status.st_gid, dir_fd=new, follow_symlinks=False)
            elif not _is_leftover(name, b""):
                _link(fd, new, name, place)
        status = os.fstat(fd)
        os.fchown(new, status.st_uid, status.st_gid)
        os.fchmod(new, stat.S_IMODE(status.st_mode))
        os.fsync(new)
    finally:
        os.close(new)


def _link(fd: int, new: int, name: bytes, place: bytes) -> None:
    try:
        os.link(name, name, src_dir_fd=fd, dst_dir_fd=new, follow_symlinks=False)
    except OSError as error:
        path = encode(os.path.join(place, name))
        msg = f"{path} cannot be linked into a new set: {error.strerror}"
        hint = "images that stay as they are get a second name; copy the set to one file system"
        raise StepError(msg, errno=error.errno or 0, hint=hint) from error


def _write(directory: int, name: bytes, content: bytes, like: os.stat_result) -> None:
    """Write a new file with the owner and mode of another one, down to the disk."""
    with os.fdopen(os.open(name, _NEW, 0o600, dir_fd=directory), "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(file.fileno(), like.st_uid, like.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
        os.fsync(file.fileno())


def _exchange(parent: int, name: bytes, temporary: bytes, place: bytes) -> None:
    try:
        syscalls.renameat2(parent, temporary, parent, name, syscalls.RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in _EXCHANGE_FAILED:
            raise
        raise _stays(place, error.errno) from error


def _stays(place: bytes, number: int) -> StepError:
    why, hint = _EXCHANGE_FAILED[number]
    msg = f"{encode(place)} cannot be replaced: {why}"
    return StepError(msg, errno=number, hint=hint)


def _mount_of(fd: int) -> bytes:
    """
    Give the id of the mount that a descriptor is of, as proc_pid_fdinfo(5) has it.

    link(2) takes a directory on a mount of its own for one of another file system, so that it has
    to be known before. Without a proc nothing is known.
    """
    with contextlib.suppress(OSError), open(f"/proc/thread-self/fdinfo/{fd}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return line
    return b""


def _remove(parent: int, temporary: bytes, above: bytes, state: str) -> None:
    """Remove the directory that is not wanted: the old one, or the new one after a failure."""
    try:
        remove_beneath(parent, temporary)
    except OSError as error:
        path = encode(os.path.join(above, temporary))
        msg = f"{path} could not be removed: {error.strerror}; {state}"
        raise LeftBehindError(msg, [path], hint=f"remove {path}") from error


def _beside(name: bytes) -> bytes:
    """Give a name that nothing has, and that says what it belongs to."""
    return _stem(name) + os.urandom(4).hex().encode()


def _stem(name: bytes) -> bytes:
    return b"." + name[: _LONGEST_NAME - len(_MARK) - 9] + _MARK


def _is_leftover(found: bytes, name: bytes) -> bool:
    """Tell whether something was left of a file or directory, of any if it has no name."""
    if name:
        return found.startswith(_stem(name))
    return found.startswith(b".") and _MARK in found


def _clean_up(fd: int, place: bytes) -> None:
    """Remove what was left of earlier tries, in a directory and beside it, as far as one may."""
    above, name = os.path.split(place)
    with contextlib.suppress(OSError):
        _remove_leftovers(fd, b"")
    with contextlib.suppress(OSError):
        parent = os.open(above, _OPEN)
        try:
            _remove_leftovers(parent, name)
        finally:
            os.close(parent)


def _remove_leftovers(directory: int, name: bytes) -> None:
    """Remove what was left in a directory of replacing something, of anything without a name."""
    for found in map(os.fsencode, os.listdir(directory)):
        if not _is_leftover(found, name):
            continue
        status = os.stat(found, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            remove_beneath(directory, found)
        else:
            os.unlink(found, dir_fd=directory)
