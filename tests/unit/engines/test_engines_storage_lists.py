# SPDX-License-Identifier: Apache-2.0
"""The lists of containers/storage: whose a container is, and what is left of a damaged list."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mountcr.engines import Roots, list_containers
from unit.engines.storagetrees import Tree, bind, identity

if TYPE_CHECKING:
    from pathlib import Path

    from unit.engines.conftest import Host

_LONG = "k8s_app_web_default_0f_1"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A graph root of the driver overlay."""
    return Tree(tmp_path)


def crio(tree: Tree, word: str, *, pod: bool = False, **state: Any) -> str:
    """Put a container of CRI-O into the storage, with its files."""
    sandbox = identity("pod")
    metadata = {
        "pod": pod,
        "pod-name": "k8s_web_default_0f_1",
        "pod-id": sandbox,
        "image-name": "registry.example.org/app:1",
        "image-id": identity("app"),
        "name": word,
        "metadata-name": word,
    }
    container = tree.container(
        word, names=[_LONG if not pod else "k8s_POD_web"], metadata=json.dumps(metadata)
    )
    annotations = {
        "io.container.manager": "cri-o",
        "io.kubernetes.cri-o.ContainerID": container,
        "io.kubernetes.cri-o.Labels": json.dumps({"app": word}),
        "io.kubernetes.cri-o.MountPoint": f"{tree.home}/{identity(word)}/merged",
    }
    shared = tree.userdata(sandbox, run=True)
    spec = tree.spec(
        container,
        annotations=annotations,
        root={"path": f"{tree.home}/{identity(word)}/merged"},
        mounts=[
            bind("/etc/hostname", f"{shared}/hostname"),
            bind("/etc/resolv.conf", f"{shared}/resolv.conf"),
            bind("/etc/hosts", "/var/lib/kubelet/pods/0f/etc-hosts"),
            bind("/dev/shm", f"{shared}/shm"),
            bind("/data", "/var/lib/kubelet/pods/0f/volumes/data", "ro"),
        ],
        linux={
            "cgroupsPath": "kubepods.slice:crio:0f",
            "namespaces": [{"type": "network", "path": "/run/netns/0f"}, {"type": "pid"}],
        },
    )
    bundle = tree.userdata(container, run=True)
    (bundle / "config.json").write_bytes(spec.read_bytes())
    recorded = {"ociVersion": "1.0.2", "id": container, "bundle": str(bundle)} | state
    (tree.userdata(container) / "state.json").write_text(json.dumps(recorded))
    return container


def test_a_container_of_crio(tree: Tree) -> None:
    """CRI-O needs files of JSON only: its state, the configuration, and annotations in that."""
    container = crio(tree, "app", status="stopped", pid=0)
    found = tree.one("crio")
    assert (found.engine, found.id) == ("crio", container)
    assert (found.name, found.names) == ("app", (_LONG,))
    assert (found.recorded, found.status, found.pid) == ("stopped", "stopped", 0)
    assert (found.image, found.labels) == ("registry.example.org/app:1", {"app": "app"})
    assert found.bundle == str(tree.userdata(container, run=True))
    shared = tree.userdata(identity("pod"), run=True)
    assert found.files == {
        "hostname": f"{shared}/hostname",
        "resolv.conf": f"{shared}/resolv.conf",
        "hosts": "/var/lib/kubelet/pods/0f/etc-hosts",
    }
    assert found.shm == f"{shared}/shm"
    assert [each.type for each in found.torn_down] == ["directory"]
    (mount,) = found.mounts
    assert (mount.source, mount.readonly) == ("/var/lib/kubelet/pods/0f/volumes/data", True)
    assert found.namespace_paths == {"net": "/run/netns/0f"}
    assert found.stack
    assert found.damages == ()


@pytest.mark.parametrize("off", [0, 1])
def test_the_process_of_crio(tree: Tree, host: Host, off: int) -> None:
    """CRI-O records the start time: a process that started at another one is not its."""
    process = host.process()
    started = process.start_time + off
    container = crio(tree, "app", status="running", initPid=process.pid, initStartTime=str(started))
    if not off:
        host.runc(container, process)
    roots = Roots(places=tree.roots.places, runtime=host.roots.runtime)
    found = tree.one("crio", roots)
    assert (found.pid, found.recorded) == (0 if off else process.pid, "running")


