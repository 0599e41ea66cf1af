# SPDX-License-Identifier: Apache-2.0
"""Directories of members, that come from anywhere as archives do: regular files, and no links."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from mountcr.bundle.members import Member, is_plain, shown
from mountcr.bundle.names import MANIFEST, SIGNATURE
from mountcr.errors import RefusedError
from mountcr.kernel.beneath import open_beneath

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.bundle.limits import Limits
    from mountcr.bundle.members import Content

__all__ = ["in_directory", "open_member"]

_PIECE: Final = 1 << 20


def in_directory(fd: int, name: str, limits: Limits) -> Iterator[tuple[Member, Content]]:
    """Give the members of a directory, the document and its signature first."""
    names = sorted(_names(fd, name, limits))
    for first in (SIGNATURE, MANIFEST):
        if first in names:
            names.remove(first)
            names.insert(0, first)
    for each in names:
        file = open_member(fd, each, name)
        try:
            yield Member(each, os.fstat(file).st_size), _FileContent(file)
        finally:
            os.close(file)


def _names(fd: int, name: str, limits: Limits) -> Iterator[str]:
    """Give the files in a directory and in the directories there."""
    count = 0
    for parent in ("", *sorted(os.listdir(fd))):
        try:
            directory = open_beneath(fd, os.fsencode(parent or "."), os.O_RDONLY | os.O_DIRECTORY)
        except NotADirectoryError:
            continue
        except OSError as error:
            msg = f"{name}: {shown(parent)} is no directory of it (rule: types of members)"
            raise RefusedError(msg, hint=error.strerror) from error
        try:
            for each in os.listdir(directory):
                whole_name = f"{parent}/{each}" if parent else each
                found = os.stat(each, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode) and not parent:
                    continue
                count += 1
                if not is_plain(whole_name, limits.name) or count > limits.members:
                    msg = f"{name}: a member is called {shown(whole_name)} (rule: names of members)"
                    raise RefusedError(msg, hint="make the bundle anew")
                yield whole_name
        finally:
            os.close(directory)


def open_member(fd: int, name: str, where: str) -> int:
    """
    Open a regular file beneath an open directory, through no link; the caller owns the descriptor.

    `where` is what errors call the directory. Raises FileNotFoundError, RefusedError for what is
    no regular file of it.
    """
    try:
        file = open_beneath(fd, os.fsencode(name), os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        msg = f"{where}: {shown(name)} is no file of it (rule: types of members)"
        raise RefusedError(msg, hint=error.strerror) from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        msg = f"{where}: {shown(name)} is no regular file (rule: types of members)"
        raise RefusedError(msg, hint="make it anew, of files only")
    return file


class _FileContent:
    """The content of an open file, from its beginning."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def some(self) -> memoryview:
        return memoryview(os.read(self._fd, _PIECE))
