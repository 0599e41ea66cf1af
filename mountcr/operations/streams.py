# SPDX-License-Identifier: Apache-2.0
"""
What a restored container gets for descriptors that led out of it.

Standard streams go where the user says; any other file is opened again by the path it had.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from mountcr.errors import RefusedError, UsageError
from mountcr.kernel import syscalls
from mountcr.model import InodeType
from mountcr.paths import decode
from mountcr.planning.descriptors import STANDARD_STREAMS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from mountcr.planning.records import Inherited

__all__ = ["keep_appending", "opened", "standard_streams"]

_REOPENED = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_DIRECTORY


@contextlib.contextmanager
def opened(descriptors: Iterable[Inherited], stdio: str) -> Generator[dict[int, int]]:
    """
    Open what the descriptors become; give their numbers in the plan to descriptors of ours.

    `stdio` is `null`, `inherit` (our own standard streams) or the path of a file, which is
    appended to. With `null` a regular file of the host is opened again, because CRIU takes nothing
    else in its place (it compares mode and size). Everything is closed at the end. Raises
    UsageError for a file that cannot be opened, RefusedError for a descriptor that nothing can
    stand in for.
    """
    with contextlib.ExitStack() as stack:
        found: dict[int, int] = {}
        streams: tuple[int, ...] = ()
        for each in descriptors:
            file = each.type is InodeType.FILE and stdio == "null"
            if each.fd in STANDARD_STREAMS and not file and each.source is None:
                streams = streams or stack.enter_context(standard_streams(stdio))
                found[each.number] = streams[each.fd]
            else:
                found[each.number] = _reopen(each)
                stack.callback(os.close, found[each.number])
        yield found


@contextlib.contextmanager
def standard_streams(stdio: str) -> Generator[tuple[int, int, int]]:
    """
    Open what the standard streams become, for a block of code. Raises UsageError.

    A file is appended to, see `keep_appending`.
    """
    if stdio == "inherit":
        yield 0, 1, 2
        return
    with contextlib.ExitStack() as stack:
        null = _open("/dev/null", os.O_RDWR)
        stack.callback(os.close, null)
        output = null
        if stdio != "null":
            output = _open(stdio, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            stack.callback(os.close, output)
        yield null, output, output


def keep_appending(pid: int, descriptors: Iterable[Inherited]) -> None:
    """
    Let a restored root task append to a file that it has in place of a pipe.

    CRIU opens anew what it is given for a pipe, with the flags of the pipe (criu/pipes.c,
    `reopen_pipe()`), so that every stream would write from the beginning of the file. Before
    pidfd_getfd(2), Linux 5.6, it does.
    """
    handle = os.pidfd_open(pid)
    try:
        for each in descriptors:
            if each.type is InodeType.FIFO:
                _append(handle, each.fd)
    finally:
        os.close(handle)


def _append(handle: int, number: int) -> None:
    try:
        fd = syscalls.pidfd_getfd(handle, number)
    except OSError as error:
        if error.errno in {errno.ENOSYS, errno.EBADF}:
            return
        raise
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    finally:
        os.close(fd)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o644)
    except OSError as error:
        msg = f"--stdio {path}: {error.strerror}"
        raise UsageError(msg, hint="give null, inherit or a file that can be written") from error


def _reopen(each: Inherited) -> int:
    """Open a file of the host again, in its layer or by the path it was shown under."""
    if each.requested is not None:
        msg = f"descriptor {each.fd} led to {each.requested}, which nobody has allowed"
        raise RefusedError(f"{msg} (rule: requests)", hint="--allow-bind DIR allows what is in it")
    path = each.source or each.shown
    flags = (each.flags & _REOPENED) | os.O_CLOEXEC
    try:
        if not path.startswith("/"):
            raise FileNotFoundError(errno.ENOENT, "it has no path", path)
        fd = os.open(decode(path), flags)
    except OSError as error:
        msg = f"descriptor {each.fd} ({path}) cannot be given back: {error.strerror}"
        hint = "it led out of the container; close it before the dump"
        raise RefusedError(msg, hint=hint) from error
    if each.type is InodeType.FILE:
        os.lseek(fd, each.position, os.SEEK_SET)  # CRIU leaves the position as we give it
    return fd
