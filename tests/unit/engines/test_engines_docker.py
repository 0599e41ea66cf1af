# SPDX-License-Identifier: Apache-2.0
"""Containers of Docker since 1.10 are what its data root says, layer by layer."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mountcr.engines import find
from mountcr.engines.docker import Docker
from mountcr.paths import encode
from unit.engines.dockertrees import Tree, hex64, short, write

if TYPE_CHECKING:
    from pathlib import Path

    from unit.engines.conftest import Host

UNIONS = ("overlay2", "fuse-overlayfs")
PLAIN = {"vfs": "dir", "btrfs": "subvolumes", "zfs": "graph"}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An empty data root."""
    return Tree(tmp_path)


@pytest.mark.parametrize("driver", UNIONS)
def test_the_layers_of_overlay2_are_those_of_lower(tree: Tree, driver: str) -> None:
    """The lower directories are the init layer and the image's, as real directories, top first."""
    image = tree.image(driver, 12)
    container = tree.container("web", driver, image)
    found = tree.described()[container]
    home, own = f"{tree.data}/{driver}", hex64("layer", "web")
    assert not found.damages
    assert found.stack
    assert found.stack.driver == {"overlay2": "overlay"}.get(driver, driver)
    assert found.stack.upper == f"{home}/{own}/diff"
    assert found.stack.work == f"{home}/{own}/work"
    assert found.stack.lowers == tuple(f"{home}/{i}/diff" for i in (f"{own}-init", *image[1]))
    assert found.stack.options == ()
    assert f"layers: {home}/{own}/lower" in found.stack.provenance
    assert found.rootfs == f"{home}/{own}/merged"
    (merged,) = found.torn_down
    assert (merged.path, merged.type, merged.mode) == (found.rootfs, "directory", 0o700)


def test_a_listing_names_what_a_reference_may_be(tree: Tree) -> None:
    """A container is listed with id, name, status, storage, image and data root."""
    container = tree.container("web", image=tree.image("overlay2", 2))
    (found,) = Docker().containers(tree.roots)
    assert (found.id, found.name, found.engine) == (container, "web", "docker")
    assert (found.recorded, found.status, found.pid) == ("exited", "stopped", 0)
    assert (found.storage, found.image) == ("overlay2", "app:1")
    assert found.state_root == encode(str(tree.data))
    file = tree.directory(container) / "config.v2.json"
    assert {f"name: {file}: Name", f"image: {file}: Config.Image"} <= set(found.provenance)


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ({"Running": True, "Pid": 1}, "running"),
        ({"Running": True, "Paused": True}, "paused"),
        ({"Running": True, "Restarting": True}, "restarting"),
        ({"Running": False, "StartedAt": "0001-01-01T00:00:00Z"}, "created"),
        ({"Running": False, "StartedAt": "2026-01-01T00:00:00Z"}, "exited"),
        ({"Running": False, "RemovalInProgress": True}, "removing"),
        ({"Running": False, "Dead": True}, "dead"),
    ],
)
def test_the_recorded_status_is_the_word_of_docker(
    tree: Tree, state: dict[str, Any], word: str
) -> None:
    """What the daemon recorded is said in the words of `docker ps`, whatever /proc shows."""
    tree.container("web", State=state)
    (found,) = Docker().containers(tree.roots)
    assert (found.recorded, found.status) == (word, "stopped")


def test_a_committed_layer_is_only_read(tree: Tree) -> None:
    """A writable layer with the marker `committed` is the uppermost lower one."""
    image = tree.image("overlay2", 1)
    container = tree.container("web", image=image)
    own = tree.data / "overlay2" / hex64("layer", "web")
    write(own / "committed", "")
    stack = tree.described()[container].stack
    assert stack
    assert (stack.upper, stack.work) == (None, None)
    assert stack.lowers[0] == encode(f"{own}/diff")
    assert len(stack.lowers) == 3


def test_overlay_has_one_layer_below(tree: Tree) -> None:
    """With the driver `overlay`, the layer below is the whole tree of the image."""
    image = tree.image("overlay", 12)
    container = tree.container("web", "overlay", image)
    found = tree.described()[container]
    home, own = f"{tree.data}/overlay", hex64("layer", "web")
    assert not found.damages
    assert found.stack
    assert found.stack.driver == "overlay"
    assert found.stack.lowers == (f"{home}/{image[1][0]}/root",)
    assert found.stack.upper == f"{home}/{own}/upper"
    assert found.stack.work == f"{home}/{own}/work"
    assert found.rootfs == f"{home}/{own}/merged"
    assert [each.mode for each in found.torn_down] == [0o700]


