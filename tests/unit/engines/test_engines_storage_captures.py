# SPDX-License-Identifier: Apache-2.0
"""What is read of recorded graph roots is what podman and the kernel said of the containers."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mountcr.engines import Place, Roots
from mountcr.engines.imagelayers import chain_ids, identify
from mountcr.engines.storage import Podman, images
from mountcr.mountinfo import parse_table
from mountcr.overlayopts import parse_options
from mountcr.paths import ROOT, encode, name
from unit.engines.conftest import RECORDED
from unit.engines.storagetrees import NOWHERE

if TYPE_CHECKING:
    from mountcr.model import Container, Mount
    from unit.engines.conftest import Host

CAPTURES = sorted(path.name for path in (RECORDED / "podman").iterdir())


class Capture:
    """A recorded graph root at another place, with the directories of its layers."""

    def __init__(self, name: str, base: Path) -> None:
        self.base = base / name
        shutil.copytree(RECORDED / "podman" / name, self.base)
        (self.inspected,) = json.loads((self.base / "inspect.json").read_bytes())
        static = self.inspected["StaticDir"]
        self.was = Path(static).parents[3]
        self.graph = self.base / "root"
        for link in self.graph.glob("overlay/l/*"):
            target = link.read_text()
            link.unlink()
            link.symlink_to(target)
        for file in self.graph.glob("overlay/*/link"):
            for directory in ("diff", "work", "merged"):
                (file.parent / directory).mkdir()
        driver = self.inspected["GraphDriver"]["Name"]
        below = {"vfs": "vfs/dir", "btrfs": "btrfs/subvolumes"}.get(driver)
        for layer in json.loads((self.graph / f"{driver}-layers/layers.json").read_bytes()):
            if below:
                (self.graph / below / layer["id"]).mkdir(parents=True)
        database = self.base / "bolt_state.db.gz"
        if database.exists():
            (self.graph / "libpod").mkdir()
            content = gzip.decompress(database.read_bytes())
            (self.graph / "libpod/bolt_state.db").write_bytes(content)

    @property
    def container(self) -> str:
        """The id of the container that ran."""
        return str(self.inspected["Id"])

    def now(self, path: str) -> str:
        """Give where a path is that was recorded."""
        for root in ("root", "run"):
            if path.startswith(f"{self.was}/{root}/"):
                return path.replace(str(self.was), str(self.base), 1)
        return path

    def roots(self, host: Host | None = None, *, configured: bool = False) -> Roots:
        """Name the roots, or let its storage.conf do that."""
        runtime = host.roots.runtime if host else ()
        if not configured:
            place = Place(data=encode(str(self.graph)), run=encode(str(self.base / "run")))
            return Roots(places=(place,), runtime=runtime)
        file = self.base / "moved.conf"
        file.write_text(
            (self.base / "storage.conf").read_text().replace(str(self.was), str(self.base))
        )
        environ = {"CONTAINERS_STORAGE_CONF": str(file)}
        return Roots(usual=True, environ=environ, runtime=runtime)

    def described(self, roots: Roots) -> Container:
        """Describe the container that ran."""
        engine = Podman(NOWHERE)
        found = {each.id: each for each in engine.containers(roots)}
        return engine.describe(found[self.container], roots)

    def layer(self, mounted: str) -> str:
        """Give the layer of a short name; of one capture the links were not recorded."""
        for file in self.graph.glob("overlay/*/link"):
            if file.read_text() == os.path.basename(mounted):
                return f"{file.parent}/diff"
        return mounted

    def mounts(self) -> tuple[Mount, ...]:
        """Give what the kernel said."""
        return parse_table((self.base / "mountinfo").read_bytes())


@pytest.fixture(params=CAPTURES)
def capture(request: pytest.FixtureRequest, tmp_path: Path) -> Capture:
    """Each of the captures."""
    return Capture(request.param, tmp_path)


def test_a_container_is_who_podman_says(capture: Capture, host: Host) -> None:
    """Id, name, image, process, directories and labels are those of `podman inspect`."""
    process = host.process()
    host.runc(capture.container, process, cgroup_paths={})
    found = capture.described(capture.roots(host))
    said = capture.inspected
    assert (found.id, found.name, found.image) == (said["Id"], said["Name"], said["ImageName"])
    assert (found.pid, found.start_time) == (process.pid, process.start_time)
    assert found.status == said["State"]["Status"] == "running"
    assert found.storage == said["GraphDriver"]["Name"]
    assert found.bundle == capture.now(said["StaticDir"])
    assert found.spec == capture.now(said["OCIConfigPath"])
    assert found.cgroup == said["State"]["CgroupPath"]
    assert found.labels == said["Config"]["Labels" if has_database(capture) else "Annotations"]
    assert found.damages == ()


def has_database(capture: Capture) -> bool:
    """Tell whether the database of podman was recorded."""
    return (capture.graph / "libpod").exists()


def test_mounts_are_what_podman_says(capture: Capture) -> None:
    """Binds, volumes and tmpfs are those of `podman inspect`, with what they are from."""
    found = capture.described(capture.roots())
    said = capture.inspected
    kinds = {"overlay": "bind"}  # podman calls an overlay over a directory a bind
    given = {
        mount.destination: (
            kinds.get(mount.type, mount.type),
            mount.source if mount.type != "overlay" else None,
            mount.name,
            mount.readonly,
        )
        for mount in found.mounts
        if mount.type != "tmpfs"
    }
    assert given == {each["Destination"]: as_said(each, capture) for each in said["Mounts"]}
    temporary = [mount.destination for mount in found.mounts if mount.type == "tmpfs"]
    assert temporary == [*said["HostConfig"]["Tmpfs"]]


def as_said(mount: dict[str, Any], capture: Capture) -> tuple[str, str | None, str, bool]:
    """Give a mount of `podman inspect` like one of ours."""
    over = any(option.startswith("lowerdir=") for option in mount["Options"])
    source = None if over else capture.now(mount["Source"])
    return mount["Type"], source, mount.get("Name", ""), not mount["RW"]


def test_files_are_where_podman_says(capture: Capture) -> None:
    """The files that podman made, /dev/shm, and what it tears down."""
    found = capture.described(capture.roots())
    said = capture.inspected
    names = {"hostname": "HostnamePath", "hosts": "HostsPath", "resolv.conf": "ResolvConfPath"}
    expected = {name: capture.now(said[key]) for name, key in names.items() if said[key]}
    run = os.path.dirname(expected["hostname"])
    assert found.files == expected | {".containerenv": f"{run}/.containerenv"}
    assert found.shm == f"{capture.now(said['StaticDir'])}/shm"
    (shm,) = [each for each in found.torn_down if each.type == "tmpfs"]
    size = f",size={said['HostConfig']['ShmSize']}" if has_database(capture) else ""
    assert (shm.path, shm.options) == (found.shm, f"mode=1777{size}")


def test_layers_are_those_of_the_graph_driver(capture: Capture) -> None:
    """The stack is what `podman inspect` says of the graph driver."""
    found = capture.described(capture.roots())
    assert found.stack
    data = capture.inspected["GraphDriver"]["Data"]
    if data is None:
        assert found.stack.driver == "vfs"
        assert found.stack.lowers == ()
        return
    assert found.stack.lowers == tuple(map(capture.now, data["LowerDir"].split(":")))
    assert found.stack.upper == capture.now(data["UpperDir"])
    assert found.stack.work == capture.now(data["WorkDir"])
    assert found.rootfs == capture.now(data["MergedDir"])
    assert any(each.endswith("/lower") for each in found.stack.provenance)


def test_layers_are_those_that_the_kernel_mounted(capture: Capture) -> None:
    """The stack is what the mount table of the container says, where it says it."""
    found = capture.described(capture.roots(configured=True))
    assert found.stack
    root = next(mount for mount in capture.mounts() if mount.mountpoint == "/")
    if root.fstype == "fuse.fuse-overlayfs":
        assert found.stack.driver == "fuse-overlayfs"
        assert any("mount_program" in each for each in found.stack.provenance)
        return
    if root.fstype != "overlay":
        assert found.stack.driver == "vfs"
        assert found.stack.upper == found.rootfs
        assert str(found.stack.upper).endswith(str(root.root).partition("/root/")[2])
        return
    options = parse_options(root.super_options)
    real = [capture.layer(str(layer)) for layer in options.lowers]
    assert found.stack.driver == "overlay"
    assert [*found.stack.lowers] == real
    assert found.stack.upper == capture.now(str(options.upper))
    assert found.stack.work == capture.now(str(options.work))


def test_every_bind_is_in_the_mount_table(capture: Capture) -> None:
    """What podman bound is what the kernel says is mounted there."""
    found = capture.described(capture.roots())
    table = {mount.mountpoint: mount for mount in capture.mounts()}
    for mount in found.mounts:
        assert mount.destination in table
        if mount.type in {"bind", "volume"}:
            assert name(mount.source or ROOT) == name(table[mount.destination].root)
    places = {encode(f"/etc/{name}") for name in found.files if not name.startswith(".")}
    assert places <= {*table}


def test_a_container_that_never_ran(tmp_path: Path) -> None:
    """Before its first start a container has no config.json, and a configuration."""
    capture = Capture("podman-volumes", tmp_path)
    (said,) = json.loads((capture.base / "inspect-idle.json").read_bytes())
    roots = capture.roots()
    engine = Podman(NOWHERE)
    (found,) = [each for each in engine.containers(roots) if each.id == said["Id"]]
    found = engine.describe(found, roots)
    assert (found.name, found.recorded, found.pid) == ("idle", said["State"]["Status"], 0)
    assert (found.spec, found.labels, found.damages) == (None, {}, ())
    assert found.stack
    assert found.stack.upper == capture.now(said["GraphDriver"]["Data"]["UpperDir"])


def test_every_layer_below_that_of_a_container_is_one_of_an_image(capture: Capture) -> None:
    """Each has a DiffID and the chain id of it and those below; the container's own has none."""
    driver = capture.inspected["GraphDriver"]["Name"]
    (listed,) = capture.graph.glob(f"{driver}-layers/layers.json")
    entries = json.loads(listed.read_bytes())
    diff_ids = [each["diff-digest"] for each in entries if "diff-digest" in each]
    (found,) = images.found(capture.roots(), "podman", NOWHERE)
    assert not found.damages
    assert [each.diff_id for each in found.layers] == diff_ids
    assert [each.chain_id for each in found.layers] == [*chain_ids(diff_ids)]
    container = capture.described(capture.roots())
    assert images.base(container, capture.roots(), NOWHERE) == found.layers[-1].chain_id
    stack = container.stack
    assert stack
    if driver == "overlay":
        assert identify(stack.lowers, found.layers) == tuple(reversed(found.layers))
    else:
        assert all(each.flat for each in found.layers)
        assert stack.directories
        assert identify(stack.directories, found.layers) == (None,)
