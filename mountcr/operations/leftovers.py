# SPDX-License-Identifier: Apache-2.0
"""
What an operation left behind that did not end well, removed by what its record tells.

Only what the record identifies is removed: a directory by its inode, a mount by its id, a process
by a word that nobody else has. What somebody uses by now, or has put elsewhere, stays.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from functools import partial
from typing import TYPE_CHECKING, Final

from mountcr import journal, manifest, mountinfo
from mountcr.errors import LeftBehindError
from mountcr.interrupts import held_back
from mountcr.journal import (
    Attaching,
    ControlGroup,
    Exporting,
    Images,
    Linking,
    Made,
    Making,
    Mounting,
    Processes,
)
from mountcr.kernel.identity import identify, unique_mount_id
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.mounttable import with_unique_ids
from mountcr.kernel.removal import remove_any, remove_tree
from mountcr.operations.fate import Fate, fate_of
from mountcr.operations.usage import users_of
from mountcr.paths import decode, is_beneath

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from mountcr.journal import Line
    from mountcr.model import Mount
    from mountcr.paths import KPath

__all__ = ["Leftovers", "recorded"]

_WRITTEN: Final = frozenset({manifest.MANIFEST.encode(), manifest.DESCRIPTORS.encode()})

_DYING: Final = 5.0
"""Seconds that a killed process may take to end."""


@contextlib.contextmanager
def recorded(operation: str, *, undo: bool = True) -> Generator[None]:
    """
    Keep a record of what a block of code leaves on the machine until it ends.

    Inside of another operation the record is that one's. When the block fails, what it did not
    undo itself, because a worker was killed for instance, is removed. Raises LeftBehindError when
    that fails too: then the record stays for `cleanup`. Without `undo` the block undoes all itself.
    """
    outer = journal.current()
    if os.geteuid() != 0:
        yield  # there is no place for a record, and little that could be left behind
        return
    if outer:
        begun = len(outer.lines())
        try:
            yield
        except BaseException:
            if undo:
                _undo(outer.lines()[begun:])
            raise
        return
    with journal.opened(operation) as own:
        try:
            yield
            own.remove()
        except BaseException:
            if undo:
                _undo(own.lines())
            own.remove()
            raise


def _undo(lines: Sequence[Line]) -> None:
    with held_back():
        leftovers = Leftovers(lines)
        leftovers.remove()
    if leftovers.left:
        msg = f"could not undo: {'; '.join(leftovers.left)}"
        hint = "`mountcr cleanup` tries again"
        raise LeftBehindError(msg, leftovers.left, hint=hint)


class Leftovers:
    """
    What the lines of one record tell, last first.

    `removed` and `left` are noun phrases of what was removed, or would be in a dry run, and of
    what could not be, with the reason. `same_boot` tells whether the machine runs since then.
    """

    def __init__(
        self, lines: Sequence[Line], *, dry_run: bool = False, same_boot: bool = True
    ) -> None:
        self.removed: list[str] = []
        self.left: list[str] = []
        self._lines = lines
        self._dry_run = dry_run
        self._same_boot = same_boot
        self._made = {line.partial: line for line in lines if isinstance(line, Made)}
        self._kept = {line.path for line in lines if isinstance(line, journal.Kept)}
        self._handed_over = any(isinstance(line, journal.HandingOver) for line in lines)
        self._gone: set[bytes] = set()

    def remove(self) -> None:
        """Remove everything that can be; never raises OSError."""
        for line in reversed(self._lines):
            match line:
                case Making():
                    self._remove_directory(line)
                case Images():
                    self._remove_images(line)
                case Exporting():
                    self._remove_bundle(line)
                case Linking():
                    self._remove_link(line)
                case Attaching() if self._same_boot:
                    self._unmount(line.at, [each for each in _at(line.at) if _is(each, line)])
                case Mounting() if self._same_boot:
                    self._unmount(line.at, [each for each in _at(line.at) if _is_new(each, line)])
                case ControlGroup() if self._same_boot:
                    self._remove_group(line.path)
                case Processes() if self._same_boot:
                    self._end(line)
                case _:
                    pass

    def _do(self, what: str, action: Callable[[], object]) -> bool:
        """Do it, or say that it would be done; tell whether it is."""
        if not self._dry_run:
            try:
                action()
            except OSError as error:
                where = f", {os.fsdecode(error.filename)}" if error.filename else ""
                self.left.append(f"{what} ({error.strerror or error}{where})")
                return False
        self.removed.append(what)
        return True

    # Directories

    def _remove_directory(self, line: Making) -> None:
        made = self._made.get(line.partial)
        final = made and line.path not in self._kept
        for path in (line.partial, line.path) if final else (line.partial,):
            name = decode(path)
            try:
                found = identify(name)
            except OSError:
                continue
            if made and found != (made.dev, made.ino, made.handle):
                continue
            if made and line.tree:
                self._remove_tree(line, path)
            elif self._is_empty(name):
                self._do(f"directory {path}", partial(os.rmdir, name))
                self._gone.add(name)

    def _is_empty(self, directory: bytes) -> bool:
        """Tell whether nothing is in a directory, but for what a dry run would have removed."""
        gone = (os.path.split(each) for each in self._gone)
        names = {name for parent, name in gone if parent == directory}
        return set(os.listdir(directory)) <= names

    def _remove_tree(self, line: Making, path: KPath) -> None:
        if line.ground:
            beneath = [each for each in mountinfo.read() if is_beneath(each.mountpoint, path)]
            for mount in reversed(beneath):
                self._do(f"mount {mount.mountpoint}", partial(_unmount, mount.mountpoint))
        else:
            users = users_of(path)
            if users and self._handed_over:
                return  # the container was restored after all, and runs on it
            if users:
                self.left.append(f"directory {path} (in use: {users[0]})")
                return
            if self._handed_over and not self._is_empty(decode(path)):
                why = "it may hold what a restored container wrote; remove it by hand"
                self.left.append(f"directory {path} ({why})")
                return
        if self._do(f"directory {path}", lambda: remove_tree(path)):
            self._gone.add(decode(path))

    def _remove_link(self, line: Linking) -> None:
        name = decode(line.path)
        with contextlib.suppress(OSError):
            if os.readlink(name) == decode(line.target):
                self._do(f"link {line.path}", partial(os.unlink, name))

    def _remove_group(self, path: KPath) -> None:
        """Remove a control group if nothing is in it; one that is used is somebody's by now."""
        name = decode(path)
        try:
            with open(os.path.join(name, b"cgroup.procs"), "rb") as file:
                used = bool(file.read(1))
        except OSError:
            return
        if not used:
            self._do(f"control group {path}", lambda: os.rmdir(name))

    # A dump

    def _remove_images(self, line: Images) -> None:
        """Remove half of a dump; when the container is gone, the images are all that is left."""
        complete = os.path.exists(os.path.join(decode(line.path), manifest.MANIFEST.encode()))
        if (line.leave_running and complete) or not self._goes_on(line, f"images in {line.path}"):
            return
        kept = {decode(name) for name in line.kept}
        ours = [name for name in _written(decode(line.path)) if name not in kept]
        if ours:
            self._do(f"images in {line.path}", lambda: _unlink(decode(line.path), ours))

    def _remove_bundle(self, line: Exporting) -> None:
        """Remove a bundle of a container's end that goes on; what has ended is in it alone."""
        what = f"bundle {line.path}"
        try:
            found = identify(decode(line.path))
        except OSError:
            return
        if found == (line.dev, line.ino, line.handle) and self._goes_on(line, what):
            self._do(what, lambda: remove_any(line.path))

    def _goes_on(self, line: Images | Exporting, what: str) -> bool:
        """Tell whether a container goes on; while CRIU has its tasks, nobody can tell."""
        fate = fate_of(line.pid, line.start_time) if self._same_boot else Fate.ENDED
        if fate is Fate.TRACED:
            self.left.append(f"{what} (pid {line.pid} is traced still, as CRIU does)")
        return fate is Fate.RUNS

    # Mounts

    def _unmount(self, at: KPath, mounts: Sequence[Mount]) -> None:
        for mount in mounts:
            if mount == _at(at)[-1]:
                self._do(f"mount {at}", lambda: _unmount(at))
            else:
                self.left.append(f"mount {at} (another mount lies over it)")

    # Processes

    def _end(self, line: Processes) -> None:
        for pid in _having(line.token):
            self._do(f"{line.what}, pid {pid}", partial(_kill, pid))