@pytest.mark.parametrize("driver", PLAIN)
def test_plain_drivers_have_one_directory(tree: Tree, driver: str) -> None:
    """With vfs, btrfs and zfs the root file system is one directory, and nothing is torn down."""
    container = tree.container("web", driver, tree.image(driver, 12))
    found = tree.described()[container]
    directory = f"{tree.data}/{driver}/{PLAIN[driver]}/{hex64('layer', 'web')}"
    assert not found.damages
    assert found.stack
    assert (found.stack.driver, found.stack.upper) == ("vfs", directory)
    assert (found.stack.lowers, found.torn_down) == ((), ())
    assert found.rootfs == directory


def test_devicemapper_needs_no_mount(tree: Tree) -> None:
    """The directory of devicemapper is there only while it is mounted; its record is always."""
    container = tree.container("web", "devicemapper", tree.image("devicemapper", 2))
    found = tree.described()[container]
    assert not found.damages
    assert found.stack
    own = hex64("layer", "web")
    assert found.stack.upper == f"{tree.data}/devicemapper/mnt/{own}/rootfs"
    assert any("is not mounted" in each for each in found.provenance)


def test_aufs_branches_say_what_becomes_of_whiteouts(tree: Tree) -> None:
    """The branches of AUFS are in the order of `layers`, and all but the first are `ro+wh`."""
    image = tree.image("aufs", 12)
    container = tree.container("web", "aufs", image)
    found = tree.described()[container]
    home, own = f"{tree.data}/aufs", hex64("layer", "web")
    assert not found.damages
    assert found.stack
    assert found.stack.directories == tuple(
        f"{home}/diff/{each}" for each in (own, f"{own}-init", *image[1])
    )
    assert found.stack.permissions == ("rw", *("ro+wh",) * 13)
    assert found.stack.options == ("dio", "xino=/dev/shm/aufs.xino", "dirperm1")
    assert found.rootfs == f"{home}/mnt/{own}"
    assert found.torn_down == ()


@pytest.mark.parametrize("driver", [*UNIONS, "overlay", "aufs"])
def test_an_image_without_layers_leaves_the_init_layer(tree: Tree, driver: str) -> None:
    """A container made of nothing has the init layer below its own, and no other."""
    container = tree.container("web", driver)
    found = tree.described()[container]
    assert not found.damages
    assert found.stack
    assert len(found.stack.lowers) == 1
    assert hex64("layer", "web") + "-init" in found.stack.lowers[0]


@pytest.mark.parametrize(("driver", "where"), [("overlay2", "{}/diff"), ("aufs", "diff/{}")])
def test_a_layer_with_nothing_below_is_no_union(tree: Tree, driver: str, where: str) -> None:
    """Where neither driver nor layerdb names a layer below, the root is the directory itself."""
    container = tree.container("web", driver)
    own = hex64("layer", "web")
    (tree.data / f"image/{driver}/layerdb/mounts/{container}/init-id").unlink()
    if driver == "aufs":
        write(tree.data / "aufs/layers" / own, "")
    else:
        (tree.data / "overlay2" / own / "lower").unlink()
    found = tree.described()[container]
    assert not found.damages
    assert found.stack
    assert found.stack.driver == "vfs"
    assert found.stack.upper == found.rootfs == f"{tree.data}/{driver}/{where.format(own)}"


def test_a_lost_link_is_found_by_the_name_in_its_layer(tree: Tree) -> None:
    """A link that is missing or leads nowhere is told by the files `link`, and nothing is lost."""
    image = tree.image("overlay2", 4)
    container = tree.container("web", image=image)
    expected = tree.described()[container].stack
    links = tree.data / "overlay2" / "l"
    (links / short(image[1][1])).unlink()
    (links / short(image[1][2])).unlink()
    os.symlink(f"../{hex64('nobody')}/diff", links / short(image[1][2]))
    found = tree.described()[container]
    assert found.stack == expected
    assert not found.damages
    lost = [each for each in found.provenance if "is lost" in each]
    assert lost == [
        f"l/{short(layer)} is lost, layer {number}: {tree.data}/overlay2/{layer}/link"
        for number, layer in ((2, image[1][1]), (3, image[1][2]))
    ]


