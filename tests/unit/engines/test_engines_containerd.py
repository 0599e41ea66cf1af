# SPDX-License-Identifier: Apache-2.0
"""Containers of containerd are what its databases, its bundles and runc say together."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from containerds import BUNDLES, HEX, RECORDED, SPEC, Daemon, said, varint, wrapped
from mountcr import mountinfo, overlayopts
from mountcr.container import Container, ContainerMount, TornDown
from mountcr.engines import Place, Roots, find, list_containers
from mountcr.engines.containerd import Containerd
from mountcr.engines.containerd.records import group_path
from mountcr.engines.containerd.snapshots import snapshot_stack
from mountcr.engines.reference import labels, once
from mountcr.errors import AmbiguousError
from mountcr.paths import KPath, encode
from mountcr.stack import Stack

if TYPE_CHECKING:
    from unit.engines.conftest import Host


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """A containerd without containers."""
    return Daemon(tmp_path)


class Capture(NamedTuple):
    """What was recorded of a containerd: where it was, and which databases it left."""

    name: str
    root: str
    state: str
    databases: str


CAPTURES = [
    Capture(
        "containerd1.6-btrfs",
        "/srv/lab/btrfs/ctd",
        "/srv/lab/ctd-1.6-btrfs/state",
        "containerd/containerd1.6-btrfs",
    ),
    Capture(
        "containerd1.6-native",
        "/srv/lab/ctd-1.6-native/root",
        "/srv/lab/ctd-1.6-native/state",
        "containerd/containerd1.6-native",
    ),
    Capture(
        "containerd1.6-overlayfs",
        "/srv/lab/ctd-1.6-overlayfs/root",
        "/srv/lab/ctd-1.6-overlayfs/state",
        "bolt/containerd-1.6-overlayfs",
    ),
    Capture(
        "containerd1.7-native",
        "/srv/lab/ctd-1.7-native/root",
        "/srv/lab/ctd-1.7-native/state",
        "bolt/containerd-1.7-native",
    ),
]


def mounted(capture: str) -> Stack:
    """Give the root file system that the mount table of a recorded container shows."""
    table = (RECORDED / capture / "mountinfo").read_bytes()
    root = mountinfo.parse_table(table)[0]
    if root.fstype != "overlay":
        return Stack(driver="vfs", upper=root.root)
    options = overlayopts.parse_options(root.super_options)
    return Stack(driver="overlay", lowers=options.lowers, upper=options.upper, work=options.work)


def moved(path: KPath | None, old: str, new: Path) -> KPath:
    assert path
    return encode(str(path).replace(old, str(new.resolve()), 1))


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda capture: capture.name)
def test_what_a_real_one_recorded_is_read_whole(
    capture: Capture, daemon: Daemon, host: Host
) -> None:
    """Every fact of a recorded container is what ctr and the mount table said of it."""
    source = RECORDED.parent / capture.databases
    info = json.loads((source / "container-info.json").read_bytes())
    snapshotter = info["Snapshotter"]
    daemon.directory(snapshotter).mkdir()
    daemon.meta.write_bytes(gzip.decompress((source / "meta.db.gz").read_bytes()))
    (daemon.directory(snapshotter) / "metadata.db").write_bytes(
        gzip.decompress((source / "metadata.db.gz").read_bytes())
    )
    shown = mounted(capture.name)
    old = "/ctd" if snapshotter == "btrfs" else capture.root  # the file system is mounted there
    expected = Stack(
        driver=shown.driver,
        lowers=tuple(moved(each, old, daemon.root) for each in shown.lowers),
        upper=moved(shown.upper, old, daemon.root),
        work=moved(shown.work, old, daemon.root) if shown.work else None,
    )
    for each in (*expected.directories, *((expected.work,) if expected.work else ())):
        Path(each).mkdir(parents=True)
    process = host.process()
    bundle = daemon.runs("lab", process)
    spec = (RECORDED / capture.name / "runtime-config.json").read_bytes()
    (bundle / "config.json").write_bytes(spec)

    found = daemon.described("lab")
    assert found.damages == ()
    assert (found.id, found.namespace, found.name) == (info["ID"], "default", "")
    assert (found.image, found.storage) == (info["Image"], snapshotter)
    assert found.labels == info["Labels"]
    assert (found.pid, found.start_time) == (process.pid, process.start_time)
    assert found.status == "running"
    assert found.stack
    assert found.stack.provenance
    told = found.stack
    assert (told.driver, told.lowers, told.upper, told.work) == (
        expected.driver,
        expected.lowers,
        expected.upper,
        expected.work,
    )
    commanded = (source / "snapshot-mounts.txt").read_text()
    if snapshotter != "btrfs":  # ctr says only the number of the subvolume
        assert told.upper
        assert str(told.upper).replace(str(daemon.root.resolve()), capture.root) in commanded
        lowers = ":".join(told.lowers).replace(str(daemon.root.resolve()), capture.root)
        assert f"lowerdir={lowers}" in commanded or not lowers
    assert found.bundle == encode(str(bundle))
    assert found.rootfs == encode(f"{bundle}/rootfs")
    assert found.spec == encode(f"{bundle}/config.json")
    (volume,) = [each for each in info["Spec"]["mounts"] if each["type"] == "bind"]
    assert found.mounts == (
        ContainerMount(
            destination=KPath("/data/vol"), type="bind", source=encode(volume["source"])
        ),
    )
    assert [each.path for each in found.torn_down] == [found.bundle, found.rootfs]
    assert json.loads(spec) == info["Spec"]


def test_the_snapshot_of_a_container_of_docker_is_what_was_mounted(daemon: Daemon) -> None:
    """Docker's containers in the image store of containerd are snapshots called by their ids."""
    shown = mounted("../docker/docker26-ctdsnap-overlayfs")
    layers = [*reversed(shown.lowers), shown.upper]
    numbers = [int(str(layer).split("/")[-2]) for layer in layers]
    keys = [*(f"sha256:{number:064x}" for number in numbers[:-2]), f"{HEX}-init", HEX]
    for number, key, parent in zip(numbers, keys, ["", *keys], strict=False):
        kind = 2 if key == HEX else 3
        daemon.snapshot(key, number, kind, parent, namespace="moby")
    daemon.write()
    found = snapshot_stack([daemon.place], "moby", "overlayfs", HEX)
    assert found.damages == ()
    old = "/srv/lab/docker26c-overlayfs/ctd/root"
    assert found.stack == Stack(
        driver="overlay",
        lowers=tuple(moved(each, old, daemon.root) for each in shown.lowers),
        upper=moved(shown.upper, old, daemon.root),
        work=moved(shown.work, old, daemon.root),
        provenance=found.told[1:],
    )
    assert found.told[0].endswith(f"meta.db: v1/moby/snapshots/overlayfs/{HEX}/name")


