# SPDX-License-Identifier: Apache-2.0
"""
A random container for real: namespaces, system calls, pivot_root(2), and busybox that sleeps.

What comes from the host is opened as detached mounts before the root is changed, while the host's
peer groups can still be joined. Operations follow with the container's own paths; one that the
kernel refuses is skipped and its error reported.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from dataclasses import dataclass, field
from functools import singledispatchmethod
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from mountcr import mountinfo, procstat
from mountcr.graph.tree import MountTree
from mountcr.kernel import mounts, syscalls
from mountcr.kernel._libc_ffi import ffi
from mountcr.paths import ROOT, decode, encode
from oracle import recipe as wish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.model import Mount
    from oracle.ground import Place
    from oracle.recipe import Operation, Recipe

__all__ = ["Container", "end", "start", "started", "tables", "tasks", "witness"]

_PATIENCE: Final = 5000
"""Milliseconds for a killed process to end."""

_HELD: Final = 100
"""Descriptors from here on are files that the root task holds open."""

_SYS_io_uring_setup: Final = 425
_SYS_memfd_secret: Final = 447
_IO_URING_PARAMS: Final = 120  # bytes

_PROPAGATION: Final = {
    "private": syscalls.MS_PRIVATE,
    "slave": syscalls.MS_SLAVE,
    "shared": syscalls.MS_SHARED,
    "unbindable": syscalls.MS_UNBINDABLE,
}


@dataclass(frozen=True)
class Container:
    """
    A container that runs: the pid of its init on the host, and the fate of each operation.

    `fates` are `ok` or the name of an error; those of a nested namespace follow its own.
    """

    pid: int
    fates: tuple[str, ...] = ()


def start(recipe: Recipe, place: Place) -> Container:
    """Start a container on the root of a place; raises RuntimeError saying why it did not."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _launch(recipe, place, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode().splitlines()
    os.waitpid(child, 0)
    pid = next((int(line[4:]) for line in said if line.startswith("pid ")), 0)
    trouble = [line for line in said if line.startswith("failed ")]
    if trouble or not pid:
        if pid:
            end(pid)
        raise RuntimeError(f"the container of seed {recipe.seed} did not start: {trouble}")
    return Container(pid, tuple(line[5:] for line in said if line.startswith("fate ")))


def started(pid: int) -> int:
    """Give when a process started, in clock ticks since boot; 0 for one that has ended."""
    try:
        return procstat.read_stat(pid).start_time
    except ProcessLookupError:
        return 0


