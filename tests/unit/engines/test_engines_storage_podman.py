# SPDX-License-Identifier: Apache-2.0
"""Containers of podman by its databases, of both kinds, and by the storage where there is none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mountcr.engines import Place, Roots, find, list_containers
from mountcr.engines.storage import Podman
from mountcr.engines.storage.database import Sqlite
from mountcr.paths import encode
from unit.engines.storagetrees import NOWHERE, Tree, bind, identity

if TYPE_CHECKING:
    from pathlib import Path

    from unit.engines.conftest import Host


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


def test_a_container_of_the_database(tree: Tree, kind: str) -> None:
    """Name, state and labels are those of the database; the storage has image and layers."""
    tree.container("web", names=["web", "other"])
    tree.podman("web", {"state": 5})
    file = save(tree, kind)
    found = tree.one()
    assert (found.engine, found.id, found.name) == ("podman", identity("web"), "web")
    assert (found.names, found.recorded, found.status) == (("other",), "paused", "stopped")
    assert (found.image, found.labels) == ("localhost/app:latest", {"of": "web"})
    assert found.storage == "overlay"
    assert found.state_root == str(tree.graph)
    assert found.stack
    field = {"sqlite": f"ContainerState.JSON of {found.id}", "bolt": f"ctr/{found.id}/state"}[kind]
    assert f"recorded: {file}: {field}: state" in found.provenance
    assert found.damages == ()


def test_the_process_is_the_one_of_the_runtime(tree: Tree, kind: str, host: Host) -> None:
    """The pid of the database is stale where the runtime has another one."""
    process = host.process()
    tree.container("web")
    tree.podman("web", {"state": 3, "pid": 1})
    save(tree, kind)
    host.runc(identity("web"), process)
    roots = Roots(places=tree.roots.places, runtime=host.roots.runtime)
    found = tree.one(roots=roots)
    assert (found.pid, found.start_time) == (process.pid, process.start_time)
    assert (found.status, found.recorded) == ("running", "running")
    (only,) = list_containers(roots)
    assert (only.engine, only.id) == ("podman", identity("web"))


def test_a_pid_of_somebody_else(tree: Tree, kind: str, host: Host) -> None:
    """After a boot the recorded pid is another process, which is not in the control group."""
    tree.container("web")
    tree.podman("web", {"state": 3, "pid": host.process().pid})
    save(tree, kind)
    found = tree.one()
    assert (found.pid, found.status, found.recorded) == (0, "stopped", "running")


def test_mounts_by_what_they_are_from(tree: Tree, kind: str) -> None:
    """Volumes by name, binds, tmpfs, overlays over directories, and images."""
    tree.container("web")
    tree.volumes = {"data": {"name": "data", "mountPoint": f"{tree.graph}/volumes/data/_data"}}
    tree.podman(
        "web",
        namedVolumes=[{"volumeName": "data", "dest": "/data/", "options": ["ro"]}],
        overlayVolumes=[{"dest": "/over", "source": "/srv/over"}],
        ctrImageVolumes=[{"dest": "/image", "source": "localhost/tools"}],
    )
    tree.spec(
        identity("web"),
        bind("/data", f"{tree.graph}/volumes/data/_data", "ro"),
        bind("/host", "/srv/my data"),
        {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/over", "type": "overlay", "source": "/x/merge"},
        bind("/image", "/y/merged"),
    )
    save(tree, kind)
    found = {each.destination: each for each in tree.one().mounts}
    assert {place: (each.type, each.name, each.source) for place, each in found.items()} == {
        "/data": ("volume", "data", f"{tree.graph}/volumes/data/_data"),
        "/host": ("bind", "", r"/srv/my\040data"),
        "/scratch": ("tmpfs", "", None),
        "/over": ("overlay", "", "/srv/over"),
        "/image": ("image", "localhost/tools", "/y/merged"),
    }
    assert [place for place, each in found.items() if each.readonly] == ["/data", "/image"]


def test_what_is_planned_before_the_first_start(tree: Tree, kind: str) -> None:
    """Without config.json the configuration tells the mounts, and a volume its directory."""
    tree.container("web")
    tree.volumes = {"data": {"name": "data", "mountPoint": "/mnt/data"}}
    spec = {"mounts": [bind("/host", "/srv/host")], "root": {"path": "rootfs"}}
    tree.podman("web", spec=spec, namedVolumes=[{"volumeName": "data", "dest": "/data"}])
    save(tree, kind)
    found = tree.one()
    assert [(each.destination, each.type, each.source) for each in found.mounts] == [
        ("/host", "bind", "/srv/host"),
        ("/data", "volume", "/mnt/data"),
    ]
    assert found.spec is None
    assert found.shm == f"{tree.userdata(identity('web'))}/shm"


def test_a_volume_that_is_gone(tree: Tree, kind: str) -> None:
    """A volume without a record is given without its directory, and is a damage."""
    tree.container("web")
    tree.podman("web", namedVolumes=[{"volumeName": "data", "dest": "/data"}])
    file = save(tree, kind)
    found = tree.one()
    (mount,) = found.mounts
    assert (mount.type, mount.name, mount.source) == ("volume", "data", None)
    assert [*map(str, found.damages)] == [f"{file}: volume data: is missing"]


def test_files_that_podman_made(tree: Tree, kind: str) -> None:
    """The files of the container are told apart from its mounts; shm goes when it ends."""
    tree.container("web")
    tree.podman("web", shmSize=1024)
    tree.spec(identity("web"))
    save(tree, kind)
    found = tree.one()
    run = tree.userdata(identity("web"), run=True)
    assert found.files == {"hostname": f"{run}/hostname", ".containerenv": f"{run}/.containerenv"}
    assert found.mounts == ()
    assert found.shm == f"{tree.userdata(identity('web'))}/shm"
    assert [(each.path, each.type, each.options) for each in found.torn_down] == [
        (found.rootfs, "directory", ""),
        (found.shm, "tmpfs", "mode=1777,size=1024"),
    ]
    assert found.spec == f"{tree.userdata(identity('web'))}/config.json"
    assert found.cgroup == f"/libpod_parent/libpod-{identity('web')}"


def test_memory_of_another_container_is_not_torn_down(tree: Tree) -> None:
    """What /dev/shm comes from may be another container's, which keeps it."""
    tree.container("web")
    tree.podman("web")
    other = f"{tree.userdata(identity('db'))}/shm"
    tree.spec(identity("web"), mounts=[bind("/dev/shm", other)])
    tree.sqlite()
    found = tree.one()
    assert found.shm == other
    assert [each.type for each in found.torn_down] == ["directory"]


