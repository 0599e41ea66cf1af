# SPDX-License-Identifier: Apache-2.0
"""
What is read of a data root is what Docker itself said of the container, and what the kernel showed.

The data roots are recorded ones, put elsewhere; the directories of layers are made anew, empty.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from mountcr.engines import Place, Roots
from mountcr.engines.docker import Docker, Usual, images
from mountcr.engines.imagelayers import chain_ids, identify, pile
from mountcr.mountinfo import parse_table
from mountcr.overlayopts import parse_options
from mountcr.paths import KPath, encode, is_beneath, rebase

if TYPE_CHECKING:
    from mountcr.model import Container, Mount

RECORDED: Final = Path(__file__).parents[2] / "fixtures" / "engines" / "docker"
CAPTURES: Final = sorted(path.name for path in RECORDED.iterdir())
UNIONS: Final = ("overlay", "overlay2", "fuse-overlayfs")
PLAIN: Final = {"vfs": "dir", "btrfs": "subvolumes"}


class Capture:
    """A recorded data root, in a directory of its own."""

    def __init__(self, name: str, directory: Path) -> None:
        self.source = RECORDED / name
        self.data = directory / "data root"
        shutil.copytree(self.source / "data", self.data)
        driver, layers = self.inspect["Driver"], self._layers()
        for link in sorted((self.data / driver / "l").glob("*")):
            target = link.read_text()
            link.unlink()
            link.symlink_to(target)
        if driver == "overlay":
            self._make_overlay(self.inspect["GraphDriver"]["Data"])
        elif driver in PLAIN:
            for layer in layers:
                (self.data / driver / PLAIN[driver] / layer).mkdir(parents=True)
        elif driver in UNIONS:
            for layer in layers:
                (self.data / driver / layer / "diff").mkdir()
        else:
            (self.data / "rootfs" / driver).mkdir(parents=True)

    @cached_property
    def inspect(self) -> dict[str, Any]:
        """What `docker inspect` said."""
        (found,) = json.loads((self.source / "inspect.json").read_bytes())
        return dict(found)

    @cached_property
    def diff_ids(self) -> list[str]:
        """What `docker image inspect` said of the layers of the image, the lowest first."""
        return list(json.loads((self.source / "rootfs.json").read_bytes())["Layers"])

    @cached_property
    def root(self) -> Mount:
        """The mount of the root file system, as the container saw it."""
        mounts = parse_table((self.source / "mountinfo").read_bytes())
        return next(each for each in mounts if each.mountpoint == "/")

    @cached_property
    def container(self) -> Container:
        """What the engine says, which is the only container of the data root."""
        roots = Roots(places=(Place(data=encode(str(self.data))),))
        engine = Docker(Usual(containerd=encode(str(self.data / "none"))))
        (found,) = engine.containers(roots)
        return engine.describe(found, roots)

    def here(self, path: str) -> KPath:
        """Give where something recorded is now."""
        place = self.inspect["HostnamePath"].partition("/containers/")[0]
        found = encode(path)
        return rebase(found, place, encode(str(self.data))) if is_beneath(found, place) else found

    def real(self, path: str) -> KPath:
        """Give the directory that a layer of mountinfo is, by its link."""
        where = self.here(path)
        if "/l/" not in path:
            return where
        return encode(os.path.realpath(f"{self.data}{where.removeprefix(encode(str(self.data)))}"))

    def _layers(self) -> list[str]:
        """Give all layers by the database, as the names of their directories."""
        found = [*self.data.glob("image/*/layerdb/sha256/*/cache-id")]
        found += self.data.glob("image/*/layerdb/mounts/*/*-id")
        return [each.read_text() for each in found]

    def _make_overlay(self, said: dict[str, str]) -> None:
        """Make what the capture has no copy of: `lower-id`, by what `docker inspect` said."""
        upper = Path(self.here(said["UpperDir"]).replace(r"\040", " "))
        lower = Path(self.here(said["LowerDir"]).replace(r"\040", " "))
        for each in (upper, lower):
            each.mkdir(parents=True)
        (upper.parent / "lower-id").write_text(lower.parent.name)


def of_driver(*drivers: str) -> list[str]:
    """Give the captures with one of some graph drivers, which they are called after."""
    return [name for name in CAPTURES if name.partition("-")[2] in drivers]


@pytest.fixture(params=CAPTURES)
def capture(request: pytest.FixtureRequest, tmp_path: Path) -> Capture:
    """Each of the captures."""
    return Capture(request.param, tmp_path)


def test_nothing_is_damaged(capture: Capture) -> None:
    """A data root that Docker wrote has no damage."""
    assert capture.container.damages == ()


def test_the_container_is_who_docker_says(capture: Capture) -> None:
    """Id, name, driver, image, status and labels are those of `docker inspect`."""
    found, said = capture.container, capture.inspect
    assert found.id == said["Id"]
    assert f"/{found.name}" == said["Name"]
    assert found.storage == said["Driver"]
    assert found.image == said["Config"]["Image"]
    assert found.recorded == said["State"]["Status"]
    assert found.labels == said["Config"]["Labels"]
    assert found.namespace_paths["net"] == said["NetworkSettings"]["SandboxKey"]


def test_a_process_of_another_boot_is_none(capture: Capture) -> None:
    """The pid that was recorded is not running here, whatever the record says."""
    assert capture.inspect["State"]["Pid"]
    assert (capture.container.pid, capture.container.status) == (0, "stopped")
    told = [each for each in capture.container.provenance if each.startswith("pid: ")]
    assert len(told) == 1
    assert "config.v2.json: State.Pid" in told[0]


def test_the_mounts_are_those_of_docker(capture: Capture) -> None:
    """Volumes and binds are those of `docker inspect`, and tmpfs those of its HostConfig."""
    found = [each for each in capture.container.mounts if each.type != "tmpfs"]
    assert [
        (each.destination, each.source, each.type, not each.readonly, each.propagation)
        for each in found
    ] == [
        (each["Destination"], each["Source"], each["Type"], each["RW"], each["Propagation"])
        for each in capture.inspect["Mounts"]
    ]
    tmpfs = {each.destination for each in capture.container.mounts if each.type == "tmpfs"}
    assert tmpfs == set(capture.inspect["HostConfig"]["Tmpfs"] or ())


def test_the_files_are_where_the_root_is_now(capture: Capture) -> None:
    """The engine's files are those of `docker inspect`, below the data root as it is."""
    said = capture.inspect
    assert capture.container.files == {
        "hostname": capture.here(said["HostnamePath"]),
        "hosts": capture.here(said["HostsPath"]),
        "resolv.conf": capture.here(said["ResolvConfPath"]),
    }
    data = encode(str(capture.data))
    assert all(is_beneath(each, data) for each in capture.container.files.values())
    assert any(each.startswith("the data root was ") for each in capture.container.provenance)


