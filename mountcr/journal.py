# SPDX-License-Identifier: Apache-2.0
"""
The journal: what a running operation is about to leave on the machine, for when it is killed.

An operation has one record, a file in `DIRECTORY` that is named by its pid and start time. A line
is written before each thing is done, and another one with what identifies the thing when it is.
The record is removed when the operation has ended well, or has undone everything; what one left
behind that was killed is removed by `mountcr cleanup`.

What ends with the processes is in no record: mounts of a private mount namespace, mounts that
are attached nowhere, descriptors and locks. Nor is what the caller keeps when the operation ends
well. The record is locked (flock(2)) for as long as a process of the operation lives, forked
workers included.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from mountcr import devices, mountinfo, procstat
from mountcr.boot import boot_id
from mountcr.errors import StepError
from mountcr.kernel.identity import identify, unique_mount_id
from mountcr.paths import KPath, decode, encode

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

__all__ = [
    "DIRECTORY",
    "PARTIAL",
    "Attaching",
    "Began",
    "ControlGroup",
    "Exporting",
    "HandingOver",
    "Images",
    "Journal",
    "Kept",
    "Line",
    "Linking",
    "Made",
    "Making",
    "Mounting",
    "Processes",
    "attaching",
    "current",
    "link",
    "made",
    "make_directories",
    "make_directory",
    "make_partial",
    "making",
    "mounting",
    "note",
    "opened",
    "parse",
]

DIRECTORY: Final = KPath("/run/mountcr/journal")

PARTIAL: Final = b".mountcr-partial"
"""How the name of a directory ends that is being made and not yet in its place."""


class _Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="line", tag=str.lower):
    pass


class Began(_Line, frozen=True, kw_only=True):
    """The first line: which operation of which process, counted from which boot."""

    operation: str
    pid: int
    start_time: int
    boot: str


class Making(_Line, frozen=True, kw_only=True):
    """
    A directory is about to be made under the name `partial`, and gets the name `path` then.

    A `tree` belongs to the operation with everything in it; of the others only an empty one goes.
    In a `ground` the operation mounts, and what is mounted beneath belongs to it too.
    """

    partial: KPath
    path: KPath
    tree: bool = False
    ground: bool = False


class Made(_Line, frozen=True, kw_only=True):
    """The directory that was being made is there."""

    partial: KPath
    dev: int
    ino: int
    handle: str


class Attaching(_Line, frozen=True, kw_only=True):
    """A detached mount is about to be attached; `unique` is 0 before Linux 6.8."""

    at: KPath
    id: int
    unique: int
    dev: str


class Mounting(_Line, frozen=True, kw_only=True):
    """
    Something is about to be mounted by path, where `before` are the ids of what is there.

    `fstype` or `dev` is empty where it is not known.
    """

    at: KPath
    fstype: str
    dev: str
    before: tuple[int, ...]


class Linking(_Line, frozen=True, kw_only=True):
    """A symbolic link to `target` is about to be made."""

    path: KPath
    target: KPath


class ControlGroup(_Line, frozen=True, kw_only=True):
    """A control group is about to be made."""

    path: KPath


class Processes(_Line, frozen=True, kw_only=True):
    """Processes are about to be started that have a word in their command line or environment."""

    token: str
    what: str


class Kept(_Line, frozen=True, kw_only=True):
    """What is made under this name belongs to everybody as soon as it has the name."""

    path: KPath


class Images(_Line, frozen=True, kw_only=True):
    """A dump is about to write images; while the container goes on they are half of a dump."""

    path: KPath
    pid: int
    start_time: int
    kept: tuple[KPath, ...]
    leave_running: bool


class Exporting(_Line, frozen=True, kw_only=True):
    """
    A complete bundle is about to get its name `path`: one of a container of that pid.

    While that goes on, which it was not to do, the bundle tells of what never was.
    """

    path: KPath
    dev: int
    ino: int
    handle: str
    pid: int
    start_time: int


class HandingOver(_Line, frozen=True, kw_only=True):
    """A restored container is about to run on what was made."""


_There: TypeAlias = Making | Made | Kept | Linking | Attaching | Mounting | ControlGroup
Line: TypeAlias = Began | _There | Processes | Images | Exporting | HandingOver

_DECODER: Final = msgspec.json.Decoder(Line)


class Journal:
    """The record of one operation, open for appending."""

    def __init__(self, fd: int, path: bytes) -> None:
        self._fd = fd
        self.path = path
        self.namespace = _namespace()

    def note(self, line: Line) -> None:
        """Add a line. Raises StepError when it cannot be written; then nothing may be done."""
        data = msgspec.json.encode(line) + b"\n"
        try:
            _append(self._fd, data)
        except OSError as error:
            raise _unwritable(error, self.path) from error

    def lines(self) -> list[Line]:
        """Read what was noted so far."""
        return parse(os.pread(self._fd, os.fstat(self._fd).st_size, 0))

    def remove(self) -> None:
        """
        Remove the record: what it tells is done for good or undone.

        Where it cannot be removed it tells of nothing any more. Raises StepError if not even that.
        """
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            try:
                os.ftruncate(self._fd, 0)
            except OSError:
                raise _unwritable(error, self.path) from error

    def close(self) -> None:
        """Give the descriptor, and with it the lock, back."""
        os.close(self._fd)


_current: ContextVar[Journal | None] = ContextVar("mountcr_journal", default=None)


def current() -> Journal | None:
    """Give the record of the operation that is running, None outside of one."""
    return _current.get()


@contextlib.contextmanager
def opened(operation: str) -> Generator[Journal]:
    """
    Open a record for a block, in which `current()` gives it; it is closed then and stays.

    Raises StepError when it cannot be made; it is not there then.
    """
    try:
        fd, path = _create()
    except OSError as error:
        raise _unwritable(error, decode(DIRECTORY)) from error
    journal = Journal(fd, path)
    try:
        stat = procstat.read_stat(os.getpid())
        journal.note(
            Began(operation=operation, pid=stat.pid, start_time=stat.start_time, boot=boot_id())
        )
    except BaseException:
        journal.remove()
        journal.close()
        raise
    before = _current.set(journal)
    try:
        yield journal
    finally:
        _current.reset(before)
        journal.close()


def parse(data: bytes) -> list[Line]:
    """Read the lines of a record; one at the end that was being written is left out."""
    whole = data[: data.rfind(b"\n") + 1]
    return [_DECODER.decode(line) for line in whole.splitlines()]


def note(line: Line) -> None:
    """Add a line to the record of the running operation, if there is one."""
    journal = _current.get()
    if journal:
        journal.note(line)


# --- Directories ----------------------------------------------------------------------------------


def make_directory(path: bytes, mode: int = 0o755, *, tree: bool = False) -> None:
    """
    Make a directory and note it, so that it is known although this is killed at any moment.

    It gets its name when it is noted what identifies it. Raises OSError as os.mkdir().
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(path))
    if _current.get() is None:
        os.mkdir(path, mode)
        return
    parent, _ = os.path.split(path.rstrip(b"/"))
    partial = os.path.join(parent, b"." + os.urandom(8).hex().encode() + PARTIAL)
    try:
        make_partial(partial, path, mode, tree=tree)
        try:
            os.rename(partial, path)
        except BaseException:
            os.rmdir(partial)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fsdecode(path)) from error


