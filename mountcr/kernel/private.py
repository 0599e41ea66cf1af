# SPDX-License-Identifier: Apache-2.0
"""
Work in a mount namespace of its own, so that the host's mount table never changes.

The work is done by a forked child in a new mount namespace whose mounts are slaves of the host's:
what the host mounts meanwhile arrives, nothing goes back. The namespace ends with the child, and
with it every mount made there, also when the child is killed. If the caller is killed, so is the
child (PR_SET_PDEATHSIG, prctl(2)).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, TypeVar, cast

from mountcr.errors import MountcrError, PrivilegeError
from mountcr.interrupts import hold_back, let_through
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.children import end_with
from mountcr.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["in_namespace", "in_namespace_of", "in_private_namespace"]

T = TypeVar("T")


def in_private_namespace(
    work: Callable[[], T],
    *,
    fds: list[int] | None = None,
    undo: Callable[[T], object] | None = None,
) -> T:
    """
    Call `work` in a private mount namespace and give what it returns.

    `work` runs in a forked child: only what it returns or raises comes back, by pickle. It may
    return descriptors by appending them to `fds`, whose numbers are replaced by the caller's own
    copies, which the caller owns. Raises PrivilegeError without CAP_SYS_ADMIN, what `work`
    raises, and MountcrError when the child was killed. Nothing stays mounted in any case.

    When the caller is interrupted, `work` gets a KeyboardInterrupt too; if it is done all the same,
    because it held the signal back or was faster, `undo` is called with what it returned.
    """
    return _forked(_unshare, work, fds, undo)


def in_namespace_of(pid: int, work: Callable[[], T]) -> T:
    """
    Call `work` in the mount namespace of a process, at its root, and give what it returns.

    It runs in a forked child as in `in_private_namespace`, but what it mounts there stays. Raises
    PrivilegeError without CAP_SYS_ADMIN, OSError when the process has ended, what `work` raises.
    """
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return in_namespace(namespace, work)
    finally:
        os.close(namespace)


def in_namespace(fd: int, work: Callable[[], T]) -> T:
    """Do as `in_namespace_of` in the mount namespace that a descriptor is of."""
    return _forked(lambda: syscalls.setns(fd, syscalls.CLONE_NEWNS), work)


def _forked(
    enter: Callable[[], None],
    work: Callable[[], T],
    fds: list[int] | None = None,
    undo: Callable[[T], object] | None = None,
) -> T:
    """Do the work in a forked child that first enters a namespace."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    before = hold_back()  # so that the child has its handlers before it can be interrupted
    child = os.fork()
    if child == 0:
        ours.close()
        _child(theirs, parent, enter, work, fds)
    theirs.close()
    interrupt: BaseException | None = None
    try:
        _wait(ours, before)
    except BaseException as error:  # noqa: BLE001  # it is raised below, when the child has ended
        interrupt = error
        os.kill(child, signal.SIGTERM)
    try:
        answer: tuple[bool, object] | None = _receive(ours, fds)
    finally:
        ours.close()
        _, status = os.waitpid(child, 0)
    try:
        let_through(before)
    except BaseException as error:  # noqa: BLE001
        interrupt = error
    if interrupt is not None:
        if answer and answer[0] and undo:
            undo(cast("T", answer[1]))
        for fd in fds or ():
            os.close(fd)
        raise interrupt
    if answer is None:
        code = os.waitstatus_to_exitcode(status)
        raise MountcrError(f"the worker in the private mount namespace ended with status {code}")
    done, value = answer
    if done:
        return cast("T", value)
    raise cast("BaseException", value)


def _wait(channel: socket.socket, before: frozenset[int]) -> None:
    """Wait for the answer, or for its absence; only here the parent can be interrupted."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    let_through(before)
    try:
        poll.poll()
    finally:
        hold_back()


def _child(
    channel: socket.socket,
    parent: int,
    enter: Callable[[], None],
    work: Callable[[], T],
    fds: list[int] | None,
) -> None:
    """Do the work and never return; whatever happens, the answer tells."""
    status = 0
    try:
        _prepare(parent)
        _enter(enter)
        answer: tuple[bool, object] = (True, work())
    except BaseException as error:  # noqa: BLE001  # it is raised again by the parent
        answer = (False, error)
    try:
        _send(channel, _picklable(answer), fds or [])
    except BaseException:  # noqa: BLE001  # the parent is gone
        status = 1
    finally:
        os._exit(status)


def _prepare(parent: int) -> None:
    """End with the parent, and leave what the terminal sends to it."""
    end_with(parent)
    # Ctrl-C reaches the whole foreground group; only the parent acts on it, and says so once
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    let_through()


def _enter(enter: Callable[[], None]) -> None:
    try:
        enter()
    except PermissionError as error:
        msg = "a mount namespace of one's own needs CAP_SYS_ADMIN"
        raise PrivilegeError(msg, hint="run as root") from error


def _unshare() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.set_propagation(ROOT, "slave", recursive=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _picklable(answer: tuple[bool, object]) -> bytes:
    try:
        data = pickle.dumps(answer)
        pickle.loads(data)  # noqa: S301  # our own; some exceptions only fail here
    except Exception:  # noqa: BLE001
        failure: tuple[bool, object] = (False, MountcrError(repr(answer[1])))
        return pickle.dumps(failure)
    return data


def _send(channel: socket.socket, data: bytes, fds: list[int]) -> None:
    channel.sendall(len(data).to_bytes(8, "little") + bytes([len(fds)]))
    if fds:
        socket.send_fds(channel, [b"\0"], fds)
    channel.sendall(data)


def _receive(channel: socket.socket, fds: list[int] | None) -> tuple[bool, object] | None:
    """Give the child's answer; None when it died without one."""
    with contextlib.suppress(ConnectionError):
        header = _exactly(channel, 9)
        if header is None:
            return None
        if header[8]:
            _, received, _, _ = socket.recv_fds(channel, 1, header[8])
            for fd in received:
                os.set_inheritable(fd, False)  # noqa: FBT003
            if fds is not None:
                fds[:] = received
        data = _exactly(channel, int.from_bytes(header[:8], "little"))
        if data is not None:
            answer: tuple[bool, object] = pickle.loads(data)  # noqa: S301  # from our own child
            return answer
    return None


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            return None
        data += part
    return bytes(data)
