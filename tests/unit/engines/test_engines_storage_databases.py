# SPDX-License-Identifier: Apache-2.0
"""The databases of podman beside a writer, and what is left of those that are damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from unit.engines.storagetrees import SCHEMA, Tree, add, bind, identity

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A graph root of the driver overlay."""
    return Tree(tmp_path)


@pytest.fixture(params=["sqlite", "bolt"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the databases of podman."""
    return str(request.param)


def save(tree: Tree, kind: str) -> Path:
    """Make the database."""
    return tree.sqlite() if kind == "sqlite" else tree.bolt()


def snapshot(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Give all files with what tells that one was written."""
    found: dict[str, tuple[int, int, int, bytes]] = {}
    for path in sorted(directory.rglob("*")):
        state = path.lstat()
        if stat.S_ISREG(state.st_mode):
            content = path.read_bytes()
            found[str(path)] = (state.st_ino, state.st_size, state.st_mtime_ns, content)
    return found


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_beside_a_writer(tree: Tree, journal: str) -> None:
    """What was committed is seen, what was not is not; nothing is locked, made or written."""
    tree.container("web")
    tree.podman("web", {"state": 1})
    file = tree.sqlite(journal=journal)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("UPDATE ContainerState SET State = 3")
        writer.execute("BEGIN EXCLUSIVE" if journal == "DELETE" else "BEGIN IMMEDIATE")
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("UPDATE ContainerState SET State = 6")
        filling = [(str(number), "x" * 4000) for number in range(100)]
        writer.executemany("INSERT INTO VolumeConfig VALUES (?, NULL, ?)", filling)
        beside = {path.name for path in tree.graph.glob("db.sql-*")}
        assert beside == ({"db.sql-wal", "db.sql-shm"} if journal == "WAL" else {"db.sql-journal"})
        before = snapshot(tree.graph)
        assert tree.one().recorded == "running"
        assert snapshot(tree.graph) == before
        writer.execute("COMMIT")
        assert tree.one().recorded == "exited"
    assert tree.one().recorded == "exited"


def test_a_log_that_nobody_has_open(tree: Tree) -> None:
    """What a writer committed before it was killed is in the log only."""
    tree.container("web")
    tree.podman("web", {"state": 1})
    file = tree.sqlite(journal="WAL")
    program = (
        "import os, sqlite3, sys\n"
        "writer = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "writer.execute('UPDATE ContainerState SET State = 3')\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(file)], check=True)
    assert file.with_name("db.sql-wal").stat().st_size
    before = snapshot(tree.graph)
    assert tree.one().recorded == "running"
    assert snapshot(tree.graph) == before


def test_a_root_that_may_not_be_written(tree: Tree, kind: str) -> None:
    """Reading leaves no file beside the database."""
    tree.container("web")
    tree.podman("web")
    save(tree, kind)
    before = snapshot(tree.base)
    assert tree.one().recorded == "exited"
    assert snapshot(tree.base) == before


def test_a_busy_writer_is_no_torn_read(tree: Tree) -> None:
    """While a process writes without a pause, each state that is read is a whole one."""
    tree.container("web")
    tree.podman("web", {"state": 3})
    file = tree.sqlite(journal="WAL")
    program = (
        "import sqlite3, sys, time\n"
        "writer = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "print(flush=True)\n"
        "for number in range(10**6):\n"
        "    word = ('running', 'exited')[number % 2]\n"
        "    writer.execute('UPDATE ContainerState SET State = ?, ExitCode = ?',"
        " (3 + 3 * (number % 2), number % 2))\n"
        "    time.sleep(0.1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        for _ in range(10):
            found = tree.one()
            assert found.recorded in {"running", "exited"}
            assert found.damages == ()
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("db.sql", b"no database" * 100, "file is not a database"),
        ("db.sql", b"", "no such table"),
        ("libpod/bolt_state.db", bytes(32768), "no bbolt database"),
        ("libpod/bolt_state.db", b"", "it is empty"),
    ],
)
def test_a_database_that_is_none(tree: Tree, name: str, content: bytes, what: str) -> None:
    """What is wrong with the database is said of each container, which the storage lists."""
    tree.container("web")
    tree.container("db")
    file = tree.graph / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    every = tree.all()
    assert {*every} == {"web", "db"}
    for found in every.values():
        assert found.stack
        (damage,) = found.damages
        assert damage.file == str(file)
        assert what in damage.what


