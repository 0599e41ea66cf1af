# SPDX-License-Identifier: Apache-2.0
"""
Start a small container: namespaces, mounts, pivot_root(2) and a command; no engine, no cgroup.

It is what an engine does, reduced to what checkpoint and restore care about.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mountcr import procstat
from mountcr.errors import StepError
from mountcr.interrupts import let_through
from mountcr.kernel import mounts, syscalls
from mountcr.paths import ROOT, KPath, decode, encode, join

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BindMount", "Devpts", "Recipe", "Tmpfs", "launch", "stop"]

_ENDING: Final = 5.0
"""Seconds that a process that was killed may take to end."""

_DEVICES: Final = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))


@dataclass(frozen=True)
class BindMount:
    """A bind from the host: `propagation` as mountinfo knows it, `readonly` of the mount."""

    source: str
    destination: str
    readonly: bool = False
    propagation: str = "private"


@dataclass(frozen=True)
class Tmpfs:
    """A tmpfs of the container's own, of `size` bytes."""

    destination: str
    size: int = 1 << 20


@dataclass(frozen=True)
class Devpts:
    """Pseudoterminals of the container's own."""

    destination: str = "/dev/pts"


@dataclass(frozen=True)
class Recipe:
    """
    What to start: a mounted root, a command whose first word is a path inside, and the mounts.

    Mounts are made in their order, so that one may lie inside another that comes before it.
    `root_propagation` is `private`, or `slave` as Docker has it. `stdio` are three descriptors of
    the caller, None for the container's own /dev/null.
    """

    root: str
    command: Sequence[str]
    mounts: Sequence[BindMount | Tmpfs | Devpts] = ()
    hostname: str = "demo"
    readonly: bool = False
    root_propagation: str = "private"
    stdio: tuple[int, int, int] | None = None
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/bin"})


def launch(recipe: Recipe) -> int:
    """
    Start a container and give the pid of its init on the host, which is not a child of the caller.

    Mountpoints that are missing are made in the root. Raises StepError saying what failed; then
    nothing runs and nothing stays mounted.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_child(recipe, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        first, _, complaint = pipe.read().partition(b"\n")
    os.waitpid(child, 0)
    if complaint or not first:
        msg = f"the container did not start: {os.fsdecode(complaint) or 'no reason given'}"
        raise StepError(msg)
    return int(first)


def stop(pid: int) -> None:
    """Kill a container's init, and with it all of its pid namespace, and wait for its end."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        _kill(pid)
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        _wait(handle)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _kill(pid: int) -> None:
    """Kill a process of a kernel that knows it by its pid only, before Linux 5.3, and wait."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + _ENDING
        while not procstat.read_stat(pid).ended and time.monotonic() < until:
            time.sleep(0.001)


def _wait(handle: int) -> None:
    """A pidfd becomes readable when the process ends, pidfd_open(2)."""
    import select

    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll(int(_ENDING * 1000))


def _in_child(recipe: Recipe, writer: int) -> None:
    """Fork init into new namespaces, tell its pid, and leave."""
    try:
        let_through()  # what the caller holds back is not held back in the container
        syscalls.unshare(
            syscalls.CLONE_NEWNS
            | syscalls.CLONE_NEWPID
            | syscalls.CLONE_NEWUTS
            | syscalls.CLONE_NEWIPC
        )
        pid = os.fork()
        if pid == 0:
            _init(recipe, writer)
        os.write(writer, b"%d\n" % pid)
    except BaseException as error:  # noqa: BLE001  # it travels home as text
        os.write(writer, b"\n" + os.fsencode(str(error)))
    finally:
        os._exit(0)


def _init(recipe: Recipe, writer: int) -> None:
    """Be the container's init: set up and exec. Never returns."""
    try:
        os.setsid()
        mounts.set_propagation(ROOT, "slave", recursive=True)
        _set_up(recipe)
        _enter(encode(recipe.root))
        if recipe.readonly:
            mounts.set_attributes(ROOT, ["ro"])
        _redirect(recipe.stdio, keep=writer)
        os.execve(  # noqa: S606  # the container's command, no shell
            recipe.command[0], list(recipe.command), dict(recipe.environment)
        )
    except BaseException as error:  # noqa: BLE001
        os.write(writer, b"\n" + os.fsencode(f"{type(error).__name__}: {error}"))
    finally:
        os._exit(1)


def _set_up(recipe: Recipe) -> None:
    """Mount everything below the root, then decide about propagation, the root's last."""
    root = encode(recipe.root)
    # pivot_root(2) wants a mount; a bind of a slave is a slave of the same group
    syscalls.mount(decode(root), decode(root), b"", syscalls.MS_BIND, b"")
    mounts.set_propagation(root, recipe.root_propagation)
    _mount("proc", join(root, "proc"))
    _mount("tmpfs", join(root, "dev"), b"size=65536,mode=755")
    for name, minor in _DEVICES:
        device = decode(join(root, f"dev/{name}"))
        os.mknod(device, 0o20666, os.makedev(1, minor))
        os.chmod(device, 0o666)  # noqa: S103  # as every /dev/null is
    for mount in recipe.mounts:
        at = join(root, mount.destination)
        if isinstance(mount, Tmpfs):
            _mount("tmpfs", at, b"size=%d" % mount.size)
        elif isinstance(mount, Devpts):
            _mount("devpts", at, b"newinstance,ptmxmode=0666,mode=620")
        else:
            _bind(mount, at)


def _mount(fstype: str, at: KPath, data: bytes = b"") -> None:
    os.makedirs(decode(at), exist_ok=True)
    syscalls.mount(fstype.encode(), decode(at), fstype.encode(), 0, data)


def _bind(mount: BindMount, at: KPath) -> None:
    source = os.fsencode(mount.source)
    if os.path.isdir(source):
        os.makedirs(decode(at), exist_ok=True)
    elif not os.path.exists(decode(at)):
        os.makedirs(os.path.dirname(decode(at)), exist_ok=True)
        os.close(os.open(decode(at), os.O_CREAT | os.O_WRONLY, 0o644))
    syscalls.mount(source, decode(at), b"", syscalls.MS_BIND, b"")
    mounts.set_propagation(at, mount.propagation)
    if mount.readonly:
        mounts.set_attributes(at, ["ro"])


def _enter(root: KPath) -> None:
    """Make the root the root, by stacking the old one below and detaching it, pivot_root(2)."""
    os.chdir(decode(root))
    syscalls.pivot_root(b".", b".")
    syscalls.umount2(b".", syscalls.MNT_DETACH)
    os.chdir("/")


def _redirect(stdio: tuple[int, int, int] | None, keep: int) -> None:
    """Put the standard streams in place and close everything else that was inherited."""
    if stdio is None:
        null = os.open("/dev/null", os.O_RDWR)
        stdio = (null, null, null)
    copies = [os.dup(fd) for fd in stdio]
    keep = os.dup(keep)
    for number, fd in enumerate(copies):
        os.dup2(fd, number)
    os.dup2(keep, 3, inheritable=False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