def _at(at: KPath) -> list[Mount]:
    return [mount for mount in mountinfo.read() if mount.mountpoint == at]


def _is(mount: Mount, line: Attaching) -> bool:
    """
    Tell whether a mount is the one that was to be attached.

    Another may have its id by now: kernel-notes/mount-id-given-out-again.md. Without statmount(2)
    that is known of the topmost one only.
    """
    if (mount.id, mount.dev) != (line.id, line.dev):
        return False
    if not line.unique:
        return True
    (known,) = with_unique_ids([mount])
    unique = known.unique_id
    if not unique and mount == _at(line.at)[-1]:
        unique = unique_mount_id(decode(line.at))
    return not unique or unique == line.unique


def _is_new(mount: Mount, line: Mounting) -> bool:
    return (
        mount.id not in line.before
        and line.fstype in {"", mount.fstype}
        and line.dev in {"", mount.dev}
    )


def _unmount(at: KPath) -> None:
    LiveKernel().unmount(at)


def _written(directory: bytes) -> list[bytes]:
    """Give the names that a dump may have written into a directory."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [
        name
        for name in names
        if name in _WRITTEN or name.endswith((b".img", b".log", b".new")) or name == b"stats-dump"
    ]


def _unlink(directory: bytes, names: Sequence[bytes]) -> None:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


def _having(token: str) -> Iterator[int]:
    """Find the processes with a word in their command line or environment, but for this one."""
    word = token.encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        if int(name) == os.getpid():
            continue
        for file in ("cmdline", "environ"):
            with contextlib.suppress(OSError), open(f"/proc/{name}/{file}", "rb") as content:
                if word in content.read():
                    yield int(name)
                    break


def _kill(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], _DYING)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
