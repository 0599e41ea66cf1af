# SPDX-License-Identifier: Apache-2.0
"""
Cleanup: what operations left behind that were killed, removed.

An operation that runs is left alone, with everything it has made. Doing it twice does no harm.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mountcr import journal, procstat
from mountcr.boot import boot_id
from mountcr.errors import PrivilegeError
from mountcr.interrupts import held_back
from mountcr.kernel.removal import remove_tree
from mountcr.model import Record
from mountcr.operations.leftovers import Leftovers
from mountcr.paths import decode, encode, join
from mountcr.planning.choices import CACHE, STATE

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from mountcr.paths import KPath

__all__ = ["CLEANUP_SCHEMA", "CleanupResult", "cleanup"]

CLEANUP_SCHEMA = "mountcr/cleanup/1"

_DYING: Final = 10.0
"""Seconds that the workers of a killed operation may take to end: one may be in a long write."""


class CleanupResult(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What was removed, or would be in a dry run; what could not be, with the reason; what runs.

    Each is a noun phrase that names a path or a process.
    """

    schema: str = CLEANUP_SCHEMA
    removed: tuple[str, ...]
    left: tuple[str, ...]
    running: tuple[str, ...]


class _Record(NamedTuple):
    path: bytes
    pid: int
    start_time: int


def cleanup(*, dry_run: bool = False) -> CleanupResult:
    """
    Remove what killed operations left behind: directories, mounts, processes, halves of dumps.

    Raises PrivilegeError when not root. What cannot be removed is in `left`, and stays recorded.
    """
    if os.geteuid() != 0:
        msg = "removing what others mounted and made needs root"
        raise PrivilegeError(msg, hint="run as root")
    work = _Cleanup(dry_run=dry_run)
    with held_back():
        for record in _records():
            work.clear(record)
        for directory in (STATE, CACHE):
            work.sweep(directory)
    return CleanupResult(
        removed=tuple(work.removed), left=tuple(work.left), running=tuple(work.running)
    )


class _Cleanup:
    """One run; the operations that run are looked at first, because of what they are making."""

    def __init__(self, *, dry_run: bool) -> None:
        self.removed: list[str] = []
        self.left: list[str] = []
        self.running: list[str] = []
        self._dry_run = dry_run
        self._being_made: set[KPath] = set()

    def clear(self, record: _Record) -> None:
        """Remove what one record tells, and the record if nothing of it is left."""
        with _locked(record) as fd:
            if fd is None:
                self._leave_alone(record)
                return
            with open(os.dup(fd), "rb") as file:
                text = file.read()
            name = os.fsdecode(record.path)
            try:
                lines = journal.parse(text)
            except msgspec.DecodeError as error:
                self.left.append(f"record {name} (damaged: {error})")
                return
            leftovers = Leftovers(lines, dry_run=self._dry_run, same_boot=_same_boot(lines))
            leftovers.remove()
            self.removed += leftovers.removed
            self.left += leftovers.left
            if leftovers.left:
                self._being_made |= _partials(lines)
            elif not self._dry_run:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(record.path)

    def _leave_alone(self, record: _Record) -> None:
        with contextlib.suppress(OSError, msgspec.DecodeError), open(record.path, "rb") as file:
            lines = journal.parse(file.read())
            self._being_made |= _partials(lines)
            names = [line.operation for line in lines if isinstance(line, journal.Began)]
            operation = names[0] if names else "an operation"
            if _runs(record):
                self.running.append(f"{operation}, pid {record.pid}")
            else:
                self.left.append(f"{operation} of pid {record.pid} (its workers still end)")

    def sweep(self, directory: KPath) -> None:
        """Remove what was being made there before the last boot, when no record told of it."""
        try:
            names = sorted(os.listdir(decode(directory)))
        except OSError:
            return
        for name in names:
            path = join(directory, encode(name))
            if not name.endswith(journal.PARTIAL) or path in self._being_made:
                continue
            what = f"directory {path}"
            if self._dry_run:
                if what not in self.removed:
                    self.removed.append(what)
                continue
            try:
                if _is_free(decode(path)):
                    remove_tree(path)
                    self.removed.append(what)
            except OSError as error:
                self.left.append(f"{what} ({error.strerror or error})")


def _partials(lines: list[journal.Line]) -> set[KPath]:
    return {line.partial for line in lines if isinstance(line, journal.Making)}


def _records() -> Iterator[_Record]:
    """Give the records by their names; other files are none of ours."""
    directory = decode(journal.DIRECTORY)
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    for name in names:
        parts = name.split(b"-")
        if len(parts) in {2, 3} and all(map(bytes.isdigit, parts)):
            yield _Record(os.path.join(directory, name), int(parts[0]), int(parts[1]))


def _runs(record: _Record) -> bool:
    """Tell whether the process of a record runs: since then the pid may be another's."""
    return procstat.is_same_process(record.pid, record.start_time)


@contextlib.contextmanager
def _locked(record: _Record) -> Generator[int | None]:
    """
    Open and lock the record of an operation that has ended, for a block; None if it has not.

    Its workers are killed with it (PR_SET_PDEATHSIG), but hold the lock until they have ended.
    """
    if _runs(record):
        yield None
        return
    try:
        fd = os.open(record.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None  # it has ended well just now
        return
    try:
        yield fd if _lock(fd, _DYING) else None
    finally:
        os.close(fd)


def _lock(fd: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)
        else:
            return True


def _is_free(directory: bytes) -> bool:
    """Tell whether nobody has a directory locked; who writes into one without a record does."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _lock(fd, 0)
    finally:
        os.close(fd)


def _same_boot(lines: list[journal.Line]) -> bool:
    now = boot_id()
    return all(line.boot == now for line in lines if isinstance(line, journal.Began))