def make_partial(
    partial: bytes, path: bytes, mode: int = 0o755, *, tree: bool = True, ground: bool = False
) -> None:
    """
    Make a directory under a name that only mountcr uses, and note it with the name it will get.

    Until it is noted what identifies it, `cleanup` removes an empty one of that name. Raises
    OSError as os.mkdir().
    """
    making(partial, path, tree=tree, ground=ground)
    os.mkdir(partial, mode)
    try:
        made(partial)
    except BaseException:
        os.rmdir(partial)
        raise


def making(partial: bytes, path: bytes, *, tree: bool = True, ground: bool = False) -> None:
    """Note that a directory is about to be made under one name and will get another."""
    name, final = (encode(os.path.abspath(each)) for each in (partial, path))
    note(Making(partial=name, path=final, tree=tree, ground=ground))


def made(partial: bytes) -> None:
    """Note what identifies the directory that was being made under a name. Raises OSError."""
    if _current.get():
        dev, ino, handle = identify(partial)
        name = encode(os.path.abspath(partial))
        note(Made(partial=name, dev=dev, ino=ino, handle=handle))


def make_directories(path: bytes, mode: int = 0o755, *, tree: bool = False) -> bool:
    """
    Make a directory with its parents and note them; tell whether it had to be made.

    `tree` is about the directory itself; of its parents only empty ones are ever removed.
    """
    if os.path.isdir(path):
        return False
    parent = os.path.dirname(path.rstrip(b"/"))
    if parent and not os.path.isdir(parent):
        make_directories(parent)
    make_directory(path, mode, tree=tree)
    return True


