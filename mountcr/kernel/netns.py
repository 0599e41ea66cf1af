# SPDX-License-Identifier: Apache-2.0
"""
Network namespaces by descriptor: made without a name, entered for a block of code, told apart.

A namespace lives as long as a process is in it, a descriptor holds it, or its file is mounted
somewhere; network_namespaces(7). What is made here is only held by descriptors, so that nothing of
it is left when this process is killed, and a veth ends with either end's namespace.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from mountcr.kernel import syscalls
from mountcr.paths import KPath, decode

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["entered", "identity_at", "make", "open_namespace", "own"]


def own() -> int:
    """Give a descriptor, the caller's, of the network namespace of the calling thread."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def open_namespace(path: KPath) -> int:
    """Open the file of a namespace; the descriptor is the caller's. Raises OSError."""
    return os.open(decode(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


@contextlib.contextmanager
def entered(fd: int) -> Generator[None]:
    """
    Have the calling thread in the network namespace of a descriptor, for a block of code.

    Sockets that are made in it stay there. Raises OSError: EPERM without CAP_SYS_ADMIN, EINVAL
    for a descriptor of something else.
    """
    before = own()
    try:
        syscalls.setns(fd, syscalls.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(before, syscalls.CLONE_NEWNET)
    finally:
        os.close(before)


def make() -> int:
    """
    Make a network namespace, in which `lo` is down; give a descriptor, which is the caller's.

    It ends with the last descriptor. Raises OSError: EPERM without CAP_SYS_ADMIN.
    """
    before = own()
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        try:
            return own()
        finally:
            syscalls.setns(before, syscalls.CLONE_NEWNET)
    finally:
        os.close(before)


def identity_at(path: KPath) -> int:
    """
    Give the inode number of the network namespace whose file lies at a path, 0 for anything else.

    It is entered to be told from namespaces of other kinds. Raises PermissionError without
    CAP_SYS_ADMIN.
    """
    try:
        fd = open_namespace(path)
    except OSError:
        return 0
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return 0
        with entered(fd):
            return found.st_ino
    except PermissionError:
        raise
    except OSError:
        return 0
    finally:
        os.close(fd)