def test_volumes_binds_and_tmpfs_are_mounts(tree: Tree) -> None:
    """Volumes without a source are in the data root; binds are where they were recorded."""
    points = {
        "/b": {
            "Source": "/srv/my data",
            "Destination": "/b",
            "RW": False,
            "Type": "bind",
            "Propagation": "rslave",
        },
        "/v": {
            "Source": "",
            "Destination": "/v",
            "RW": True,
            "Name": "web",
            "Driver": "local",
            "Type": "volume",
        },
        "/w": {"Source": "", "Destination": "/w", "Name": "x", "Driver": "nfs", "Type": "volume"},
        "/o": {"Source": f"{tree.data}/volumes/old/_data", "Name": "old", "RW": True},
    }
    container = tree.container(
        "web", MountPoints=points, host={"Tmpfs": {"/t": "rw,size=1k", "/r/": "ro"}}
    )
    mounts = {each.destination: each for each in tree.described()[container].mounts}
    assert sorted(mounts) == ["/b", "/o", "/r", "/t", "/v", "/w"]
    bind, volume, old = mounts[encode("/b")], mounts[encode("/v")], mounts[encode("/o")]
    assert (bind.type, bind.source, bind.readonly) == ("bind", r"/srv/my\040data", True)
    assert bind.propagation == "rslave"
    assert (volume.type, volume.name, volume.readonly) == ("volume", "web", False)
    assert volume.source == f"{tree.data}/volumes/web/_data"
    assert mounts[encode("/w")].source is None
    assert (old.type, old.source) == ("volume", f"{tree.data}/volumes/old/_data")
    assert [mounts[encode(each)].readonly for each in ("/t", "/r")] == [False, True]
    assert mounts[encode("/t")].type == "tmpfs"


def test_files_labels_and_the_network_are_recorded(tree: Tree) -> None:
    """The engine's files, the pinned network and the labels are those of config.v2.json."""
    container = tree.container(
        "web",
        Config={"Image": "app:1", "Labels": {"a": "b"}},
        NetworkSettings={"SandboxKey": "/var/run/docker/netns/1234"},
    )
    found = tree.described()[container]
    directory = tree.directory(container)
    assert found.files == {
        name: f"{directory}/{name}" for name in ("hostname", "hosts", "resolv.conf")
    }
    assert found.labels == {"a": "b"}
    assert found.namespace_paths == {"net": "/var/run/docker/netns/1234"}
    assert found.shm is None
    assert f"hosts: {directory}/config.v2.json: HostsPath" in found.provenance


@pytest.mark.parametrize(
    ("mode", "recorded", "size", "options"),
    [
        ("shareable", "{}/mounts/shm", 1 << 20, "mode=1777,size=1048576"),
        ("shareable", "", 0, "mode=1777,size=67108864"),
        ("", "", 67108864, "mode=1777,size=67108864"),
        ("private", "", 67108864, ""),
        ("host", "/dev/shm", 67108864, ""),
    ],
)
def test_a_shared_shm_is_torn_down(
    tree: Tree, mode: str, recorded: str, size: int, options: str
) -> None:
    """The tmpfs that others may share is on the host, and goes when the container ends."""
    container = hex64("container", "web")
    directory = tree.directory(container)
    tree.container(
        "web",
        ShmPath=recorded.format(directory),
        host={"IpcMode": mode, "ShmSize": size},
        image=tree.image("overlay2", 1),
    )
    found = tree.described()[container]
    expected = {"private": None, "host": "/dev/shm"}.get(mode, f"{directory}/mounts/shm")
    assert found.shm == expected
    torn = [each for each in found.torn_down if each.type == "tmpfs"]
    assert [(each.path, each.options) for each in torn] == (
        [(expected, options)] if options else []
    )


def test_the_runtime_tells_the_process(tree: Tree, host: Host) -> None:
    """Runc's record below the exec root tells pid, start time and bundle of what runs."""
    container = tree.container("web", State={"Running": True, "Pid": 1})
    process = host.process()
    state = host.runc(container, process, recorded="docker-overlay2")
    runtime = tree.run / "runtime-runc" / "moby"
    runtime.mkdir(parents=True)
    state.rename(runtime / container)
    (found,) = Docker().containers(tree.roots)
    assert (found.pid, found.start_time) == (process.pid, process.start_time)
    assert (found.status, found.recorded) == ("running", "running")
    described = Docker().describe(found, tree.roots)
    assert described.namespace == "moby"
    assert any(each.startswith(f"runtime: {runtime}") for each in described.provenance)