def test_a_private_shm_is_not_on_the_host(capture: Capture) -> None:
    """A container whose IPC mode is private has /dev/shm in its own namespace only."""
    assert capture.inspect["HostConfig"]["IpcMode"] == "private"
    assert capture.container.shm is None
    assert not [each for each in capture.container.torn_down if each.type == "tmpfs"]


@pytest.mark.parametrize("capture", of_driver(*UNIONS), indirect=True)
def test_the_layers_are_those_of_docker(capture: Capture) -> None:
    """Where `docker inspect` tells the layers, they are those that were read."""
    said = capture.inspect["GraphDriver"]["Data"]
    stack = capture.container.stack
    assert stack
    assert stack.lowers == tuple(capture.here(each) for each in said["LowerDir"].split(":"))
    assert stack.upper == capture.here(said["UpperDir"])
    assert stack.work == capture.here(said["WorkDir"])
    assert capture.container.rootfs == capture.here(said["MergedDir"])
    assert [each.path for each in capture.container.torn_down] == [capture.container.rootfs]


@pytest.mark.parametrize("capture", of_driver("overlay", "overlay2"), indirect=True)
def test_the_layers_are_those_of_the_kernel(capture: Capture) -> None:
    """The layers of an overlay in mountinfo are those that were read, their links resolved."""
    shown = parse_options(capture.root.super_options)
    stack = capture.container.stack
    assert stack
    assert stack.driver == "overlay"
    assert stack.lowers == tuple(map(capture.real, shown.lowers))
    assert shown.upper
    assert shown.work
    assert (stack.upper, stack.work) == (capture.here(shown.upper), capture.here(shown.work))


@pytest.mark.parametrize("capture", of_driver(*PLAIN), indirect=True)
def test_a_plain_directory_is_that_of_the_kernel(capture: Capture) -> None:
    """With vfs and btrfs the root of the mount is the directory that was read."""
    driver = capture.inspect["Driver"]
    stack = capture.container.stack
    assert stack
    assert (stack.driver, stack.lowers) == ("vfs", ())
    assert stack.upper == capture.container.rootfs
    assert stack.upper
    assert capture.root.root.endswith(stack.upper.rpartition(f"/{driver}/")[2])


@pytest.mark.parametrize("capture", ["docker-fuse-overlayfs"], indirect=True)
def test_fuse_overlayfs_keeps_its_name(capture: Capture) -> None:
    """A union that a program makes, which mountinfo has no layers of, is one of this program."""
    assert capture.root.fstype == "fuse.fuse-overlayfs"
    assert capture.container.stack
    assert capture.container.stack.driver == "fuse-overlayfs"


@pytest.mark.parametrize("capture", ["docker26-ctdsnap-overlayfs"], indirect=True)
def test_snapshots_are_told_by_containerd(capture: Capture) -> None:
    """A container of the containerd image store has its root file system below `rootfs`."""
    found = capture.container
    assert found.namespace == "moby"
    assert found.rootfs == f"{encode(str(capture.data))}/rootfs/overlayfs/{found.id}"


@pytest.mark.parametrize("capture", of_driver(*UNIONS, *PLAIN), indirect=True)
def test_the_image_layers_are_those_of_docker(capture: Capture) -> None:
    """Each layer that `docker image inspect` named has its directory, with its chain id."""
    driver, usual = capture.inspect["Driver"], Usual(containerd=encode(str(capture.data / "none")))
    if driver == "overlay":
        for each in capture.data.glob("image/overlay/layerdb/sha256/*/cache-id"):
            (capture.data / driver / each.read_text() / "root").mkdir(parents=True, exist_ok=True)
    roots = Roots(places=(Place(data=encode(str(capture.data))),))
    (found,) = images.found(roots, "docker", usual)
    assert not found.damages
    by_chain = {each.chain_id: each for each in found.layers}
    layers = [by_chain[each] for each in chain_ids(capture.diff_ids)]
    assert [each.diff_id for each in layers] == capture.diff_ids
    assert {each.flat for each in layers} == {driver in {"overlay", *PLAIN}}
    assert images.base(capture.container, roots, usual) == layers[-1].chain_id
    assert pile(layers[-1], found.layers) == tuple(layers)
    assert capture.container.stack
    lowers = identify(capture.container.stack.lowers, found.layers)
    if driver in PLAIN:
        assert lowers == ()
    elif driver == "overlay":
        assert lowers == (layers[-1],)
    else:
        assert lowers == (None, *reversed(layers))  # the first is that of the engine's files
