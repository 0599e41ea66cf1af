# SPDX-License-Identifier: Apache-2.0
"""Containers of Docker 1.0 to 1.9 are what its data root says: layers have the ids of images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mountcr.engines.docker import Docker
from mountcr.paths import encode
from unit.engines.conftest import ended
from unit.engines.dockertrees import Tree, hex64, write

if TYPE_CHECKING:
    from pathlib import Path

    from unit.engines.conftest import Host

PLAIN = {"vfs": "dir/{}", "btrfs": "subvolumes/{}", "zfs": "graph/{}"}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An empty data root."""
    return Tree(tmp_path)


def of_1_5(**changes: Any) -> dict[str, Any]:
    """Give what config.json of Docker 1.5 has otherwise: no mount points, labels or sandbox."""
    return {
        "MountPoints": None,
        "NetworkSettings": {"Bridge": "docker0"},
        "Config": {"Hostname": "web", "Image": "app:1"},
        "Volumes": {},
        "VolumesRW": {},
        "ExecDriver": "native-0.2",
    } | changes


@pytest.mark.parametrize("release", ["1.5", "1.9"])
def test_aufs_lists_the_parents_nearest_first(tree: Tree, release: str) -> None:
    """The branches are the container's, its init layer's, and those of the images below."""
    image = tree.old_image("aufs", 12)
    changes = of_1_5() if release == "1.5" else {}
    container = tree.old_container("web", "aufs", image, **changes)
    found = tree.described()[container]
    home = f"{tree.data}/aufs"
    assert not found.damages
    assert found.stack
    assert found.stack.driver == "aufs"
    assert found.stack.directories == tuple(
        f"{home}/diff/{each}" for each in (container, f"{container}-init", *image)
    )
    assert found.stack.permissions == ("rw", *("ro+wh",) * 13)
    assert ("dirperm1" in found.stack.options) == (release == "1.9")
    assert found.rootfs == f"{home}/mnt/{container}"
    assert f"layers: {home}/layers/{container}" in found.stack.provenance
    assert found.namespace == ""


@pytest.mark.parametrize("release", ["1.5", "1.9"])
def test_overlay_has_the_image_below(tree: Tree, release: str) -> None:
    """`lower-id` is an image; the changes of the init layer were copied into the container's."""
    image = tree.old_image("overlay", 12)
    changes = of_1_5() if release == "1.5" else {}
    container = tree.old_container("web", "overlay", image, **changes)
    found = tree.described()[container]
    home = f"{tree.data}/overlay"
    assert not found.damages
    assert found.stack
    assert found.stack.driver == "overlay"
    assert found.stack.lowers == (f"{home}/{image[0]}/root",)
    assert found.stack.upper == f"{home}/{container}/upper"
    assert found.stack.work == f"{home}/{container}/work"
    assert found.rootfs == f"{home}/{container}/merged"


@pytest.mark.parametrize("driver", PLAIN)
@pytest.mark.parametrize("release", ["1.5", "1.9"])
def test_plain_drivers_have_one_directory(tree: Tree, driver: str, release: str) -> None:
    """With vfs, btrfs and zfs the root file system is a directory called by the container's id."""
    image = tree.old_image(driver, 12)
    changes = of_1_5() if release == "1.5" else {}
    container = tree.old_container("web", driver, image, **changes)
    found = tree.described()[container]
    assert not found.damages
    assert found.stack
    assert (found.stack.driver, found.torn_down) == ("vfs", ())
    assert found.stack.upper == f"{tree.data}/{driver}/{PLAIN[driver].format(container)}"


def test_devicemapper_has_a_record(tree: Tree) -> None:
    """A thin device is mounted at `mnt/<id>`, and the root file system is in `rootfs` of it."""
    container = tree.old_container("web", "devicemapper", tree.old_image("devicemapper", 2))
    found = tree.described()[container]
    assert not found.damages
    assert found.stack
    assert found.stack.upper == f"{tree.data}/devicemapper/mnt/{container}/rootfs"


def test_volumes_of_docker_1_5_are_told_by_their_directories(tree: Tree) -> None:
    """What lies in `vfs/dir` of the data root is a volume, and anything else a bind."""
    volume = hex64("volume")
    container = tree.old_container(
        "web",
        "vfs",
        tree.old_image("vfs", 1),
        **of_1_5(
            Volumes={"/v": f"{tree.data}/vfs/dir/{volume}", "/b": "/srv/b", "/r": "/srv/r"},
            VolumesRW={"/v": True, "/b": True, "/r": False},
        ),
    )
    found = tree.described()[container]
    mounts = [(each.destination, each.type, each.name, each.readonly) for each in found.mounts]
    assert mounts == [
        ("/b", "bind", "", False),
        ("/r", "bind", "", True),
        ("/v", "volume", volume, False),
    ]
    assert [each.source for each in found.mounts] == [
        "/srv/b",
        "/srv/r",
        f"{tree.data}/vfs/dir/{volume}",
    ]
    file = f"{tree.directory(container)}/config.json"
    assert f"mounts: {file}: Volumes" in found.provenance


def test_mount_points_of_docker_1_9_have_no_type(tree: Tree) -> None:
    """What has a name is a volume; `Volumes`, which is kept, does not count beside it."""
    points = {
        "/v": {
            "Name": "data",
            "Destination": "/v",
            "Driver": "local",
            "RW": True,
            "Source": f"{tree.data}/volumes/data/_data",
            "Relabel": "z",
        },
        "/b": {"Name": "", "Destination": "/b", "Driver": "", "RW": True, "Source": "/srv/b"},
    }
    image = tree.old_image("aufs", 1)
    container = tree.old_container(
        "web", "aufs", image, MountPoints=points, Volumes={"/x": "/srv/x"}
    )
    found = tree.described()[container]
    assert [(each.destination, each.type, each.name) for each in found.mounts] == [
        ("/b", "bind", ""),
        ("/v", "volume", "data"),
    ]