def test_a_root_that_was_moved(tree: Tree, kind: str, tmp_path: Path) -> None:
    """Recorded paths are said as they are below the root that was named."""
    tree.container("web")
    tree.volumes = {"data": {"name": "data", "mountPoint": f"{tree.graph}/volumes/data/_data"}}
    tree.podman("web", namedVolumes=[{"volumeName": "data", "dest": "/data"}])
    tree.spec(identity("web"), bind("/host", "/srv/host"))
    save(tree, kind)
    os.rename(tree.graph, tmp_path / "new root")
    os.rename(tree.run, tmp_path / "new run")
    graph, run = encode(f"{tmp_path}/new root"), encode(f"{tmp_path}/new run")
    found = tree.one(roots=Roots(places=(Place(data=graph, run=run),)))
    below = f"overlay-containers/{identity('web')}/userdata"
    assert found.stack
    assert found.stack.upper == f"{graph}/overlay/{identity('web')}/diff"
    assert found.files["hostname"] == f"{run}/{below}/hostname"
    assert (found.shm, found.bundle) == (f"{graph}/{below}/shm", f"{graph}/{below}")
    sources = {each.destination: each.source for each in found.mounts}
    assert sources == {"/host": "/srv/host", "/data": f"{graph}/volumes/data/_data"}
    assert f"moved: {graph} was {tree.graph}" in found.provenance
    assert f"moved: {run} was {tree.run}" in found.provenance
    assert found.damages == ()


def test_a_root_file_system_that_is_a_directory(tree: Tree, kind: str) -> None:
    """`--rootfs` makes no storage; an overlay over it is recorded nowhere."""
    tree.podman("web", rootfs="/srv/rootfs", rootfsImageName="")
    tree.podman("over", rootfs="/srv/rootfs", rootfs_overlay=True)
    save(tree, kind)
    every = tree.all()
    stack = every["web"].stack
    assert stack
    assert (stack.driver, stack.upper, every["web"].rootfs) == ("vfs", *["/srv/rootfs"] * 2)
    assert (every["web"].damages, every["web"].image) == ((), "/srv/rootfs")
    assert every["over"].stack is None
    assert "rootfs_overlay" in str(every["over"].damages[0])


