# SPDX-License-Identifier: Apache-2.0
"""
Run a command and let the N-th call of a named system call fail, or kill the command at it.

A seccomp filter hands the calls named to this process (SECCOMP_RET_USER_NOTIF, seccomp(2), Linux
5.5), which counts them over the whole tree of processes and answers each: go on, an errno, or
SIGKILL for the command. That reaches what a preloaded library does not (calls by number, static
programs), counts what `strace -e inject=` counts for each process on its own, and needs no
package. Nothing is left to luck: a run without a fault counts the calls, so that every one of
them can be hit.

Only calls about what the command works on count: those whose path or descriptor is outside of
the system's directories, and those that have neither. So neither the interpreter nor its modules
fail.

Limits: x86-64 and AArch64; 64-bit programs. Root, or `no_new_privs` for all that runs below.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import io
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import enosys

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CALLS", "Fault", "Run", "run"]


class _Call(NamedTuple):
    """Numbers on x86-64 and AArch64, -1 for none; which arguments say what the call is about."""

    x86_64: int
    aarch64: int
    at: tuple[int, ...] = ()
    path: tuple[int, ...] = ()
    fd: tuple[int, ...] = ()


# arch/x86/entry/syscalls/syscall_64.tbl, scripts/syscall.tbl. `at` is a directory and the path
# after it; -1 stands for the current directory.
CALLS: Final = {
    "openat": _Call(257, 56, at=(0,)),
    "openat2": _Call(437, 437, at=(0,)),
    "mkdir": _Call(83, -1, path=(0,)),
    "mkdirat": _Call(258, 34, at=(0,)),
    "write": _Call(1, 64, fd=(0,)),
    "pwrite64": _Call(18, 68, fd=(0,)),
    "copy_file_range": _Call(326, 285, fd=(2,)),
    "sendfile": _Call(40, 71, fd=(0,)),
    "ioctl": _Call(16, 29, fd=(0,)),
    "ftruncate": _Call(77, 46, fd=(0,)),
    "syncfs": _Call(306, 267, fd=(0,)),
    "fallocate": _Call(285, 47, fd=(0,)),
    "chmod": _Call(90, -1, path=(0,)),
    "fchmod": _Call(91, 52, fd=(0,)),
    "fchmodat": _Call(268, 53, at=(0,)),
    "chown": _Call(92, -1, path=(0,)),
    "lchown": _Call(94, -1, path=(0,)),
    "fchown": _Call(93, 55, fd=(0,)),
    "fchownat": _Call(260, 54, at=(0,)),
    "setxattr": _Call(188, 5, path=(0,)),
    "lsetxattr": _Call(189, 6, path=(0,)),
    "fsetxattr": _Call(190, 7, fd=(0,)),
    "utimensat": _Call(280, 88, at=(0,)),
    "link": _Call(86, -1, path=(0, 1)),
    "linkat": _Call(265, 37, at=(0, 2)),
    "mknod": _Call(133, -1, path=(0,)),
    "mknodat": _Call(259, 33, at=(0,)),
    "symlink": _Call(88, -1, path=(1,)),
    "symlinkat": _Call(266, 36, at=(1,)),
    "rename": _Call(82, -1, path=(0, 1)),
    "renameat": _Call(264, 38, at=(0, 2)),
    "renameat2": _Call(316, 276, at=(0, 2)),
    "fsync": _Call(74, 82, fd=(0,)),
    "unlink": _Call(87, -1, path=(0,)),
    "rmdir": _Call(84, -1, path=(0,)),
    "unlinkat": _Call(263, 35, at=(0,)),
    "mount": _Call(165, 40, path=(1,)),
    "umount2": _Call(166, 39, path=(0,)),
    "unshare": _Call(272, 97),
    "open_tree": _Call(428, 428),
    "move_mount": _Call(429, 429),
    "fsopen": _Call(430, 430),
    "fsconfig": _Call(431, 431),
    "fsmount": _Call(432, 432),
    "mount_setattr": _Call(442, 442),
}
"""The calls that can be made to fail."""

_FICLONE: Final = 0x40049409
"""<linux/fs.h>; of ioctl(2), only this one counts."""

_AT_FDCWD: Final = -100

_CODE: Final[list[Path]] = [
    Path(__file__).resolve().parents[1] / name for name in ("mountcr", "drivers", "tests")
]
_SYSTEM: Final[tuple[str, ...]] = (
    "/usr",
    "/lib",
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    sys.prefix,
    sys.base_prefix,
)
_OUTSIDE: Final = ("/memfd:", *(f"{Path(str(each)).resolve()}/" for each in (*_SYSTEM, *_CODE)))
"""What does not count: where programs and their modules are, and files that are nowhere."""

# include/uapi/linux/seccomp.h
_SET_MODE_FILTER: Final = 1
_NEW_LISTENER: Final = 1 << 3
_RET_USER_NOTIF: Final = 0x7FC00000
_CONTINUE: Final = 1
_RECEIVE: Final = 0xC0502100
_SEND: Final = 0xC0182101
_NOTIFICATION: Final = struct.Struct("<QII iIQ 6Q")
_RESPONSE: Final = struct.Struct("<Qqi I")
_SYS_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}

_GRACE: Final = 10.0
"""Seconds that processes below a command that has ended may take to end."""


class Fault(NamedTuple):
    """Which call, counted from 1, gets which errno; 0 kills the command there with SIGKILL."""

    call: str
    number: int
    errno: int

    def __str__(self) -> str:
        """Say it as the id of a test."""
        return f"{self.call}-{self.number}-{errno.errorcode.get(self.errno, 'KILL')}"


class Run(NamedTuple):
    """How a command ended: its status, negative for a signal, what it said, and what it called."""

    status: int
    out: str
    err: str
    calls: Counter[str]
    hit: bool


def run(command: Sequence[str], *, fault: Fault | None = None) -> Run:
    """
    Run a command with one fault, or with none and every call of `CALLS` counted.

    Raises OSError when there can be no filter. What of the tree still runs after the command and a
    time of grace goes on without a fault.
    """
    names = [fault.call] if fault else list(CALLS)
    machine = os.uname().machine
    if machine not in _SYS_SECCOMP:
        raise OSError(errno.ENOSYS, f"no filter is known for {machine}")
    numbers = {getattr(CALLS[name], machine): name for name in names}
    numbers.pop(-1, None)
    with _memory("out") as out, _memory("err") as err:
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            _become(command, list(numbers), theirs, out.fileno(), err.fileno())
        theirs.close()
        with ours:
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        if not fds:
            os.waitpid(child, 0)
            raise OSError(errno.EINVAL, "the kernel takes no filter with a listener")
        supervisor = _Supervisor(fds[0], child, numbers, fault)
        try:
            status = supervisor.attend()
        finally:
            os.close(fds[0])
        out.seek(0)
        err.seek(0)
        said, complained = (each.read().decode(errors="replace") for each in (out, err))
        return Run(status, said, complained, supervisor.calls, supervisor.hit)


def _memory(name: str) -> io.FileIO:
    """Give a file that is nowhere: what the command says does not count as a call."""
    return io.FileIO(os.memfd_create(f"faults-{name}"), "r+")


def _become(
    command: Sequence[str], numbers: list[int], channel: socket.socket, out: int, err: int
) -> NoReturn:
    """Install the filter, hand its listener over, and become the command."""
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        listener = _install(numbers)
        socket.send_fds(channel, [b"\0"], [listener])
        os.close(listener)
        os.execvp(command[0], list(command))  # noqa: S606 - that is the purpose
    finally:
        os._exit(127)


def _install(numbers: list[int]) -> int:
    """Put the filter on this process for good; give the descriptor that is told of calls."""
    machine = os.uname().machine
    code = [
        (enosys.BPF_LD_W_ABS, 0, 0, enosys.DATA_ARCH),
        (enosys.BPF_JEQ_K, 1, 0, enosys.AUDIT_ARCH[machine]),
        (enosys.BPF_RET_K, 0, 0, enosys.SECCOMP_RET_ALLOW),
        (enosys.BPF_LD_W_ABS, 0, 0, enosys.DATA_NR),
    ]
    for number in numbers:
        code += [(enosys.BPF_JEQ_K, 0, 1, number), (enosys.BPF_RET_K, 0, 0, _RET_USER_NOTIF)]
    code.append((enosys.BPF_RET_K, 0, 0, enosys.SECCOMP_RET_ALLOW))
    instructions = (enosys.SockFilter * len(code))(*(enosys.SockFilter(*each) for each in code))
    fprog = enosys.SockFprog(len(code), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(
        _SYS_SECCOMP[machine], _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(fprog)
    )
    if fd < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return fd


class _Supervisor:
    """Answers the calls of one command."""

    def __init__(
        self, listener: int, child: int, numbers: dict[int, str], fault: Fault | None
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.hit = False
        self._listener = listener
        self._child = child
        self._numbers = numbers
        self._fault = fault

    def attend(self) -> int:
        """Answer until the command, and soon after all below it, have ended; give its status."""
        handle = os.pidfd_open(self._child)
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(handle, select.POLLIN)
        status: int | None = None
        until = float("inf")
        try:
            while time.monotonic() < until:
                for fd, event in poll.poll(100):
                    if fd == handle:
                        _, ended = os.waitpid(self._child, 0)
                        status = os.waitstatus_to_exitcode(ended)
                        poll.unregister(handle)
                        until = time.monotonic() + _GRACE
                    elif event & select.POLLIN:
                        self._answer()
                    elif event & select.POLLHUP and status is not None:
                        return status  # nobody is left who has the filter
        finally:
            os.close(handle)
        return status if status is not None else -1

    def _answer(self) -> None:
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, buffer)
        except OSError:
            return  # the caller was killed meanwhile
        cookie, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        failure = 0
        name = self._numbers[number]
        if _concerns(CALLS[name], name, pid, arguments):
            self.calls[name] += 1
            if self._fault and self.calls[name] == self._fault.number:
                self.hit = True
                failure = self._fault.errno
                if not failure:
                    os.kill(self._child, signal.SIGKILL)
        flags = 0 if failure else _CONTINUE
        try:
            fcntl.ioctl(self._listener, _SEND, _RESPONSE.pack(cookie, 0, -failure, flags))
        except OSError:
            return  # the same


def _concerns(call: _Call, name: str, pid: int, arguments: list[int]) -> bool:
    """Tell whether a call is about what the command works on."""
    if name == "ioctl" and arguments[1] & 0xFFFFFFFF != _FICLONE:
        return False
    about = [_of_fd(pid, arguments[index]) for index in call.fd]
    about += [_beneath(pid, _AT_FDCWD, arguments[index]) for index in call.path]
    about += [_beneath(pid, arguments[index], arguments[index + 1]) for index in call.at]
    return all(not _outside(each) for each in about)


def _outside(path: str) -> bool:
    return not path.startswith("/") or f"{path}/".startswith(_OUTSIDE)


def _of_fd(pid: int, fd: int) -> str:
    number = ctypes.c_int(fd & 0xFFFFFFFF).value
    name = "cwd" if number == _AT_FDCWD else f"fd/{number}"
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""


def _beneath(pid: int, directory: int, pointer: int) -> str:
    """Give the path that a call is about; without a path it is about the descriptor."""
    path = _text(pid, pointer) if pointer else ""
    if path.startswith("/"):
        return path
    return os.path.join(_of_fd(pid, directory), path)


def _text(pid: int, pointer: int) -> str:
    """Read a string of a process; a page at a time, since the next may not be there."""
    found = b""
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    except OSError:
        return ""
    try:
        while b"\0" not in found and len(found) < 4096:
            part = os.pread(memory, 4096 - (pointer + len(found)) % 4096, pointer + len(found))
            if not part:
                break
            found += part
    except OSError:
        return ""
    finally:
        os.close(memory)
    return os.fsdecode(found.partition(b"\0")[0])