def test_shm_of_docker_1_9_is_where_it_was_recorded(tree: Tree) -> None:
    """Docker 1.9 has the tmpfs in the directory of the container, and records it."""
    container = hex64("container", "web")
    shm = f"{tree.directory(container)}/shm"
    image = tree.old_image("aufs", 1)
    tree.old_container("web", "aufs", image, ShmPath=shm)
    write(tree.directory(container) / "hostconfig.json", '{"IpcMode": "", "ShmSize": 0}')
    found = tree.described()[container]
    assert found.shm == shm
    assert [(each.path, each.type, each.options) for each in found.torn_down] == [
        (shm, "tmpfs", "mode=1777,size=67108864")
    ]


def test_the_exec_driver_tells_the_process(tree: Tree, host: Host) -> None:
    """The pid and its start time, which is a string, are those of libcontainer."""
    container = tree.old_container("web", "aufs", tree.old_image("aufs", 2))
    process = host.process()
    tree.executed(container, process.pid, process.start_time)
    (found,) = Docker().containers(tree.roots)
    assert (found.pid, found.start_time) == (process.pid, process.start_time)
    assert found.status == "running"
    assert found.cgroup == f"/docker/{container}"
    file = f"{tree.run}/execdriver/native/{container}/state.json"
    assert f"pid: {file}: init_process_pid" in found.provenance


def test_a_process_that_ended_is_none(tree: Tree, host: Host) -> None:
    """A record of the exec driver that was left behind, or is of an earlier boot, is stale."""
    container = tree.old_container(
        "web", "aufs", tree.old_image("aufs", 2), State={"Running": True, "Pid": 1}
    )
    gone = ended()
    tree.executed(container, gone.pid, gone.start_time)
    (found,) = Docker().containers(tree.roots)
    assert (found.pid, found.status, found.recorded) == (0, "stopped", "running")
    process = host.process()
    tree.executed(container, process.pid, process.start_time + 1)
    (found,) = Docker().containers(tree.roots)
    assert (found.pid, found.status) == (0, "stopped")


def test_the_init_of_docker_is_bound(tree: Tree, host: Host) -> None:
    """`/.dockerinit` comes from where the exec driver says, else from the only one there is."""
    container = tree.old_container("web", "aufs", tree.old_image("aufs", 2))
    write(tree.data / "init/dockerinit-1.9.1", "")
    only = tree.described()[container].mounts
    assert [(each.destination, each.type, each.readonly) for each in only] == [
        ("/.dockerinit", "bind", True)
    ]
    assert only[0].source == f"{tree.data}/init/dockerinit-1.9.1"
    write(tree.data / "init/dockerinit-1.5.0", "")
    found = tree.described()[container]
    assert found.mounts == ()
    assert any("is one of 2, and nothing tells which" in each for each in found.provenance)
    process = host.process()
    source = f"{tree.data}/init/dockerinit-1.5.0"
    tree.executed(
        container,
        process.pid,
        process.start_time,
        config={"mounts": [{"source": source, "destination": "/.dockerinit", "device": "bind"}]},
    )
    assert [each.source for each in tree.described()[container].mounts] == [source]


def test_a_migrated_container_is_one_of_layerdb(tree: Tree) -> None:
    """Docker 1.10 leaves config.json beside config.v2.json, and keeps the id of the layer."""
    image = tree.image("aufs", 3)
    container = hex64("container", "web")
    mount = tree.data / "image/aufs/layerdb/mounts" / container
    write(mount / "mount-id", container)
    write(mount / "init-id", f"{container}-init")
    write(mount / "parent", image[0])
    tree.layer("aufs", f"{container}-init", image[1])
    tree.layer("aufs", container, (f"{container}-init", *image[1]))
    tree.records(container, "web", "aufs")
    write(tree.directory(container) / "config.json", json.dumps({"ID": container, "Name": "/old"}))
    found = tree.described()[container]
    assert not found.damages
    assert found.name == "web"
    assert found.stack
    assert found.stack.lowers[-1] == f"{tree.data}/aufs/diff/{image[1][-1]}"


def test_images_that_are_not_there_leave_the_layers(tree: Tree) -> None:
    """Without `graph`, what AUFS itself says of its layers stands alone."""
    image = tree.old_image("aufs", 3)
    container = tree.old_container("web", "aufs", image)
    expected = tree.described()[container].stack
    (tree.data / "graph").rename(tree.data / "graph.lost")
    found = tree.described()[container]
    assert found.stack == expected
    assert not found.damages


def test_an_old_root_that_was_moved(tmp_path: Path) -> None:
    """The volumes of Docker 1.5 are found in a data root that is elsewhere now."""
    tree = Tree(tmp_path, recorded="/var/lib/docker")
    volume = hex64("volume")
    container = tree.old_container(
        "web",
        "vfs",
        tree.old_image("vfs", 1),
        **of_1_5(Volumes={"/v": f"/var/lib/docker/vfs/dir/{volume}"}, VolumesRW={"/v": True}),
    )
    (mount,) = tree.described()[container].mounts
    assert (mount.type, mount.name) == ("volume", volume)
    assert mount.source == encode(f"{tree.data}/vfs/dir/{volume}")
