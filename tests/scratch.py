# SPDX-License-Identifier: Apache-2.0
"""
Places and kernels for tests that mount: a file system of one's own, and calls that are missing.

For tests that run in a mount namespace of their own, in a process that ends with the test.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING, Final

import pytest

import enosys
from mountcr import mountinfo
from mountcr.graph.tree import MountTree
from mountcr.kernel import nsfs, statmount, syscalls
from mountcr.paths import ROOT, KPath, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from mountcr.model import Mount

__all__ = [
    "HOSTILE",
    "LADDER",
    "NEW_CALLS",
    "directories",
    "filesystem",
    "has",
    "kept_namespace",
    "lack",
    "mounted",
    "needs",
    "seen_inside",
    "sleeper",
    "tmpfs",
]

NEW_CALLS: Final = (
    "fsopen",
    "fsconfig",
    "fsmount",
    "open_tree",
    "move_mount",
    "mount_setattr",
)
"""What came with the new mount API; without it there is mount(2)."""

LADDER: Final = {"as it is": (), "without the new calls": NEW_CALLS}
"""Kernels on which everything has to work that can."""

HOSTILE: Final = {
    "plain": b"plain",
    "space": b"a b",
    "comma": b"a,b",
    "colon": b"a:b",
    "colons": b"a::b",
    "backslash": b"a\\b",
    "escape": b"a\\134b",
    "octal": b"a\\040b",
    "newline": b"a\nb",
    "tab": b"a\tb",
    "hash": b"a#b",
    "equals": b"a=b",
    "not UTF-8": b"a\xff\xfeb",
    "UTF-8": "aäb".encode(),
    "percent": b"%s%n",
}
"""Names that somebody's parser does not take for a name."""


def tmpfs(at: Path | bytes) -> KPath:
    """Mount a tmpfs, on which an overlay can have its upper."""
    path = bytes(at)
    syscalls.mount(b"tmpfs", path, b"tmpfs", 0, b"mode=755")
    return encode(path)


def filesystem(at: Path | bytes, size: int = 16 << 20) -> KPath:
    """
    Mount a file system of `size` bytes that has all an inode can have, `user.*` attributes too.

    A tmpfs, or where that keeps no such attributes (before Linux 6.6), an ext4 on a loop device.
    Skips where neither can be.
    """
    path = bytes(at)
    syscalls.mount(b"tmpfs", path, b"tmpfs", 0, b"mode=755,size=%d" % size)
    try:
        os.setxattr(path, "user.tried", b"")
        os.removexattr(path, "user.tried")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        syscalls.umount2(path)
        _loop(path, size)
    return encode(path)


def _loop(at: bytes, size: int) -> None:
    """Mount an ext4 whose image has no name any more and goes with the mount."""
    with tempfile.NamedTemporaryFile(prefix="mountcr-test-") as image:
        image.truncate(size)
        make = ["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", "-I", "256", image.name]
        for words in (make, ["mount", "-o", "loop", image.name, os.fsdecode(at)]):
            if shutil.which(words[0]) and not subprocess.run(words, check=False).returncode:
                continue
            pytest.skip("tmpfs keeps no user.* here, and no ext4 can be made on a loop device")
    os.rmdir(at + b"/lost+found")


def directories(base: KPath, *names: bytes | str) -> list[KPath]:
    """Make directories."""
    found = [os.path.join(decode(base), os.fsencode(name)) for name in names]
    for each in found:
        os.makedirs(each)
    return [encode(each) for each in found]


def mounted(at: KPath) -> list[Mount]:
    """Give the mounts at a path of this namespace, in the order of the table."""
    return [mount for mount in mountinfo.read() if mount.mountpoint == at]


@contextlib.contextmanager
def sleeper(prepare: Callable[[], object], *, own: bool = True) -> Generator[int]:
    """A process that prepares, in a mount namespace of its own if so wanted, and sleeps."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if own:
                syscalls.unshare(syscalls.CLONE_NEWNS)
            prepare()
            os.write(writer, b"x")
            signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(writer)
        assert os.read(reader, 1) == b"x"
        yield pid
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def kept_namespace(prepare: Callable[[], object]) -> Generator[int]:
    """
    Give a descriptor of a mount namespace in which something was done, and then no process is.

    Skips where the kernel does not tell of such a one (before Linux 6.12).
    """
    with open("/proc/thread-self/ns/mnt", "rb") as own:
        try:
            nsfs.mount_namespace_info(own.fileno())
        except OSError:
            pytest.skip("this kernel does not tell all mount namespaces (Linux 6.12)")
    with sleeper(prepare) as pid:
        fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def seen_inside(table: Iterable[Mount]) -> tuple[Mount, ...]:
    """Give what a task sees of a table when it enters: what hangs on the topmost root."""
    tree = MountTree(table)
    top = tree.lies_on(ROOT)
    assert top is not None
    found = {top.id}
    for mount in tree.walk():
        if mount.parent in found:
            found.add(mount.id)
    return tuple(mount for mount in tree.mounts if mount.id in found)


_PROBES: Final[dict[str, Callable[[], object]]] = {
    "open_tree": lambda: syscalls.open_tree(-1, b"none", 0),
    "move_mount": lambda: syscalls.move_mount(-1, b"none", -1, b"none", 0),
    "fsopen": lambda: syscalls.fsopen(b"no-such-filesystem"),
    "fsconfig": lambda: syscalls.fsconfig_flag(-1, b"ro"),
    "fsmount": lambda: syscalls.fsmount(-1),
    "openat2": lambda: syscalls.openat2(-1, b"none", 0, 0, 0),
    "statmount": lambda: statmount.statmount(1, 0),
    "listmount": lambda: statmount.listmount(1),
}


def has(*calls: str) -> bool:
    """Tell whether the kernel has these calls; they are asked for what cannot be."""
    for name in calls:
        try:
            _PROBES[name]()
        except OSError as error:
            if error.errno == errno.ENOSYS:
                return False
    return True


def needs(*calls: str) -> None:
    """Skip where one of these calls is missing."""
    if not has(*calls):
        pytest.skip(f"this kernel lacks one of {', '.join(calls)}")


def lack(*calls: str) -> None:
    """Let the kernel answer ENOSYS to some calls, for this process and for good."""
    if not calls:
        return
    machine = os.uname().machine
    if machine not in enosys.AUDIT_ARCH:
        pytest.skip(f"no filter of system calls is known for {machine}")
    numbers = [enosys.NUMBERS[name] for name in calls]
    enosys.install(enosys.program(numbers, enosys.AUDIT_ARCH[machine]))
