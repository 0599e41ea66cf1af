# SPDX-License-Identifier: Apache-2.0
"""
Mounting a FUSE union: a server is started, its mount taken from it and attached elsewhere.

The server runs in a mount namespace of its own, where it mounts as it always does, whichever
libfuse it has. A detached clone of that mount is all that stays of it, so that the file system
ends with the last mount somebody attached, and the server with the file system: the kernel answers
ENODEV when it reads its next request. Of that namespace only the mounts stay that the server needs.

Until the clone is there, a guard in a session of its own, the parent of the server, kills it when
whoever asked for it is gone, killed or not.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final, NoReturn

from mountcr import journal, mountinfo, paths, procstat
from mountcr.errors import CapabilityError, StepError
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.private import in_private_namespace
from mountcr.kernel.servers import SERVERS, Server, end, wait
from mountcr.paths import KPath, decode, encode
from mountcr.programs import find_program

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from types import FrameType

    from mountcr.model import Mount

__all__ = ["mount_fuse", "unmount_fuse"]

_DYING: Final = 1.0
"""Seconds that a server whose mount does not answer has to say that it ends."""

_PATIENCE: Final = 20.0
"""Seconds until a server that neither mounts nor ends is given up."""

_LOOK: Final = 2
"""Milliseconds between two looks whether the mount is there."""

_KEPT: Final = ("/proc", "/dev", "/lib", "/lib64", "/usr/lib", "/usr/lib64")
"""What a server may come to need: fuse-overlayfs goes through /proc/self/fd, glibc loads libgcc."""

_CLEARED: Final = ("nosuid", "nodev", "noexec", "noatime", "nodiratime")
"""What libfuse and servers set by themselves: fuse-overlayfs noatime, libfuse nosuid and nodev."""

_COMMIT: Final = b"1"


def mount_fuse(
    at: KPath,
    programs: Sequence[str],
    package: str,
    layers: Sequence[KPath],
    arguments: Sequence[KPath],
) -> Server:
    """
    Start the first of some programs that is there, and attach what it mounts at a directory.

    It gets the arguments and, as the last word, where it mounts first. `layers` are the directories
    that it needs. The mount has no attributes but relatime. Raises CapabilityError when no program
    is there or the kernel has no open_tree(2) (Linux 5.2) or pidfd_open(2) (5.3), StepError for a
    layer that is gone and with the words of a server that failed, OSError otherwise. On failure
    neither mount nor server is left.
    """
    program = _program(programs, package)
    if not mounts.can_clone():
        msg = f"{os.path.basename(program)} would keep its mount for good without open_tree(2)"
        hint = "use Linux 5.2 or newer, or --driver overlay or vfs"
        raise CapabilityError(msg, probe="open_tree", hint=hint)
    if not syscalls.is_known(lambda: os.pidfd_open(-1)):
        msg = f"{os.path.basename(program)} cannot be watched without pidfd_open(2)"
        hint = "use Linux 5.3 or newer, or --driver overlay or vfs"
        raise CapabilityError(msg, probe="pidfd_open", hint=hint)
    for number, layer in enumerate(layers, 1):
        if not os.path.isdir(decode(layer)):
            msg = f"layer {number} of {len(layers)} is gone: {layer}"
            hint = "the image was removed since the dump; pull it again, by digest"
            raise StepError(msg, errno=errno.ENOENT, hint=hint)
    os.makedirs(decode(SERVERS), exist_ok=True)
    mountpoint = paths.join(SERVERS, os.urandom(8).hex())
    command = [os.fsencode(program), *map(decode, arguments), decode(mountpoint)]
    needed = (*layers, encode(program), *map(KPath, _KEPT))
    fds: list[int] = []
    server = in_private_namespace(lambda: _serve(command, mountpoint, needed, layers, fds), fds=fds)
    try:
        _attach(fds[0], at)
    except BaseException:
        os.close(fds.pop())
        _finish(server)
        raise
    finally:
        for fd in fds:
            os.close(fd)
    return server


def _attach(fd: int, at: KPath) -> None:
    """Attach a detached mount, with no attributes but relatime, or not at all."""
    journal.attaching(fd, at)
    mounts.attach(fd, at)
    try:
        mounts.clear_attributes(at, _CLEARED)
    except BaseException:
        syscalls.umount2(decode(at), syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH)
        raise


def unmount_fuse(at: KPath, server: Server) -> None:
    """
    Unmount what `mount_fuse` attached at a path and wait for the end of its server.

    It is killed when it does not end by itself, because something uses the mount. Raises OSError.
    """
    try:
        syscalls.umount2(decode(at), syscalls.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        syscalls.umount2(decode(at), syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH)
    _finish(server)


def _finish(server: Server) -> None:
    if not wait(server, 1.0) and not end(server):
        raise OSError(errno.EBUSY, f"the FUSE server {server.pid} does not end", str(server.pid))


def _program(programs: Sequence[str], package: str) -> str:
    for name in programs:
        found = find_program(name)
        if found:
            return found
    msg = f"there is no {' or '.join(programs)} here"
    hint = f"install the package {package}, or choose another --driver"
    raise CapabilityError(msg, probe=programs[0], hint=hint)


def _serve(
    command: Sequence[bytes],
    mountpoint: KPath,
    needed: Sequence[KPath],
    layers: Sequence[KPath],
    fds: list[int],
) -> Server:
    """Start the server in this mount namespace, which it gets for its own, and take its mount."""
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount(b"mountcr", decode(SERVERS), b"tmpfs", flags, b"size=64k,mode=700")
    os.mkdir(decode(mountpoint))
    below = _mount_id(mountpoint)  # before the start, because the server may be faster
    with _started(command) as starting:
        mount = starting.wait_for(mountpoint, below)
        os.symlink(mount.dev.encode(), decode(mountpoint) + b".dev")
        fd = _taken(mountpoint)
        try:
            server = Server(
                starting.pid,
                procstat.read_stat(starting.pid).start_time,
                mount.dev,
                tuple(map(encode, command)),
            )
            _let_go((SERVERS, *needed), layers)
            starting.commit()
        except BaseException:
            os.close(fd)
            raise
    fds.append(fd)
    return server


def _taken(mountpoint: KPath) -> int:
    """Give a detached clone of a mount and unmount it."""
    fd = mounts.clone(mountpoint)
    try:
        syscalls.umount2(decode(mountpoint), syscalls.MNT_DETACH)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _let_go(needed: Sequence[KPath], layers: Sequence[KPath]) -> None:
    """
    Detach every mount that has none of the needed paths, and is not below a layer.

    Else they would live as long as the server, also when the host unmounts them.
    """
    needed = (*needed, *(encode(os.path.realpath(decode(each))) for each in needed))
    layers = tuple(encode(os.path.realpath(decode(each))) for each in layers)
    kept = {prefix for path in needed for prefix in paths.prefixes(path)}
    gone: set[KPath] = set()
    for mount in mountinfo.read():
        above = set(paths.prefixes(mount.mountpoint))
        if mount.mountpoint in kept or not above.isdisjoint(layers):
            continue
        if not (above - {mount.mountpoint}).isdisjoint(gone):
            continue
        with contextlib.suppress(OSError):
            flags = syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH
            syscalls.umount2(decode(mount.mountpoint), flags)
            gone.add(mount.mountpoint)


class _Starting:
    """A server that is about to mount, as its guard tells of it."""

    def __init__(self, name: str, control: socket.socket, log: int) -> None:
        self._name = name
        self._control = control
        self._log = log
        self._told = b""
        self.pid = 0

    def wait_for(self, mountpoint: KPath, below: int) -> Mount:
        """
        Wait until a mount is there, on top of the one with the id `below`, and answers; give it.

        Raises StepError.
        """
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            self._listen()
            if self.pid and _mount_id(mountpoint) != below:
                mount = self._mounted(mountpoint)
                if mount is not None and _mount_id(mountpoint) != below:
                    return mount
        msg = f"{self._name} did not mount within {_PATIENCE:.0f} seconds"
        raise StepError(self._with_words(msg), errno=errno.ETIMEDOUT)

    def _mounted(self, mountpoint: KPath) -> Mount | None:
        """
        Give a mount that answers, or None if it is gone.

        libfuse 2 mounts before it reads the options that are its own, and unmounts again when one
        of them is wrong (lib/helper.c, `fuse_setup_common()`).
        """
        found = [each for each in mountinfo.read() if each.mountpoint == mountpoint]
        try:
            os.stat(decode(mountpoint))
        except OSError as error:
            until = time.monotonic() + _DYING
            while time.monotonic() < until:
                self._listen()  # one that mounts and then ends does not answer just before
            msg = f"{self._name} does not answer: {error.strerror}"
            raise StepError(self._with_words(msg), errno=error.errno or 0) from error
        return found[-1] if found else None

    def commit(self) -> None:
        """Let the server live on, without its guard and without a word."""
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
        fcntl.fcntl(self._log, fcntl.F_ADD_SEALS, seals)
        self._control.sendall(_COMMIT)

    def _listen(self) -> None:
        """Hear what the guard tells: the pid, then, if it comes to that, the end."""
        if not select.select([self._control], [], [], _LOOK / 1000)[0]:
            return
        said = self._control.recv(100)
        self._told += said
        for line in self._told.splitlines():
            what, _, number = line.partition(b" ")
            if what == b"pid":
                self.pid = int(number)
            elif what == b"end":
                msg = f"{self._name} ended with status {int(number)}"
                raise StepError(self._with_words(msg))
        if not said:
            raise StepError(f"the guard of {self._name} ended")

    def _with_words(self, message: str) -> str:
        """Add the last line that the server complained with."""
        said = procstat.printable(os.pread(self._log, 1 << 16, 0).replace(b"\n", b"\0"))
        lines = [line.strip() for line in said.split("\\x00") if line.strip()]
        return f"{message}: {lines[-1]}" if lines else message


@contextlib.contextmanager
def _started(command: Sequence[bytes]) -> Generator[_Starting]:
    """
    Start a server under a guard for a block of code.

    At its end the guard is gone, and so is the server unless it was committed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    log = os.memfd_create("server-stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        guard = os.fork()
        if guard == 0:
            _guard(theirs, log, command)
        theirs.close()
        try:
            yield _Starting(os.fsdecode(os.path.basename(command[0])), ours, log)
        finally:
            ours.close()
            os.waitpid(guard, 0)
    finally:
        os.close(log)


def _guard(control: socket.socket, log: int, command: Sequence[bytes]) -> NoReturn:
    """Start the server, kill it when nobody listens any more, leave it when told so."""
    try:
        _detach(control.fileno(), log)
        server = subprocess.Popen(  # the program is found by name, its words are ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            start_new_session=True,
            umask=0,
        )
        with contextlib.suppress(OSError):
            control.sendall(b"pid %d\n" % server.pid)
        _watch(control, server)
    except OSError as error:
        os.write(log, f"{error.strerror}\n".encode())
        control.sendall(b"end -1\n")
    finally:
        os._exit(0)


def _watch(control: socket.socket, server: subprocess.Popen[bytes]) -> None:
    fd = os.pidfd_open(server.pid)
    ready, _, _ = select.select([control.fileno(), fd], [], [])
    if control.fileno() in ready:
        with contextlib.suppress(OSError):
            if control.recv(1) == _COMMIT:
                return
    server.kill()
    status = server.wait()
    with contextlib.suppress(OSError):
        control.sendall(b"end %d\n" % status)


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """Do nothing, and unlike SIG_IGN, let a program that is started decide for itself."""


def _detach(*kept: int) -> None:
    """
    Leave session, descriptors and signals of the caller.

    Signals get a handler that does nothing, because what is ignored stays so in the server, and
    libfuse respects that (lib/fuse_signals.c, `set_one_signal_handler()`).
    """
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    start = 3
    for fd in sorted(kept):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _mount_id(path: KPath) -> int:
    """Give the id of the mount that lies on top of a path, without asking its file system."""
    fd = os.open(decode(path), os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/thread-self/fdinfo/{fd}", encoding="ascii") as file:
            found = [line for line in file if line.startswith("mnt_id:")]
    finally:
        os.close(fd)
    return int(found[0].partition(":")[2])
