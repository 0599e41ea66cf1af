# SPDX-License-Identifier: Apache-2.0
"""
What a restored container gets for descriptors that led out of it.

Standard streams go where the user says; any other file is opened again by the path it had.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from mountcr.errors import RefusedError, UsageError
from mountcr.model import InodeType
from mountcr.paths import decode
from mountcr.planning.descriptors import STANDARD_STREAMS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from mountcr.planning.records import Inherited

__all__ = ["opened", "standard_stream"]

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
        for each in descriptors:
            file = each.type is InodeType.FILE and stdio == "null"
            if each.fd in STANDARD_STREAMS and not file:
                found[each.number] = stack.enter_context(standard_stream(each.fd, stdio))
            else:
                found[each.number] = _reopen(each)
                stack.callback(os.close, found[each.number])
        yield found


@contextlib.contextmanager
def standard_stream(number: int, stdio: str) -> Generator[int]:
    """Open what standard stream `number` becomes, for a block of code. Raises UsageError."""
    if stdio == "inherit":
        yield number
        return
    path, flags = ("/dev/null", os.O_RDWR)
    if stdio != "null" and number:
        path, flags = (stdio, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    except OSError as error:
        msg = f"--stdio {path}: {error.strerror}"
        raise UsageError(msg, hint="give null, inherit or a file that can be written") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _reopen(each: Inherited) -> int:
    """Open a file of the host again by the path it was shown under."""
    flags = (each.flags & _REOPENED) | os.O_CLOEXEC
    try:
        if not each.shown.startswith("/"):
            raise FileNotFoundError(errno.ENOENT, "it has no path", each.shown)
        return os.open(decode(each.shown), flags)
    except OSError as error:
        msg = f"descriptor {each.fd} ({each.shown}) cannot be given back: {error.strerror}"
        hint = "it led out of the container; close it before the dump"
        raise RefusedError(msg, hint=hint) from error