def test_a_recorded_process_of_another_is_none(tree: Tree, host: Host) -> None:
    """A pid that is somebody else's by now is not the container's."""
    tree.container("web", State={"Running": True, "Pid": host.process().pid})
    (found,) = Docker().containers(tree.roots)
    assert (found.pid, found.status, found.recorded) == (0, "stopped", "running")
    assert any("is another process by now" in each for each in found.provenance)


def test_the_bundle_is_that_of_the_task(tree: Tree) -> None:
    """The specification is found in the state of containerd, the host's or the daemon's own."""
    container = tree.container("web")
    bundle = tree.run.parent / "containerd/io.containerd.runtime.v2.task/moby" / container
    write(bundle / "config.json", '{"root": {"path": "rootfs"}, "annotations": {"x": "y"}}')
    found = tree.described()[container]
    assert found.bundle == encode(str(bundle))
    assert found.spec == encode(f"{bundle}/config.json")
    assert found.namespace == "moby"


def test_snapshots_are_recognised(tree: Tree) -> None:
    """A storage driver without layerdb is a snapshotter, and no damage."""
    container = hex64("container", "snap")
    tree.records(container, "snap", "overlayfs")
    found = tree.described()[container]
    assert (found.stack, found.storage, found.namespace) == (None, "overlayfs", "moby")
    assert not found.damages
    assert found.rootfs == f"{tree.data}/rootfs/overlayfs/{container}"
    assert [(each.path, each.mode) for each in found.torn_down] == [(found.rootfs, 0o710)]


def test_a_snapshotter_may_be_called_like_a_graph_driver(tree: Tree) -> None:
    """`btrfs` is a snapshotter where containers are mounted below `rootfs/btrfs`."""
    container = hex64("container", "snap")
    tree.records(container, "snap", "btrfs")
    (tree.data / "rootfs/btrfs").mkdir(parents=True)
    found = tree.described()[container]
    assert found.rootfs == f"{tree.data}/rootfs/btrfs/{container}"
    assert not found.damages


@pytest.mark.parametrize("old", [False, True])
def test_graph_drivers_of_others_keep_their_layers(tree: Tree, *, old: bool) -> None:
    """Of a graph driver that is a plug-in, the layers are not known, which is no damage."""
    container = hex64("container", "web")
    tree.records(container, "web", "unionfs", file="config.json" if old else "config.v2.json")
    write(tree.data / "image/unionfs/layerdb/mounts" / container / "mount-id", hex64("x"))
    found = tree.described()[container]
    assert (found.stack, found.rootfs, found.namespace) == (None, None, "")
    assert not found.damages
    assert any("only the graph driver unionfs knows" in each for each in found.provenance)


def test_references_of_docker_are_found(tree: Tree) -> None:
    """A container is found by `docker:`, its name, its id and the beginning of it."""
    container = tree.container("web", image=tree.image("overlay2", 2))
    tree.container("db")
    for reference in ("docker:web", "web", container, container[:12]):
        found = find(reference, roots=tree.roots)
        assert (found.id, found.engine) == (container, "docker")
        assert found.stack


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(layers=st.integers(1, 20), name=NAMES, destination=NAMES)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, layers: int, name: str, destination: str
) -> None:
    """Whatever a container and its mounts are called, and of how many layers, it is read whole."""
    tree = Tree(tmp_path_factory.mktemp("docker"))
    image = tree.image("overlay2", layers)
    points = {f"/{destination}": {"Source": f"/{name}", "Type": "bind"}}
    container = tree.container(name, image=image, MountPoints=points)
    found = tree.described()[container]
    assert found.name == name
    assert not found.damages
    assert found.stack
    assert len(found.stack.lowers) == layers + 1
    (mount,) = found.mounts
    assert mount.source == encode(f"/{name}")


def test_containers_of_one_image_are_described_at_once(tree: Tree) -> None:
    """What containers share is read once: each takes less than a millisecond, with 20 layers."""
    image = tree.image("overlay2", 20)
    for number in range(200):
        tree.container(f"c{number}", image=image)
    times: list[float] = []
    for _ in range(3):
        begun = time.process_time()
        found = tree.described()
        times.append(time.process_time() - begun)
        assert len(found) == 200
        assert all(each.stack and not each.damages for each in found.values())
    assert min(times) < 0.2