def test_a_snapshot_that_is_nowhere_is_a_damage(daemon: Daemon, tmp_path: Path) -> None:
    """A key that no containerd has, and a place that is none, are named."""
    daemon.write()
    found = snapshot_stack([daemon.place], "moby", "overlayfs", HEX)
    assert found.stack is None
    assert [each.field for each in found.damages] == [f"v1/moby/snapshots/overlayfs/{HEX}"]
    other = Daemon(tmp_path, "other")
    other.snapshot(HEX, 1, 2, namespace="moby")
    other.write()
    second = snapshot_stack([daemon.place, other.place], "moby", "overlayfs", HEX)
    assert second.stack == Stack(
        driver="vfs", upper=encode(other.fs(1)), provenance=second.told[1:]
    )
    assert second.damages == ()
    nothing = snapshot_stack([Place(data=encode(str(tmp_path)))], "moby", "overlayfs", HEX)
    assert [str(each) for each in nothing.damages] == [f"{tmp_path}: is no root of containerd"]


def test_a_container_that_does_not_run_has_what_the_database_says(daemon: Daemon) -> None:
    """Without a task, mounts and control group are those of the configuration on record."""
    daemon.layered("web")
    daemon.write()
    found = daemon.described("web")
    assert (found.pid, found.status, found.bundle, found.spec) == (0, "stopped", None, None)
    assert found.rootfs == encode(f"{daemon.state}/{BUNDLES}/default/web/rootfs")
    assert found.cgroup == "/default/lab"
    assert [mount.destination for mount in found.mounts] == ["/data/vol"]
    assert found.stack
    assert found.stack.lowers == (daemon.fs(2), daemon.fs(1))
    assert found.stack.upper == daemon.fs(3)
    assert f"mounts: {daemon.meta}: v1/default/containers/web/spec" in found.provenance
    bundle = f"{daemon.state}/{BUNDLES}/default/web"
    assert found.torn_down == (
        TornDown(path=encode(bundle), type="directory", mode=0o700),
        TornDown(path=encode(f"{bundle}/rootfs"), type="directory", mode=0o711),
    )