def test_each_engine_has_its_own(tree: Tree) -> None:
    """A container is podman's, CRI-O's or buildah's, by what is in its entry."""
    tree.container("web")
    crio(tree, "app")
    crio(tree, "sandbox", pod=True)
    tree.buildah("work")
    assert {*tree.all("podman")} == {"web"}
    assert {*tree.all("crio")} == {"app", "sandbox"}
    assert {*tree.all("buildah")} == {"work"}
    found = {each.name: each.engine for each in list_containers(tree.roots)}
    assert found == {"web": "podman", "app": "crio", "sandbox": "crio", "work": "buildah"}


def test_a_working_container_of_buildah(tree: Tree) -> None:
    """It has layers and a root file system, no process, and the name of its image."""
    layer = tree.chain("base", "work")
    tree.buildah("work", layer)
    tree.save(tree.list_of("images"), {"id": identity("app"), "names": ["localhost/app:1"]})
    found = tree.one("buildah")
    assert (found.name, found.status, found.pid) == ("work", "stopped", 0)
    assert found.image == "localhost/app:1"
    assert found.stack
    assert found.stack.upper == tree.path(layer)
    assert found.rootfs == tree.path(layer, "merged")
    assert found.torn_down == ()


def test_an_image_without_a_name(tree: Tree) -> None:
    """Where no list has a name, the id of the image is given."""
    tree.buildah("work")
    assert tree.one("buildah").image == identity("app")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"layer": 5}, "[0].layer"),
        ({"names": "web"}, "[0].names"),
        ({"metadata": {"name": "web"}}, "[0].metadata"),
        ({"metadata": "{"}, f"metadata of {identity('web')}"),
    ],
)
def test_a_damaged_entry(tree: Tree, change: dict[str, Any], field: str) -> None:
    """An entry with a field of the wrong kind is listed by its id, and the others are whole."""
    tree.container("web")
    tree.container("db")
    file = tree.list_of("containers")
    entries = json.loads(file.read_bytes())
    entries[0] |= change
    file.write_text(json.dumps(entries))
    every = {each.id: each for each in tree.all().values()}
    assert {*every} == {identity("web"), identity("db")}
    assert [each.field for each in every[identity("web")].damages] == [field]
    assert every[identity("web")].damages[0].file == str(file)
    assert every[identity("db")].damages == ()
    assert every[identity("db")].stack


def test_an_entry_that_is_not_utf_8(tree: Tree) -> None:
    """It is listed by its id, if that can be read, and the others are whole."""
    tree.container("web", names=["NAME"])
    tree.container("db")
    file = tree.list_of("containers")
    file.write_bytes(file.read_bytes().replace(b"NAME", b"\x80"))
    every = {each.id: each for each in tree.all().values()}
    assert {*every} == {identity("web"), identity("db")}
    assert "utf-8" in every[identity("web")].damages[0].what
    assert every[identity("db")].damages == ()
    file.write_bytes(file.read_bytes().replace(identity("web").encode(), b"\xff"))
    assert [each.id for each in tree.all().values() if each.name == "db"] == [identity("db")]


def test_an_entry_without_an_id(tree: Tree) -> None:
    """What cannot be told whose it is is a damage of all that the list has."""
    tree.container("web")
    file = tree.list_of("containers")
    entries = json.loads(file.read_bytes())
    file.write_text(json.dumps([*entries, {"id": 5}]))
    found = tree.one()
    assert [each.field for each in found.damages] == ["[1].id"]
    assert found.stack