def test_a_container_without_storage(tree: Tree, kind: str) -> None:
    """A container that no list of the storage has is listed, with that damage."""
    tree.podman("web")
    file = save(tree, kind)
    found = tree.one()
    assert (found.name, found.stack) == ("web", None)
    assert str(found.damages[0]) == f"{file}: {identity('web')}: no containers.json has it"


def test_without_a_database(tree: Tree, host: Host) -> None:
    """The storage knows names, the runtime the process, config.json the rest."""
    process = host.process()
    tree.container("web")
    volume = f"{tree.graph}/volumes/data/_data"
    tree.spec(identity("web"), bind("/data", volume), bind("/not", f"{volume}/x"))
    host.runc(identity("web"), process)
    roots = Roots(places=tree.roots.places, runtime=host.roots.runtime)
    found = tree.one(roots=roots)
    assert (found.name, found.pid, found.recorded) == ("web", process.pid, "")
    assert [(each.type, each.name) for each in found.mounts] == [("volume", "data"), ("bind", "")]
    assert found.labels == {"io.container.manager": "libpod"}


def test_the_database_that_changed_last_counts(tree: Tree) -> None:
    """Both databases are read; of a container in both, the newer one is believed."""
    tree.container("web")
    tree.container("db")
    tree.podman("web", {"state": 3})
    tree.podman("db")
    old = tree.bolt()
    os.utime(old, (1, 1))
    del tree.states[identity("db")], tree.configurations[identity("db")]
    tree.states[identity("web")]["state"] = 6
    tree.sqlite()
    every = tree.all()
    assert {name: each.recorded for name, each in every.items()} == {
        "web": "exited",
        "db": "exited",
    }
    os.utime(tree.graph / "db.sql", (1, 1))
    os.utime(old)
    assert tree.all()["web"].recorded == "running"


def test_a_static_directory_of_its_own(tree: Tree, tmp_path: Path) -> None:
    """containers.conf names where the databases are, and the volumes."""
    tree.container("web")
    tree.podman("web")
    (tmp_path / "libpod").mkdir()
    tree.sqlite(tmp_path / "libpod/db.sql")
    conf = tmp_path / "containers.conf"
    conf.write_text(f'[engine]\nstatic_dir = "{tmp_path}/libpod"\n')
    storage = tmp_path / "storage.conf"
    storage.write_text(f'[storage]\ngraphroot = "{tree.graph}"\nrunroot = "{tree.run}"\n')
    environ = {"CONTAINERS_CONF": str(conf), "CONTAINERS_STORAGE_CONF": str(storage)}
    found = tree.one(roots=Roots(usual=True, environ=environ))
    assert (found.recorded, found.labels) == ("exited", {"of": "web"})
    assert tree.one().recorded == ""


def test_a_transient_store(tree: Tree, tmp_path: Path) -> None:
    """The database and the bundle are below the run root."""
    storage = tmp_path / "storage.conf"
    storage.write_text(
        f'[storage]\ngraphroot = "{tree.graph}"\nrunroot = "{tree.run}"\ntransient_store = true\n'
    )
    tree.container("web")
    tree.podman("web")
    tree.sqlite(tree.run / "db.sql")
    spec = tree.spec(identity("web"))
    os.rename(spec, tree.userdata(identity("web"), run=True) / "config.json")
    environ = {"CONTAINERS_STORAGE_CONF": str(storage)}
    found = tree.one(roots=Roots(usual=True, environ=environ))
    assert found.recorded == "exited"
    assert found.bundle == str(tree.userdata(identity("web"), run=True))


def test_a_reference_finds_the_container(tree: Tree) -> None:
    """A name, an id and the beginning of one mean the same container."""
    tree.container("web")
    tree.podman("web")
    tree.sqlite()
    for word in ("web", "podman:web", identity("web"), identity("web")[:12]):
        found = find(word, roots=tree.roots)
        assert (found.id, bool(found.stack)) == (identity("web"), True)


def test_one_is_described_without_reading_all(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first configuration is read alone, the second with all others."""
    for word in ("a", "b", "c"):
        tree.container(word)
        tree.podman(word)
    tree.sqlite()
    asked: list[str | None] = []
    real = Sqlite.configurations

    def counting(database: Sqlite, container: str | None = None) -> dict[str, bytes]:
        asked.append(container)
        return real(database, container)

    monkeypatch.setattr(Sqlite, "configurations", counting)
    engine = Podman(NOWHERE)
    first, second, third = engine.containers(tree.roots)
    assert asked == []
    for each in (first, first, second, third):
        assert engine.describe(each, tree.roots).labels == {"of": each.name}
    assert asked == [first.id, first.id, None]