def test_the_configuration_of_a_task_counts_while_there_is_one(daemon: Daemon) -> None:
    """The database has the configuration of the next task, the bundle that of this one."""
    daemon.container("web")
    volume = {"destination": "/now", "type": "bind", "source": "/srv/x", "options": ["bind"]}
    daemon.bundle("web", spec=SPEC | {"mounts": [volume]})
    daemon.write()
    assert [mount.destination for mount in daemon.described("web").mounts] == ["/now"]


def test_a_damaged_bundle_leaves_the_database(daemon: Daemon) -> None:
    """A config.json that is cut short is a damage, and the mounts are those on record."""
    daemon.container("web")
    (daemon.bundle("web") / "config.json").write_text("{")
    daemon.write()
    found = daemon.described("web")
    assert [mount.destination for mount in found.mounts] == ["/data/vol"]
    assert any("config.json: no JSON" in each for each in said(found))


def test_the_root_of_runc_may_be_an_option(daemon: Daemon, host: Host) -> None:
    """`ctr run --runc-root` is in the options of the runtime; a field of another kind is not."""
    process = host.process()
    daemon.runs("web", process)
    other = daemon.root.parent / "own"
    daemon.runtime.rename(other)
    options = b"\x08\x01" + b"\x3a" + varint(len(str(other))) + str(other).encode()
    made = daemon.container("web")
    made[b"runtime"] = {b"options": wrapped(b"containerd.runc.v1.Options", options)}
    daemon.write()
    found = daemon.described("web")
    assert (found.pid, found.start_time) == (process.pid, process.start_time)


def test_the_same_id_in_another_containerd_is_another_container(
    daemon: Daemon, tmp_path: Path, host: Host
) -> None:
    """Two daemons share the directory of runc; the bundle tells whose container is running."""
    daemon.container("web")
    daemon.write()
    other = Daemon(tmp_path, "other")
    other.runtime = daemon.runtime
    bundle = other.runs("web", host.process())
    found = daemon.described("web")
    assert (found.pid, found.bundle) == (0, None)
    kept = daemon.root / BUNDLES / "default" / "web"
    kept.mkdir(parents=True)
    (bundle / "work").symlink_to(kept)  # the state was elsewhere than supposed
    found = daemon.described("web")
    assert found.pid
    assert found.bundle == encode(str(bundle))
    assert found.torn_down[0].path == found.bundle


def test_a_pid_without_a_record_of_runc_is_checked(daemon: Daemon, host: Host) -> None:
    """The pid of the shim is taken only for a process whose control group has the id."""
    daemon.container("web" * 20)
    bundle = daemon.bundle("web" * 20)
    (bundle / "init.pid").write_text(str(host.process().pid))
    daemon.write()
    assert daemon.described("web" * 20).pid == 0
    (bundle / "init.pid").write_text("4x")
    assert said(daemon.described("web" * 20)) == [f"{bundle}/init.pid: no pid: '4x'"]


def test_the_cgroup_of_systemd_lies_in_its_slices() -> None:
    """The driver of systemd spells a control group as slice, prefix and name."""
    assert group_path("kubepods-besteffort-pod1.slice:cri-containerd:ab") == (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice"
        "/cri-containerd-ab.scope"
    )
    assert group_path(":nerdctl:ab") == "/system.slice/nerdctl-ab.scope"
    assert group_path("default/web") == "/default/web"
    assert group_path("") is None


