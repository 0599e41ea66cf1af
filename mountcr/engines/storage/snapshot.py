# SPDX-License-Identifier: Apache-2.0
"""
Databases of SQLite that another process may be writing, read without a lock and without a trace.

Whoever opens such a database the usual way takes locks in it, which the writer has to wait for,
and with a write-ahead log makes `-shm` and `-wal` files beside it, even to read. So a database is
opened as immutable where nobody is writing: no `-wal` and no `-journal` with anything in it is
there (https://www.sqlite.org/uri.html). Else it is copied, and then what is beside it, and SQLite
does with the copy what it does after a crash: it takes committed transactions from the log, or
rolls back by the journal what was not. In either case what was read is whole if all files are the
same after it as before. A page that was changed after the copy of the database is in the copy of
the log or journal too, as a writer writes these first.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from mountcr.errors import DocumentError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator

__all__ = ["read_sqlite"]

T = TypeVar("T")

_BESIDE: Final = ("-wal", "-journal")
_LARGEST: Final = 1 << 30
_ATTEMPTS: Final = 10
_WAIT_SECONDS: Final = 0.005
_TICK_NANOSECONDS: Final = 20_000_000
"""Changes within less than that may leave the same time of change (`current_time()` in Linux)."""

_ANOTHER: Final = "it is another file, or was cut off when it was copied"


class _Seen(NamedTuple):
    """What tells that a file was changed."""

    inode: int
    size: int
    changed: int


def read_sqlite(path: str, work: Callable[[sqlite3.Connection], T]) -> T:
    """
    Give what `work` makes of a database; it is called again if that was changed meanwhile.

    Raises DocumentError if the file is no database, is damaged, or changed each of ten times, and
    OSError.
    """
    import sqlite3

    for attempt in range(_ATTEMPTS):
        time.sleep(attempt * _WAIT_SECONDS)
        before = _state(path)
        outcome: T | DocumentError
        try:
            with _opened(path, copied=any(before[1:])) as connection:
                outcome = work(connection)
        except sqlite3.Error as error:
            outcome = DocumentError(f"{path}: {error}", hint=_ANOTHER)
        except FileNotFoundError:
            if _state(path) == before:
                raise
            continue
        if _state(path) != before or _is_recent(before):
            continue
        if isinstance(outcome, DocumentError):
            raise outcome
        return outcome
    raise DocumentError(
        f"{path} changed each of the {_ATTEMPTS} times that it was read",
        hint="its engine is busy; try again when it is not",
    )


@contextlib.contextmanager
def _opened(path: str, *, copied: bool) -> Generator[sqlite3.Connection]:
    """Open a database as it is, or a copy of it and of what is beside it."""
    import shutil
    import sqlite3
    import tempfile
    from urllib.parse import quote

    with contextlib.ExitStack() as stack:
        if copied:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="mountcr-"))
            copy = f"{directory}/db"
            shutil.copyfile(path, copy)
            for suffix in _BESIDE:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(path + suffix, copy + suffix)
            connection = sqlite3.connect(copy)
        else:
            uri = f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1"
            connection = sqlite3.connect(uri, uri=True)
        stack.callback(connection.close)
        yield connection


def _state(path: str) -> tuple[_Seen | None, ...]:
    """Look at a database and what is beside it, None for what is empty; raises OSError."""
    found: list[_Seen | None] = [_seen(path)]
    for suffix in _BESIDE:
        try:
            beside = _seen(path + suffix)
        except FileNotFoundError:
            found.append(None)
        else:
            found.append(beside if beside.size else None)
    return tuple(found)


def _seen(path: str) -> _Seen:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise DocumentError(f"{path} is no database: it is no regular file")
    if found.st_size > _LARGEST:
        raise DocumentError(f"{path}: larger than {_LARGEST} bytes")
    return _Seen(found.st_ino, found.st_size, found.st_mtime_ns)


def _is_recent(state: tuple[_Seen | None, ...]) -> bool:
    """Tell whether a file was changed so lately that another change might not show."""
    now = time.time_ns()
    return any(0 <= now - each.changed < _TICK_NANOSECONDS for each in state if each)