def end(pid: int, start_time: int = 0) -> None:
    """Kill the init of a container, which ends all that is in it, unless the pid was reused."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if start_time and started(pid) != start_time:
            return
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(_PATIENCE)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def tasks(pid: int) -> dict[int, int]:
    """Give the tasks of a container: pid in it to pid on the host."""
    found: dict[int, int] = {}
    left = [pid]
    while left:
        each = left.pop()
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{each}/status").read_text()
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:"))
            found[int(numbers.split()[-1])] = each
            children = Path(f"/proc/{each}/task/{each}/children").read_text()
            left += map(int, children.split())
    return dict(sorted(found.items()))


def tables(pid: int) -> dict[int, tuple[Mount, ...]]:
    """Give the mount table of every namespace, by the first pid in the container that is in it."""
    found: dict[int, tuple[Mount, ...]] = {}
    seen: set[str] = set()
    for inner, outer in tasks(pid).items():
        namespace = os.readlink(f"/proc/{outer}/ns/mnt")
        if namespace not in seen:
            seen.add(namespace)
            found[inner] = mountinfo.read(outer)
    return found


def _launch(recipe: Recipe, place: Place, writer: int) -> NoReturn:
    """Fork the init into new namespaces, say its pid, and leave."""
    try:
        syscalls.unshare(
            syscalls.CLONE_NEWNS
            | syscalls.CLONE_NEWPID
            | syscalls.CLONE_NEWUTS
            | syscalls.CLONE_NEWIPC
        )
        pid = os.fork()
        if pid == 0:
            _Init(recipe, place, writer).run()
        os.write(writer, b"pid %d\n" % pid)
    except BaseException as error:  # noqa: BLE001  # it travels home as text
        os.write(writer, f"failed {error!r}\n".encode())
    finally:
        os._exit(0)


@dataclass
class _Init:
    """The init of a container, or with `nested` a child in a mount namespace of its own."""

    recipe: Recipe
    place: Place
    writer: int
    clones: dict[int, int] = field(default_factory=dict[int, int])
    held: int = _HELD

    def run(self) -> NoReturn:
        """Set up and exec."""
        try:
            os.setsid()
            self._collect()
            mounts.set_propagation(ROOT, "slave", recursive=True)
            self._enter()
            self.perform(self.recipe.operations)
            self._exec()
        except BaseException as error:  # noqa: BLE001
            self._say(f"failed {error!r}")
        finally:
            os._exit(1)

    def _say(self, line: str) -> None:
        os.write(self.writer, line.encode("utf-8", "backslashreplace") + b"\n")

    def _collect(self) -> None:
        """Open what comes from the host, while it is in sight and peers can be joined."""
        for operation in self.recipe.operations:
            with contextlib.suppress(OSError):
                if isinstance(operation, wish.BindOutside):
                    path = encode(str(self.place.source_path(operation.source)))
                    fd = mounts.clone(path, recursive=operation.recursive)
                elif isinstance(operation, wish.Device):
                    fd = mounts.clone(encode(f"/dev/{operation.name}"))
                elif isinstance(operation, wish.Mask) and operation.outside:
                    fd = mounts.clone(encode("/dev/null"))
                elif isinstance(operation, wish.Overlay) and operation.layers == "host":
                    fd = self._host_overlay(operation)
                else:
                    continue
                self.clones[id(operation)] = fd

    def _host_overlay(self, operation: wish.Overlay) -> int:
        top = os.fsencode(self.place.top / "nested")
        context = syscalls.fsopen(b"overlay")
        try:
            lowers = (b"one", b"two")
            syscalls.fsconfig_string(
                context, b"lowerdir", b":".join(top + b"/" + each for each in lowers)
            )
            if operation.upper:
                syscalls.fsconfig_string(context, b"upperdir", top + b"/upper")
                syscalls.fsconfig_string(context, b"workdir", top + b"/work")
            syscalls.fsconfig_create(context)
            return syscalls.fsmount(context)
        finally:
            os.close(context)

    def _enter(self) -> None:
        """Make the root the root, pivot_root(2), with the propagation of the recipe."""
        root = os.fsencode(self.place.root)
        syscalls.mount(root, root, b"", syscalls.MS_BIND)
        if self.recipe.propagation != "slave":
            mounts.set_propagation(encode(root), "private")
        os.chdir(root)
        syscalls.pivot_root(b".", b".")
        syscalls.umount2(b".", syscalls.MNT_DETACH)
        os.chdir("/")
        if self.recipe.propagation == "shared":
            mounts.set_propagation(ROOT, "shared")

    def _exec(self) -> NoReturn:
        """Keep the files that are held open and the standard streams, and become the sleeper."""
        os.dup2(self.writer, 3, inheritable=False)
        with contextlib.suppress(OSError):
            null = os.open("/dev/null", os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
        os.closerange(4, _HELD)
        os.closerange(self.held, self.held + 1000)
        _sleep()

    # Operations

    def perform(self, operations: tuple[Operation, ...]) -> None:
        """Do what the kernel lets us do, and report each."""
        for operation in operations:
            try:
                self.do(operation)
            except OSError as error:
                self._say(f"fate {errno.errorcode.get(error.errno or 0, 'unknown')}")
            else:
                if not isinstance(operation, wish.Nested):
                    self._say("fate ok")

    @singledispatchmethod
    def do(self, operation: object) -> None:
        """Perform an operation; raises OSError when the kernel refuses it."""
        raise TypeError(operation)

    @do.register
    def _(self, operation: wish.Tmpfs) -> None:
        os.makedirs(operation.at, exist_ok=True)
        syscalls.mount(operation.source, operation.at, b"tmpfs", 0, operation.options)
        for number in range(operation.files):
            _write(operation.at + b"/file%d" % number, b"in memory %d\n" % number)
        os.makedirs(operation.at + b"/sub/deep", exist_ok=True)
        if operation.at == b"/dev":
            os.mknod(b"/dev/null", 0o20666, os.makedev(1, 3))
            for name in (b"pts", b"shm", b"mqueue"):
                os.mkdir(b"/dev/" + name)
        mounts.set_attributes(encode(operation.at), operation.attributes)

    @do.register
    def _(self, operation: wish.Pseudo) -> None:
        os.makedirs(operation.at, exist_ok=True)
        data = b"newinstance,ptmxmode=0666,mode=620" if operation.fstype == "devpts" else None
        fstype = operation.fstype.encode()
        syscalls.mount(fstype, operation.at, fstype, 0, data)
        mounts.set_attributes(encode(operation.at), operation.attributes)

    @do.register
    def _(self, operation: wish.BindInside) -> None:
        if operation.file:
            _touch(operation.at)
        else:
            os.makedirs(operation.source, exist_ok=True)
            os.makedirs(operation.at, exist_ok=True)
        flags = syscalls.MS_BIND | (syscalls.MS_REC if operation.recursive else 0)
        syscalls.mount(operation.source, operation.at, b"", flags)
        mounts.set_attributes(encode(operation.at), operation.attributes)

    @do.register
    def _(self, operation: wish.BindOutside) -> None:
        if operation.source == "file":
            _touch(operation.at)
        else:
            os.makedirs(operation.at, exist_ok=True)
        self._attach(operation, operation.at, operation.propagation)
        mounts.set_attributes(encode(operation.at), operation.attributes)

    @do.register
    def _(self, operation: wish.Device) -> None:
        _touch(operation.at)
        self._attach(operation, operation.at, operation.propagation)

    @do.register
    def _(self, operation: wish.Mask) -> None:
        if operation.outside:
            self._attach(operation, operation.at, "private")
        else:
            syscalls.mount(b"/dev/null", operation.at, b"", syscalls.MS_BIND)

    @do.register
    def _(self, operation: wish.Deleted) -> None:
        if operation.file:
            _touch(operation.at)
            _write(operation.source, b"gone\n")
        else:
            os.makedirs(operation.at, exist_ok=True)
            os.makedirs(operation.source)
        syscalls.mount(operation.source, operation.at, b"", syscalls.MS_BIND)
        (os.unlink if operation.file else os.rmdir)(operation.source)

    @do.register
    def _(self, operation: wish.Overlay) -> None:
        os.makedirs(operation.at, exist_ok=True)
        if operation.layers == "host":
            self._attach(operation, operation.at, "private")
            return
        for name in (b"one", b"two", b"upper", b"work"):
            os.makedirs(operation.where + b"/" + name, exist_ok=True)
            _write(operation.where + b"/" + name + b"/in-the-layer", name)
        os.unlink(operation.where + b"/work/in-the-layer")
        where = operation.where.replace(b"\\", b"\\\\").replace(b",", b"\\,")
        data = b"lowerdir=%b/one:%b/two" % ((where.replace(b":", b"\\:"),) * 2)
        if operation.upper:
            data += b",upperdir=%b/upper,workdir=%b/work" % (where, where)
        syscalls.mount(b"overlay", operation.at, b"overlay", 0, data)

    @do.register
    def _(self, operation: wish.Move) -> None:
        os.makedirs(operation.at, exist_ok=True)
        syscalls.mount(operation.source, operation.at, b"", syscalls.MS_MOVE)

    @do.register
    def _(self, operation: wish.Attributes) -> None:
        mounts.set_attributes(encode(operation.at), operation.attributes)

    @do.register
    def _(self, operation: wish.Remount) -> None:
        syscalls.mount(b"", operation.at, b"", syscalls.MS_REMOUNT | syscalls.MS_RDONLY)

    @do.register
    def _(self, operation: wish.Propagate) -> None:
        flags = _PROPAGATION[operation.propagation]
        if operation.recursive:
            flags |= syscalls.MS_REC
        syscalls.mount(b"", operation.at, b"", flags)

    @do.register
    def _(self, operation: wish.Open) -> None:
        path = operation.directory + b"/held"
        if operation.write:
            _write(path, b"held\n")
        fd = os.open(path if operation.write else operation.directory, os.O_RDONLY)
        os.dup2(fd, self.held)
        os.close(fd)
        self.held += 1

    @do.register
    def _(self, operation: wish.Hold) -> None:
        fd = _opened(operation.what)
        os.dup2(fd, self.held)
        os.close(fd)
        self.held += 1

    @do.register
    def _(self, operation: wish.Nested) -> None:
        """Wait until the child has become the sleeper, so that what follows is later for it."""
        reader, writer = os.pipe()
        if os.fork() == 0:
            _Child(self.recipe, self.place, self.writer).become(operation, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            pipe.read()

    def _attach(self, operation: Operation, at: bytes, propagation: str) -> None:
        fd = self.clones.get(id(operation))
        if fd is None:
            raise OSError(errno.ENOENT, "the host has no such thing")
        mounts.attach(fd, encode(at))
        kinds = {"kept": (), "both": ("slave", "shared")}.get(propagation, (propagation,))
        for kind in kinds:
            mounts.set_propagation(encode(at), kind, recursive=True)


class _Child(_Init):
    """A child task in a mount namespace of its own."""

    def become(self, operation: wish.Nested, done: int) -> NoReturn:
        """Unshare, perform, exec; `done` is closed by the exec."""
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            if operation.propagation != "kept":
                mounts.set_propagation(ROOT, operation.propagation, recursive=True)
            self._say("fate ok")
            self.perform(operation.operations)
            os.dup2(done, 3, inheritable=False)
            os.closerange(0, 3)
            os.closerange(4, self.held + 1000)
            _sleep()
        except BaseException as error:  # noqa: BLE001
            self._say(f"failed {error!r}")
        finally:
            os._exit(1)


def _opened(what: str) -> int:
    """Open something that is no file."""
    if what == "memfd":
        return os.memfd_create("held")
    if what == "eventfd":
        return os.eventfd(1)
    if what == "pidfd":
        return os.pidfd_open(os.getpid())
    if what == "fscontext":
        return syscalls.fsopen(b"tmpfs")
    if what == "io_uring":
        parameters = ffi.new("char[]", _IO_URING_PARAMS)
        return syscalls.checked(syscalls.call(_SYS_io_uring_setup, 8, parameters), b"io_uring")
    return syscalls.checked(syscalls.call(_SYS_memfd_secret, 0), b"memfd_secret")


def _sleep() -> NoReturn:
    os.execve("/bin/busybox", ["busybox", "sleep", "1000"], {"PATH": "/bin"})  # noqa: S606


def _touch(path: bytes) -> None:
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _write(path: bytes, content: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def witness(pid: int) -> Iterator[tuple[bytes, object]]:
    """
    Give what is seen in each mounted directory or file with content of its own, by mountpoint.

    Of directories the names and types in them, of files their content. Kernel file systems have
    their own life and are left out, and so is what another mount hides.
    """
    root = b"/proc/%d/root" % pid
    tree = MountTree(mountinfo.read(pid))
    for mount in tree.mounts:
        own = mount.fstype in {"tmpfs", "overlay", "ext4", "ramfs"}
        if own and tree.lies_on(mount.mountpoint) is mount:
            yield _seen(root, mount)


def _seen(root: bytes, mount: Mount) -> tuple[bytes, object]:
    path = decode(mount.mountpoint)
    try:
        if os.path.isdir(root + path):
            names = sorted(
                (each.name, each.is_dir(follow_symlinks=False)) for each in os.scandir(root + path)
            )
            return path, names
        if os.path.isfile(root + path):
            return path, Path(os.fsdecode(root + path)).read_bytes()
        return path, os.stat(root + path).st_rdev
    except OSError as error:
        return path, error.errno