@pytest.mark.parametrize("content", ['[{"id": "', "", "{}", "\udcff"])
def test_a_damaged_list(tree: Tree, content: str) -> None:
    """The directories of the containers tell which there were, and files in them whose."""
    tree.container("web")
    tree.spec(identity("web"), bind("/host", "/srv/host"))
    crio(tree, "app")
    tree.buildah("work")
    (tree.graph / "overlay-containers/containers.lock").touch()
    file = tree.list_of("containers")
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert {*tree.all("podman")} == {identity("web")}
    assert {*tree.all("crio")} == {identity("app")}
    assert {*tree.all("buildah")} == {identity("work")}
    found = tree.one("podman")
    assert [each.destination for each in found.mounts] == ["/host"]
    assert found.stack is None
    assert {each.file for each in found.damages} == {str(file)}


def test_a_list_that_leads_out_of_the_root(tree: Tree, tmp_path: Path) -> None:
    """A link in the place of a list is not followed."""
    tree.container("web")
    tree.userdata(identity("web"))
    file = tree.list_of("containers")
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    found = tree.one()
    assert (found.id, found.name) == (identity("web"), "")
    assert "leads out of the root" in str(found.damages[0])


def test_an_id_that_leads_elsewhere(tree: Tree) -> None:
    """An id that is a path is listed, and nothing is read by it."""
    tree.container("web", id="../../x")
    found = tree.one()
    assert (found.id, found.stack) == ("../../x", None)
    assert "cannot be the name" in str(found.damages[0])


def test_a_container_without_a_layer(tree: Tree) -> None:
    """An entry that names no layer is a damage."""
    tree.container("web")
    file = tree.list_of("containers")
    (entry,) = json.loads(file.read_bytes())
    file.write_text(json.dumps([entry | {"layer": ""}]))
    assert str(tree.one().damages[0]).endswith(f"layer of {identity('web')}: is missing")


def test_a_state_of_crio_that_is_cut_short(tree: Tree) -> None:
    """The container is listed, with the damage of its state."""
    container = crio(tree, "app", status="running")
    file = tree.userdata(container) / "state.json"
    file.write_text('{"status"')
    found = tree.one("crio")
    assert (found.recorded, found.pid) == ("", 0)
    assert found.damages[0].file == str(file)
    assert found.stack


def test_a_configuration_of_the_wrong_kind(tree: Tree) -> None:
    """A config.json that is damaged leaves the layers."""
    tree.container("web")
    tree.spec(identity("web"), root={})
    found = tree.one()
    assert found.stack
    assert (found.spec, found.mounts) == (None, ())
    assert found.damages[0].file == f"{tree.userdata(identity('web'))}/config.json"


def test_labels_of_crio_that_are_no_json(tree: Tree) -> None:
    """They are a damage, and the configuration below the graph root is read where no other is."""
    container = crio(tree, "app")
    file = tree.spec(container, annotations={"io.kubernetes.cri-o.Labels": "{"})
    (tree.userdata(container, run=True) / "config.json").unlink()
    found = tree.one("crio")
    assert "app" not in found.labels
    (damage,) = found.damages
    assert (damage.file, damage.field) == (str(file), "annotations.io.kubernetes.cri-o.Labels")


def test_damages_of_no_container(tree: Tree) -> None:
    """What is damaged where no container is, is said of the engine; else of the containers."""
    tree.list_of("containers").write_text("[")
    (tree.graph / "db.sql").write_text("no database")
    engine = tree.engine("podman")
    assert [*engine.containers(tree.roots)] == []
    files = [each.file for each in engine.damages()]
    assert files == [str(tree.list_of("containers")), str(tree.graph / "db.sql")]
    tree.spec(identity("web"))
    engine = tree.engine("podman")
    (found,) = engine.containers(tree.roots)
    assert [each.file for each in found.damages] == files
    assert [*engine.damages()] == []


def test_damaged_configuration_without_a_storage(tree: Tree) -> None:
    """A configuration that is damaged is said, though nothing was found by it."""
    file = tree.base / "storage.conf"
    file.write_text("[storage")
    engine = tree.engine("podman")
    roots = Roots(usual=True, environ={"CONTAINERS_STORAGE_CONF": str(file), "HOME": "/nowhere"})
    described = [damage for each in engine.containers(roots) for damage in each.damages]
    assert {each.file for each in (*described, *engine.damages())} == {str(file)}