def test_the_same_id_in_two_namespaces_is_told_apart(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`NAMESPACE/ID` means one container, and is what an ambiguous id is answered with."""
    daemon.layered("web", "default", 1)
    daemon.layered("web", "other", 11)
    daemon.write()
    monkeypatch.setattr("mountcr.engines.Containerd", lambda: Containerd(daemon.usual))
    with pytest.raises(AmbiguousError) as raised:
        find("web", roots=daemon.roots)
    assert raised.value.candidates == ("containerd:default/web", "containerd:other/web")
    for reference in ("containerd:other/web", "other/web", f"{daemon.root}/other/web"):
        found = find(reference, roots=daemon.roots)
        assert found.namespace == "other"
        assert found.stack
        assert found.stack.upper == daemon.fs(13)
    only = Roots(places=(daemon.place,), namespace="default")
    assert [each.namespace for each in list_containers(only)] == ["default"]
    assert find("containerd:w", roots=only).namespace == "default"
    assert find("default/we" + "b", roots=daemon.roots).namespace == "default"


def test_the_same_id_in_two_roots_is_told_apart(tmp_path: Path) -> None:
    """Where two daemons have the same id in the same namespace, the root is said too."""
    daemons = [Daemon(tmp_path, name) for name in ("a", "b")]
    for each in daemons:
        each.container("web")
        each.write()
    roots = Roots(places=tuple(each.place for each in daemons))
    engine = Containerd(daemons[0].usual)
    found = list(engine.containers(roots))
    spelled = labels(found)
    assert spelled == [f"containerd:{each.root}/default/web" for each in daemons]
    for label, container in zip(spelled, found, strict=True):
        assert engine.lookup(label.partition(":")[2], roots) == [container]
    assert engine.lookup("web", roots) is None
    assert engine.lookup("nowhere/web", roots) is None


def test_kubernetes_has_names(daemon: Daemon) -> None:
    """A container of the CRI is called as crictl shows it; a sandbox is called by its pod."""
    pod = {"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "prod"}
    app = pod | {"io.cri-containerd.kind": "container", "io.kubernetes.container.name": "app"}
    daemon.container(HEX, "k8s.io", labels=app)
    daemon.container("cd" * 32, "k8s.io", labels=pod | {"io.cri-containerd.kind": "sandbox"})
    daemon.write()
    container, sandbox = Containerd(daemon.usual).containers(daemon.roots)
    assert (container.name, container.names) == ("app", ("web-0/app", "prod/web-0/app"))
    assert (sandbox.name, sandbox.names) == ("web-0", ("prod/web-0",))


@pytest.mark.parametrize(
    ("status", "recorded"),
    [
        ({"CreatedAt": 1, "StartedAt": 0, "FinishedAt": 0, "Pid": 0}, "CONTAINER_CREATED"),
        ({"CreatedAt": 1, "StartedAt": 2, "FinishedAt": 0, "Pid": 4}, "CONTAINER_RUNNING"),
        ({"CreatedAt": 1, "StartedAt": 2, "FinishedAt": 3, "Pid": 4}, "CONTAINER_EXITED"),
        ({}, "CONTAINER_UNKNOWN"),
    ],
)
def test_kubernetes_records_a_state(daemon: Daemon, status: dict[str, int], recorded: str) -> None:
    """The state of a container is what the CRI plugin wrote last."""
    daemon.container(HEX, "k8s.io", labels={"io.cri-containerd.kind": "container"})
    daemon.write()
    file = daemon.root / "io.containerd.grpc.v1.cri" / "containers" / HEX / "status"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"Version": "v1", "ExitCode": 0} | status))
    assert daemon.described(HEX, "k8s.io").recorded == recorded
    file.write_text("{")
    damaged = daemon.described(HEX, "k8s.io")
    assert damaged.recorded == ""
    assert any(each.startswith(f"{file}: no JSON") for each in said(damaged))


def test_the_files_of_a_pod_are_those_that_are_bound(daemon: Daemon) -> None:
    """hosts, resolv.conf, hostname and /dev/shm of a sandbox are found, and what goes with it."""
    kept = f"{daemon.root}/io.containerd.grpc.v1.cri/sandboxes/s"
    shm = f"{daemon.state}/io.containerd.grpc.v1.cri/sandboxes/s/shm"
    binds = [
        {"destination": f"/etc/{name}", "type": "bind", "source": f"{kept}/{name}"}
        for name in ("hosts", "hostname", "resolv.conf")
    ]
    binds.append({"destination": "/dev/shm", "type": "bind", "source": shm})
    namespaces = [{"type": "network", "path": "/var/run/netns/cni-1"}]
    spec = SPEC | {"mounts": binds, "linux": {"namespaces": namespaces}}
    daemon.container(HEX, "k8s.io", spec=spec, labels={"io.cri-containerd.kind": "sandbox"})
    daemon.container("app", "k8s.io", spec=spec, labels={"io.cri-containerd.kind": "container"})
    daemon.write()
    sandbox, app = daemon.described(HEX, "k8s.io"), daemon.described("app", "k8s.io")
    for found in (sandbox, app):
        assert found.files == {
            name: f"{kept}/{name}" for name in ("hosts", "hostname", "resolv.conf")
        }
        assert found.shm == shm
        assert found.namespace_paths == {"net": "/var/run/netns/cni-1"}
        assert found.mounts == ()
    assert sandbox.torn_down[2:] == (
        TornDown(path=encode(shm), type="tmpfs", mode=0o1777, options="mode=1777,size=65536k"),
    )
    assert len(app.torn_down) == 2


def test_nerdctl_names_containers_and_volumes(daemon: Daemon) -> None:
    """A label has the name, another says which mounts are volumes; a damaged one is named."""
    volume = {"Type": "volume", "Name": "data", "Destination": "/data/vol", "RW": True}
    made = {"nerdctl/name": "web", "nerdctl/mounts": json.dumps([volume])}
    daemon.container(HEX, labels=made)
    daemon.container("cd" * 32, labels=made | {"nerdctl/mounts": "["})
    daemon.write()
    found = daemon.described(HEX)
    assert found.name == "web"
    assert [(mount.type, mount.name) for mount in found.mounts] == [("volume", "data")]
    damaged = daemon.described("cd" * 32)
    assert [mount.type for mount in damaged.mounts] == ["bind"]
    assert [each.field for each in damaged.damages] == [
        f"v1/default/containers/{'cd' * 32}/labels/nerdctl/mounts"
    ]


def test_a_container_of_docker_is_dockers() -> None:
    """What Docker and containerd's namespace moby both have is Docker's; ids chosen are not."""
    docker = Container(id=HEX, engine="docker", namespace="moby")
    moby = Container(id=HEX, engine="containerd", namespace="moby")
    assert once([docker, moby]) == [docker]
    assert once([moby]) == [moby]
    web = Container(id="web", engine="containerd", namespace="default")
    runc = Container(id="web", engine="runc", bundle=KPath("/srv/web"))
    assert once([web, runc]) == [web, runc]
    task = Container(id="web", engine="containerd", bundle=KPath("/srv/web"))
    assert once([task, runc]) == [task]
    assert once([moby, Container(id=HEX, engine="runc")]) == [moby]


def test_a_container_of_nobody_is_given_back(daemon: Daemon) -> None:
    """A container whose containerd is not among the roots is described as it is."""
    stranger = Container(id="web", engine="containerd", state_root=KPath("/nowhere"))
    assert Containerd(daemon.usual).describe(stranger, daemon.roots) is stranger


def test_a_container_is_described_without_being_listed(daemon: Daemon) -> None:
    """An engine that has listed nothing reads what it needs."""
    daemon.layered("web")
    daemon.write()
    (listed,) = Containerd(daemon.usual).containers(daemon.roots)
    assert Containerd(daemon.usual).describe(listed, daemon.roots).stack
