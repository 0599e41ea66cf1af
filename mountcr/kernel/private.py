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
import signal
import socket
import sys
from typing import TYPE_CHECKING, TypeVar, cast

from mountcr.errors import MountcrError, PrivilegeError
from mountcr.kernel import mounts, syscalls
from mountcr.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["in_private_namespace"]

T = TypeVar("T")


def in_private_namespace(work: Callable[[], T], *, fds: list[int] | None = None) -> T:
    """
    Call `work` in a private mount namespace and give what it returns.

    `work` runs in a forked child: only what it returns or raises comes back, by pickle. It may
    return descriptors by appending them to `fds`, whose numbers are replaced by the caller's own
    copies, which the caller owns. Raises PrivilegeError without CAP_SYS_ADMIN, what `work`
    raises, and MountcrError when the child was killed. Nothing stays mounted in any case.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        ours.close()
        _child(theirs, parent, work, fds)
    theirs.close()
    try:
        answer = _receive(ours, fds)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        _drain(ours)
        raise
    finally:
        ours.close()
        _, status = os.waitpid(child, 0)
    if answer is None:
        code = os.waitstatus_to_exitcode(status)
        raise MountcrError(f"the worker in the private mount namespace ended with status {code}")
    done, value = answer
    if done:
        return cast("T", value)
    raise cast("BaseException", value)


def _child(
    channel: socket.socket, parent: int, work: Callable[[], T], fds: list[int] | None
) -> None:
    """Do the work and never return; whatever happens, the answer tells."""
    status = 0
    try:
        _enter(parent)
        answer: tuple[bool, object] = (True, work())
    except BaseException as error:  # noqa: BLE001  # it is raised again by the parent
        answer = (False, error)
    try:
        _send(channel, _picklable(answer), fds or [])
    except BaseException:  # noqa: BLE001  # the parent is gone
        status = 1
    finally:
        os._exit(status)


def _enter(parent: int) -> None:
    syscalls.prctl_set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before the signal was set
    # Ctrl-C reaches the whole foreground group; only the parent acts on it, and says so once
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except PermissionError as error:
        msg = "a private mount namespace needs CAP_SYS_ADMIN"
        raise PrivilegeError(msg, hint="run as root") from error
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


def _drain(channel: socket.socket) -> None:
    """Wait until the child has unwound and closed its end."""
    with contextlib.suppress(OSError):
        while channel.recv(65536):
            pass