def test_a_database_that_was_cut_off(tree: Tree) -> None:
    """A copy of half a database is a damage."""
    tree.container("web")
    for number in range(30):
        tree.podman(f"c{number}", spec=None, padding="x" * 9000)
    file = tree.sqlite()
    os.truncate(file, file.stat().st_size // 2)
    found = tree.all()["web"]
    assert any(each.file == str(file) for each in found.damages)


def test_a_database_outside_of_the_root(tree: Tree, tmp_path: Path) -> None:
    """A link out of the root is not followed."""
    tree.container("web")
    tree.podman("web")
    tree.sqlite(tmp_path / "elsewhere.sql")
    (tree.graph / "db.sql").symlink_to(tmp_path / "elsewhere.sql")
    found = tree.one()
    assert found.recorded == ""
    assert "leads out of the root" in str(found.damages[0])


@pytest.mark.parametrize(
    ("state", "field"), [({"pid": "one"}, ".pid"), ({"bindMounts": []}, ".bindMounts")]
)
def test_a_state_of_the_wrong_kind(
    tree: Tree, kind: str, state: dict[str, Any], field: str
) -> None:
    """A field of the wrong kind is named; the container is listed, and all others are whole."""
    tree.container("web")
    tree.container("db")
    tree.podman("web", {"state": 3} | state)
    tree.podman("db", {"state": 3})
    file = save(tree, kind)
    every = tree.all()
    (damage,) = every["web"].damages
    assert damage.file == str(file)
    assert damage.field.endswith(field)
    assert every["web"].stack
    assert (every["db"].damages, every["db"].recorded) == ((), "running")


def test_a_configuration_that_is_cut_short(tree: Tree) -> None:
    """The container is described by the storage and config.json."""
    tree.container("web")
    tree.podman("web")
    file = tree.sqlite()
    with contextlib.closing(sqlite3.connect(file)) as writer, writer:
        writer.execute("UPDATE ContainerConfig SET JSON = substr(JSON, 1, 40)")
    tree.spec(identity("web"), bind("/host", "/srv/host"))
    found = tree.one()
    assert [each.destination for each in found.mounts] == ["/host"]
    (damage,) = found.damages
    assert damage.field == f"ContainerConfig.JSON of {identity('web')}"


def test_a_database_of_another_version(tree: Tree) -> None:
    """A container without a state, and no row of directories."""
    tree.container("web")
    with contextlib.closing(sqlite3.connect(tree.graph / "db.sql")) as writer, writer:
        writer.executescript(SCHEMA)
        add(writer, identity("web"), {"id": identity("web"), "name": "web"}, {"state": 3})
        writer.execute("DELETE FROM ContainerState")
    found = tree.one()
    assert (found.name, found.recorded) == ("web", "unknown")
    assert [each.field for each in found.damages] == [f"ContainerState.JSON of {identity('web')}"]


def spoil(path: Path, how: str) -> None:
    """Put something else in the place of a file."""
    content = path.read_bytes()
    path.unlink()
    if how == "half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "directory":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path.name)


@pytest.mark.parametrize("how", ["half", "zeros", "fifo", "directory", "loop", "missing"])
def test_no_file_is_needed(tree: Tree, kind: str, how: str, tmp_path: Path) -> None:
    """Whatever file is damaged: nothing is raised, and the containers are listed."""
    for word in ("web", "db"):
        tree.container(word)
        tree.podman(word, {"state": 3})
        tree.spec(identity(word), bind("/host", "/srv/host"))
    save(tree, kind)
    whole = tree.all()
    files = [path for path in sorted(tree.graph.rglob("*")) if path.is_file()]
    assert len(files) > 10
    for number, file in enumerate(files):
        copy = Tree(tmp_path / str(number))
        shutil.rmtree(copy.graph)
        shutil.copytree(tree.graph, copy.graph, symlinks=True)
        spoil(copy.graph / file.relative_to(tree.graph), how)
        every = {each.id: each for each in copy.all().values()}
        assert {*every} >= {each.id for each in whole.values()}, file
        for each in every.values():
            same = each.stack and [layer.rpartition("/root/")[2] for layer in each.stack.lowers]
            was = next(one for one in whole.values() if one.id == each.id).stack
            assert was
            assert not same or same == [layer.rpartition("/root/")[2] for layer in was.lowers]
