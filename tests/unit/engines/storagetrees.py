# SPDX-License-Identifier: Apache-2.0
"""Graph roots as containers/storage, podman, CRI-O and buildah write them, and their databases."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import boltwriter
from mountcr.engines import Place, Roots
from mountcr.engines.storage import Buildah, CriO, Podman
from mountcr.engines.storage.configuration import Files
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mountcr.engines.storage.engine import StorageEngine
    from mountcr.model import Container

NOWHERE = Files(share="/nowhere/share", etc="/nowhere/etc")
"""A host without configuration."""

DIRECTORIES = {"vfs": "vfs/dir", "btrfs": "btrfs/subvolumes", "zfs": "zfs/graph"}

# The tables of libpod/sqlite_state_internal.go that hold what is read, with their constraints.
SCHEMA = """
CREATE TABLE DBConfig(
    ID INTEGER PRIMARY KEY NOT NULL, SchemaVersion INTEGER NOT NULL, OS TEXT NOT NULL,
    StaticDir TEXT NOT NULL, TmpDir TEXT NOT NULL, GraphRoot TEXT NOT NULL, RunRoot TEXT NOT NULL,
    GraphDriver TEXT NOT NULL, VolumeDir TEXT NOT NULL, CHECK (ID IN (1)));
CREATE TABLE ContainerConfig(
    ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, PodID TEXT, JSON TEXT NOT NULL);
CREATE TABLE ContainerState(
    ID TEXT PRIMARY KEY NOT NULL, State INTEGER NOT NULL, ExitCode INTEGER, JSON TEXT NOT NULL,
    CHECK (ExitCode BETWEEN -1 AND 255));
