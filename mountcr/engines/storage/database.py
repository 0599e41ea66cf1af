# SPDX-License-Identifier: Apache-2.0
"""
The databases of podman: which containers it has, their state, and how they are configured.

`db.sql` of SQLite is below the graph root, or in the static directory that containers.conf names,
or below the run root of a transient store (libpod/sqlite_state.go of podman 4.4 to 6). Before, and
as long as there is one, it was `bolt_state.db` of bbolt in the static directory, which is
`libpod` below the graph root unless it is named (libpod/boltdb_state_internal.go, to podman 5).
Both hold the same JSON.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from mountcr.engines.storage.snapshot import read_sqlite
from mountcr.paths import encode

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from mountcr.bolt import Bucket
    from mountcr.engines.storage.configuration import StoragePlace

__all__ = ["Bolt", "Contents", "Database", "Recorded", "Registered", "Sqlite", "databases"]

T = TypeVar("T")

_CONTAINERS: Final = """
    SELECT ContainerConfig.ID, Name, State, ContainerState.JSON
    FROM ContainerConfig LEFT JOIN ContainerState USING (ID) ORDER BY ContainerConfig.ID
"""
_DIRECTORIES: Final = "SELECT GraphRoot, RunRoot, VolumeDir FROM DBConfig"
_CONFIGURATIONS: Final = "SELECT ID, JSON FROM ContainerConfig"
_VOLUMES: Final = "SELECT Name, JSON FROM VolumeConfig"


class Registered(NamedTuple):
    """A container: `state` is JSON, `status` the number that SQLite has beside it."""

    id: str
    name: str
    status: int | None
    state: bytes


class Recorded(NamedTuple):
    """The directories that podman had when it made the database, empty where it says nothing."""

    graph_root: str = ""
    run_root: str = ""
    volume_path: str = ""


class Contents(NamedTuple):
    """What is read of a database to list its containers."""

    containers: tuple[Registered, ...] = ()
    recorded: Recorded = Recorded()


class Database:
    """
    A database. Each method reads it anew, and raises DocumentError or OSError.

    `state` and `configuration` are the fields with those of a container, in which `{id}` is its.
    """

    state = ""
    configuration = ""

    def __init__(self, path: str) -> None:
        self.path = path

    def contents(self) -> Contents:
        """Read all containers with their states, without their configurations."""
        raise NotImplementedError

    def configurations(self, identity: str | None = None) -> dict[str, bytes]:
        """Read the configuration of one container, or of all."""
        raise NotImplementedError

    def volumes(self) -> dict[str, bytes]:
        """Read the configurations of all volumes."""
        raise NotImplementedError


class Sqlite(Database):
    """`db.sql`, with the tables of libpod/sqlite_state_internal.go."""

    state = "ContainerState.JSON of {id}"
    configuration = "ContainerConfig.JSON of {id}"

    def contents(self) -> Contents:
        """Read two tables in one query, and DBConfig."""

        def work(connection: sqlite3.Connection) -> Contents:
            connection.text_factory = bytes
            rows: list[tuple[object, ...]] = connection.execute(_CONTAINERS).fetchall()
            found: tuple[object, ...] | None = connection.execute(_DIRECTORIES).fetchone()
            containers = tuple(
                Registered(
                    _text(row[0]),
                    _text(row[1]),
                    row[2] if isinstance(row[2], int) else None,
                    _bytes(row[3]),
                )
                for row in rows
            )
            return Contents(containers, Recorded(*(_text(each) for each in found or ())))

        return read_sqlite(self.path, work)

    def configurations(self, identity: str | None = None) -> dict[str, bytes]:
        """Read the table ContainerConfig."""
        if identity is None:
            return self._pairs(_CONFIGURATIONS)
        return self._pairs(f"{_CONFIGURATIONS} WHERE ID = ?", identity)

    def volumes(self) -> dict[str, bytes]:
        """Read the table VolumeConfig."""
        return self._pairs(_VOLUMES)

    def _pairs(self, query: str, *arguments: str) -> dict[str, bytes]:
        def work(connection: sqlite3.Connection) -> dict[str, bytes]:
            connection.text_factory = bytes
            rows: list[tuple[object, ...]] = connection.execute(query, arguments).fetchall()
            return {_text(row[0]): _bytes(row[1]) for row in rows}

        return read_sqlite(self.path, work)


class Bolt(Database):
    """`bolt_state.db`: `all-ctrs` has the names, `ctr` a bucket for each container."""

    state = "ctr/{id}/state"
    configuration = "ctr/{id}/config"

    def contents(self) -> Contents:
        """Read `all-ctrs`, the states, and `runtime-config`."""
        return self._read(_contents_of)

    def configurations(self, identity: str | None = None) -> dict[str, bytes]:
        """Read the key `config` of the buckets in `ctr`."""
        return self._read(lambda root: dict(_values(root, b"ctr", b"config", identity)))

    def volumes(self) -> dict[str, bytes]:
        """Read the key `config` of the buckets in `vol`."""
        return self._read(lambda root: dict(_values(root, b"vol", b"config")))

    def _read(self, work: Callable[[Bucket], T]) -> T:
        from mountcr import bolt

        return bolt.read(encode(self.path), work)


def databases(place: StoragePlace) -> Iterator[Database]:
    """Give the databases of an instance, the one that was changed last before the others."""
    static = place.static_dir or f"{place.graph_root}/libpod"
    sqlite = [f"{place.graph_root}/db.sql", f"{static}/db.sql"]
    if place.run_root:
        sqlite.append(f"{place.run_root}/db.sql")
    found: list[Database] = [Sqlite(path) for path in sqlite]
    found += [
        Bolt(f"{each}/bolt_state.db")
        for each in dict.fromkeys((static, f"{place.graph_root}/libpod"))
    ]
    changed = {database: _changed(database.path) for database in found}
    yield from sorted((each for each in found if changed[each]), key=lambda each: -changed[each])


def _changed(path: str) -> int:
    """Give when a database, or its log, was changed last; 0 if there is none."""
    times = [0]
    for each in (path, f"{path}-wal"):
        try:
            times.append(os.stat(each).st_mtime_ns)
        except OSError:
            if each == path and not os.path.islink(path):
                return 0
    return max(times) or 1


def _contents_of(root: Bucket) -> Contents:
    names = root.bucket(b"all-ctrs")
    states = dict(_values(root, b"ctr", b"state"))
    containers = tuple(
        Registered(os.fsdecode(key), os.fsdecode(name), None, states.get(os.fsdecode(key), b""))
        for key, name in (names.pairs() if names else ())
    )
    known = root.bucket(b"runtime-config")
    keys = (b"graph-root", b"run-root", b"volume-path")
    found = [(known.get(key) if known else None) or b"" for key in keys]
    return Contents(containers, Recorded(*map(os.fsdecode, found)))


def _values(
    root: Bucket, of: bytes, key: bytes, only: str | None = None
) -> Iterator[tuple[str, bytes]]:
    """Give a key of each bucket in a bucket, or of one of them."""
    outer = root.bucket(of)
    if outer is None:
        return
    if only is None:
        every = outer.buckets()
    else:
        one = outer.bucket(os.fsencode(only))
        every = iter([(os.fsencode(only), one)] if one else [])
    for name, inner in every:
        value = inner.get(key)
        if value is not None:
            yield os.fsdecode(name), value


def _text(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, bytes) else ""


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
