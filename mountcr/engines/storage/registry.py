# SPDX-License-Identifier: Apache-2.0
"""What the databases of podman say about the containers and volumes of one instance."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from mountcr.container import Damage
from mountcr.engines.storage.database import Recorded, databases
from mountcr.engines.storage.records import PodmanConfig, PodmanState, VolumeConfig
from mountcr.errors import DocumentError
from mountcr.paths import encode

if TYPE_CHECKING:
    from mountcr.engines.reading import Reader
    from mountcr.engines.storage.database import Database, Registered
    from mountcr.engines.storage.store import Store

__all__ = ["Known", "Registry"]

T = TypeVar("T")

_WORDS: Final = (
    "unknown",
    "created",
    "initialized",
    "running",
    "stopped",
    "paused",
    "exited",
    "removing",
    "stopping",
)
"""What podman calls the states that it has numbers for (libpod/define/containerstate.go)."""


class Known(NamedTuple):
    """A container that a database has; `source` is the file and field of its state."""

    name: str
    state: PodmanState
    recorded: str
    source: str
    damages: tuple[Damage, ...]
    database: Database


class Registry:
    """
    The databases of one instance, each read once to list.

    Of configurations one is read alone; whoever wants a second one may want all.
    """

    def __init__(self, store: Store) -> None:
        self.known: dict[str, Known] = {}
        self.damages: tuple[Damage, ...] = ()
        self.recorded = Recorded()
        self._place = store.place
        self._one: tuple[str, bytes] | None = None
        self._all: dict[str, dict[str, bytes]] = {}
        self._volumes: dict[str, dict[str, bytes]] = {}
        reader = store.reader()
        for database in databases(store.place):
            self._list(database, reader)
        self.damages = tuple(reader.damages)

    def _list(self, database: Database, reader: Reader) -> None:
        if not reader.inside(database.path):
            where = encode(os.path.realpath(database.path))
            reader.damaged(database.path, "", f"a symbolic link leads out of the root, to {where}")
            return
        try:
            contents = database.contents()
        except (DocumentError, OSError) as error:
            reader.damaged(database.path, "", _told(error, database.path))
            return
        self.recorded = self.recorded if self.recorded.graph_root else contents.recorded
        for each in contents.containers:
            self.known.setdefault(each.id, _known(database, each))

    @property
    def moved(self) -> tuple[tuple[str, str], ...]:
        """Give the directories that the database names, each with where it is now."""
        place, was = self._place, self.recorded
        pairs = ((was.graph_root, place.graph_root), (was.run_root, place.run_root))
        volumes = ((was.volume_path, place.volume_path),) if place.volume_path else ()
        return pairs + volumes if was.graph_root else ()

    def configuration(self, identity: str, reader: Reader) -> PodmanConfig | None:
        """Read the configuration of a container that is known; None if it is of no use."""
        database = self.known[identity].database
        try:
            raw = self._raw(database, identity)
        except (DocumentError, OSError) as error:
            reader.damaged(database.path, "", _told(error, database.path))
            return None
        field = database.configuration.format(id=identity)
        if raw is None:
            reader.damaged(database.path, field, "is missing")
            return None
        return _decoded(reader, database.path, field, raw, PodmanConfig)

    def _raw(self, database: Database, identity: str) -> bytes | None:
        path = database.path
        if path in self._all:
            return self._all[path].get(identity)
        if self._one is None or self._one[0] == identity:
            raw = database.configurations(identity).get(identity)
            self._one = (identity, raw or b"")
            return raw
        self._all[path] = database.configurations()
        return self._all[path].get(identity)

    def directory(self, database: Database, name: str, reader: Reader) -> str:
        """Give the recorded directory of a volume, empty if there is none."""
        path = database.path
        if path not in self._volumes:
            try:
                self._volumes[path] = database.volumes()
            except (DocumentError, OSError) as error:
                reader.damaged(path, "", _told(error, path))
                self._volumes[path] = {}
        raw = self._volumes[path].get(name)
        if raw is None:
            reader.damaged(path, f"volume {name}", "is missing")
            return ""
        found = _decoded(reader, path, f"volume {name}", raw, VolumeConfig)
        return found.mount_point if found else ""


def _known(database: Database, each: Registered) -> Known:
    field = database.state.format(id=each.id)
    state = PodmanState()
    damages: tuple[Damage, ...] = ()
    try:
        state = msgspec.json.decode(each.state, type=PodmanState)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        damages = (_damage(database.path, field, error),)
    number = state.state if each.status is None else each.status
    word = _WORDS[number] if 0 <= number < len(_WORDS) else str(number)
    source = f"{encode(database.path)}: {field}"
    return Known(each.name, state, word, source, damages, database)


def _decoded(reader: Reader, path: str, field: str, raw: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        damage = _damage(path, field, error)
        reader.damaged(path, damage.field, damage.what)
        return None


def _damage(path: str, field: str, error: Exception) -> Damage:
    what, _, place = str(error).partition(" - at `$")
    return Damage(file=encode(path), field=field + place.rstrip("`"), what=what)


def _told(error: DocumentError | OSError, path: str) -> str:
    """Give what an error says, without the path that the damage says too."""
    if isinstance(error, OSError):
        return error.strerror or "cannot be read"
    return error.message.removeprefix(str(encode(path))).lstrip(": ")