def link(path: bytes, target: bytes) -> None:
    """Make a symbolic link and note it. Raises OSError as os.symlink()."""
    note(Linking(path=encode(os.path.abspath(path)), target=encode(target)))
    os.symlink(target, path)


# --- Mounts ---------------------------------------------------------------------------------------


def attaching(fd: int, at: KPath) -> None:
    """Note that a detached mount is about to be attached at a path of this mount namespace."""
    if _vanishing():
        return
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    note(
        Attaching(
            at=at,
            id=int(fields["mnt_id"]),
            unique=unique_mount_id(b"", fd),
            dev=devices.of_stat(os.fstat(fd).st_dev),
        )
    )


def mounting(at: KPath, fstype: str = "", *, source: KPath | None = None) -> None:
    """Note that a file system, or a bind of a source, is about to be mounted at a path here."""
    if _vanishing():
        return
    before = tuple(mount.id for mount in mountinfo.read() if mount.mountpoint == at)
    dev = devices.of_stat(os.stat(decode(source)).st_dev) if source else ""
    note(Mounting(at=at, fstype=fstype, dev=dev, before=before))


def _vanishing() -> bool:
    """Tell whether mounts made now end with the processes of the operation, or nobody asks."""
    journal = _current.get()
    return journal is None or journal.namespace != _namespace()


def _namespace() -> int:
    return os.stat("/proc/self/ns/mnt").st_ino


# --- Files of records -----------------------------------------------------------------------------


def _create() -> tuple[int, bytes]:
    """Make an empty, locked record; give its descriptor and path."""
    directory = decode(DIRECTORY)
    os.makedirs(os.path.dirname(directory), mode=0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    start_time = procstat.read_stat(os.getpid()).start_time
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for path in _names(directory, start_time):
        try:
            fd = os.open(path, flags, 0o600)
        except FileExistsError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except BaseException:
            os.unlink(path)
            os.close(fd)
            raise
        return fd, path
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), directory)


def _names(directory: bytes, start_time: int) -> Iterable[bytes]:
    """Give names for a record; a second one is for an operation in another thread."""
    name = f"{os.getpid()}-{start_time}"
    for number in range(1000):
        yield os.path.join(directory, (f"{name}-{number}" if number else name).encode())


def _append(fd: int, data: bytes) -> None:
    """Write a whole line or none."""
    written = os.write(fd, data)
    if written != len(data):
        os.ftruncate(fd, os.fstat(fd).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unwritable(error: OSError, path: bytes) -> StepError:
    msg = f"the journal {os.fsdecode(path)} cannot be written: {error.strerror}"
    hint = "without it, nothing that is left behind could be found; make room in /run"
    return StepError(msg, errno=error.errno or 0, hint=hint)