CREATE TABLE VolumeConfig(Name TEXT PRIMARY KEY NOT NULL, StorageID TEXT, JSON TEXT NOT NULL);
"""


def identity(word: str) -> str:
    """Give an id of 64 hexadecimal digits."""
    return hashlib.sha256(word.encode()).hexdigest()


def short(layer: str) -> str:
    """Give the short name of a layer: 26 capital letters and digits."""
    return hashlib.sha256(layer.encode()).hexdigest()[:26].upper()


class Tree:
    """A graph root and a run root; layers and containers are named by words."""

    def __init__(self, base: Path, driver: str = "overlay") -> None:
        self.base = base
        self.driver = driver
        self.graph = base / "root"
        self.run = base / "run"
        self.lists: dict[Path, list[dict[str, Any]]] = {}
        self.parents: dict[str, str] = {}
        self.configurations: dict[str, dict[str, Any]] = {}
        self.states: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        for kind in ("containers", "layers", "images"):
            (self.graph / f"{driver}-{kind}").mkdir(parents=True)
            self.save(self.list_of(kind))
        self.run.mkdir()

    @property
    def roots(self) -> Roots:
        """The graph root and the run root as a user names them."""
        place = Place(data=encode(str(self.graph)), run=encode(str(self.run)))
        return Roots(places=(place,))

    @property
    def home(self) -> Path:
        """Where the driver has its layers."""
        return self.graph / DIRECTORIES.get(self.driver, self.driver)

    def list_of(self, kind: str) -> Path:
        """Give the file of a list."""
        return self.graph / f"{self.driver}-{kind}" / f"{kind}.json"

    def save(self, file: Path, *entries: dict[str, Any]) -> None:
        """Add entries to a list."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.lists.setdefault(file, []).extend(entries)
        file.write_text(json.dumps(self.lists[file]))

    def chain(self, *words: str, listed: Path | None = None) -> str:
        """Make layers, each on the one before; give the id of the last."""
        parent = ""
        for word in words:
            parent = self.layer(word, parent, listed=listed)
        return parent

    def layer(self, word: str, parent: str = "", *, listed: Path | None = None) -> str:
        """Make a layer on another one."""
        layer = identity(word)
        self.parents[layer] = parent
        self.save(
            listed or self.list_of("layers"), {"id": layer} | ({"parent": parent} if parent else {})
        )
        directory = self.home / layer
        if self.driver != "overlay":
            directory.mkdir(parents=True)
            return layer
        for name in ("diff", "work", "merged", *(() if parent else ("empty",))):
            (directory / name).mkdir(parents=True)
        (directory / "link").write_text(short(layer))
        links = self.home / "l"
        links.mkdir(exist_ok=True)
        (links / short(layer)).symlink_to(f"../{layer}/diff")
        below = [*self.below(layer)]
        if below:
            (directory / "lower").write_text(":".join(f"l/{short(each)}" for each in below))
        return layer

    def below(self, layer: str) -> Iterator[str]:
        """Give the layers below one, top first."""
        while layer := self.parents[layer]:
            yield layer

    def container(self, word: str, layer: str = "", /, **entry: Any) -> str:
        """Put a container into the list of the storage, as podman does."""
        metadata = {"image-name": "localhost/app:latest", "image-id": "", "name": word}
        made: dict[str, Any] = {
            "id": identity(word),
            "names": [word],
            "image": identity("app"),
            "layer": layer or self.chain(f"{word} base", word),
            "metadata": json.dumps(metadata),
            "created": "2026-01-01T00:00:00Z",
            "flags": {"MountLabel": "", "ProcessLabel": ""},
        }
        self.save(self.list_of("containers"), made | entry)
        return identity(word)

    def buildah(self, word: str, layer: str = "") -> str:
        """Put a working container of buildah into the list of the storage."""
        (self.userdata(identity(word)) / "buildah.json").write_text('{"type": "buildah 0.0.1"}')
        return self.container(word, layer, metadata="")

    def userdata(self, container: str, *, run: bool = False) -> Path:
        """Make the directory of a container in a root."""
        base = self.run if run else self.graph
        path = base / f"{self.driver}-containers" / container / "userdata"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def spec(self, container: str, *mounts: dict[str, Any], **changes: Any) -> Path:
        """Write the config.json of a container."""
        own = {
            "/etc/hostname": self.userdata(container, run=True) / "hostname",
            "/run/.containerenv": self.userdata(container, run=True) / ".containerenv",
            "/dev/shm": self.userdata(container) / "shm",
        }
        bound = [bind(place, str(source)) for place, source in own.items()]
        spec: dict[str, Any] = {
            "root": {"path": f"{self.home}/{identity('x')}/merged"},
            "mounts": [*mounts, *bound, {"destination": "/proc", "type": "proc"}],
            "annotations": {"io.container.manager": "libpod"},
            "linux": {"cgroupsPath": f"/libpod_parent/libpod-{container}", "namespaces": []},
        }
        file = self.userdata(container) / "config.json"
        file.write_text(json.dumps(spec | changes))
        return file

    def podman(self, word: str, state: dict[str, Any] | None = None, **config: Any) -> str:
        """Configure a container of podman, to be in the next database that is made."""
        container = identity(word)
        userdata = str(self.userdata(container))
        self.states[container] = {"state": 6, "runDir": userdata} | (state or {})
        self.configurations[container] = {
            "id": container,
            "name": word,
            "spec": {"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "mounts": []},
            "rootfsImageName": "localhost/app:latest",
            "ShmDir": f"{userdata}/shm",
            "shmSize": 65536000,
            "staticDir": userdata,
            "labels": {"of": word},
        } | config
        return container

    def directories(self) -> dict[str, str]:
        """Give the directories that podman notes in its database."""
        return {
            "static-dir": f"{self.graph}/libpod",
            "tmp-dir": "/run/libpod",
            "graph-root": str(self.graph),
            "run-root": str(self.run),
            "graph-driver-name": self.driver,
            "volume-path": f"{self.graph}/volumes",
        }

    def sqlite(self, file: Path | None = None, *, journal: str = "DELETE") -> Path:
        """Make a db.sql."""
        file = file or self.graph / "db.sql"
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
            connection.executescript(SCHEMA)
            noted = [*self.directories().values()]
            connection.execute(
                "INSERT INTO DBConfig VALUES (1, 1, 'linux', ?, ?, ?, ?, ?, ?)", noted
            )
            for container, config in self.configurations.items():
                add(connection, container, config, self.states[container])
            connection.executemany(
                "INSERT INTO VolumeConfig VALUES (?, NULL, ?)",
                [(name, json.dumps(each)) for name, each in self.volumes.items()],
            )
        return file

    def bolt(self, file: Path | None = None) -> Path:
        """Make a bolt_state.db."""
        file = file or self.graph / "libpod/bolt_state.db"
        file.parent.mkdir(exist_ok=True)
        names = {each: config["name"] for each, config in self.configurations.items()}
        content: boltwriter.Content = {
            b"all-ctrs": {key.encode(): name.encode() for key, name in names.items()},
            b"ctr": {
                key.encode(): {
                    b"config": json.dumps(config).encode(),
                    b"state": json.dumps(self.states[key]).encode(),
                    b"dependencies": {},
                }
                for key, config in self.configurations.items()
            },
            b"runtime-config": {
                key.encode(): value.encode() for key, value in self.directories().items()
            },
            b"vol": {
                name.encode(): {b"config": json.dumps(each).encode()}
                for name, each in self.volumes.items()
            },
        }
        file.write_bytes(boltwriter.database(content))
        return file

    def engine(self, name: str) -> StorageEngine:
        """Give an engine that finds no configuration on this host."""
        return {"podman": Podman, "crio": CriO, "buildah": Buildah}[name](NOWHERE)

    def all(self, engine: str = "podman", roots: Roots | None = None) -> dict[str, Container]:
        """Describe every container, by name."""
        asked = self.engine(engine)
        roots = roots or self.roots
        return {
            each.name or each.id: asked.describe(each, roots) for each in asked.containers(roots)
        }

    def one(self, engine: str = "podman", roots: Roots | None = None) -> Container:
        """Describe the only container that there is."""
        (found,) = self.all(engine, roots).values()
        return found

    def path(self, layer: str, name: str = "diff") -> str:
        """Give a directory of a layer of overlay."""
        return f"{self.home}/{layer}/{name}"


def add(
    connection: sqlite3.Connection, container: str, config: dict[str, Any], state: dict[str, Any]
) -> None:
    """Put a container into a db.sql; podman binds its JSON as bytes."""
    connection.execute(
        "INSERT INTO ContainerConfig VALUES (?, ?, NULL, ?)",
        (container, config["name"], json.dumps(config).encode()),
    )
    connection.execute(
        "INSERT INTO ContainerState VALUES (?, ?, 0, ?)",
        (container, state["state"], json.dumps(state).encode()),
    )


def bind(destination: str, source: str, *options: str) -> dict[str, Any]:
    """Give a bind of a config.json."""
    return {
        "destination": destination,
        "type": "bind",
        "source": source,
        "options": ["rbind", "rprivate", *options],
    }
