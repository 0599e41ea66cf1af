# SPDX-License-Identifier: Apache-2.0
"""Containers of LXC are their configurations, and the processes in their control groups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr import mountinfo, overlayopts
from mountcr.container import ContainerMount
from mountcr.engines import Place, Roots, find
from mountcr.engines.lxc import Lxc, Running, Usual
from mountcr.paths import KPath, encode
from mountcr.stack import Stack

if TYPE_CHECKING:
    from mountcr.container import Container

RECORDED = Path(__file__).parents[2] / "fixtures" / "engines" / "lxc"
LOWER = "/srv/lab/lxc-lower"
LXCPATH = "/srv/lab/lxc"


class Machine:
    """An lxcpath, as LXC of root has one."""

    def __init__(self, top: Path) -> None:
        self.lxcpath = top / "lxc"
        self.lower = top / "lower"
        self.lower.mkdir()
        self.usual = Usual(str(top / "lxc.conf"), str(self.lxcpath))
        self.inits: dict[str, list[Running]] = {}

    @property
    def roots(self) -> Roots:
        """Roots that name the lxcpath."""
        return Roots(places=(Place(data=encode(str(self.lxcpath))),))

    def container(self, name: str, text: str) -> Path:
        """Write the configuration of a container."""
        directory = self.lxcpath / name
        directory.mkdir(parents=True)
        (directory / "config").write_text(text)
        return directory

    def moved(self, path: str) -> str:
        """Give a path of the recording in its place here."""
        return path.replace(LOWER, str(self.lower)).replace(LXCPATH, str(self.lxcpath))

    def recorded(self, name: str) -> Path:
        """Put a recorded configuration here, with the directories that LXC had made."""
        path = self.container(name, self.moved((RECORDED / name / "config").read_text()))
        for below in ("web/rootfs", "snap/overlay/delta", "multi/delta0"):
            (self.lxcpath / below).mkdir(parents=True, exist_ok=True)
        return path

    def described(self, name: str, roots: Roots | None = None) -> Container:
        """Describe a container."""
        engine = Lxc(self.usual, self.inits)
        roots = roots or self.roots
        (found,) = [each for each in engine.containers(roots) if each.id == name]
        return engine.describe(found, roots)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with an lxcpath without containers."""
    return Machine(tmp_path)


@pytest.mark.parametrize("name", ["web", "snap", "multi"])
def test_what_a_real_one_recorded_is_what_was_mounted(machine: Machine, name: str) -> None:
    """Layers and mounts of a configuration are those of the mount table of its container."""
    machine.recorded(name)
    found = machine.described(name)
    root, *others = mountinfo.parse_table((RECORDED / name / "mountinfo").read_bytes())
    file = f"{machine.lxcpath}/{name}/config"
    assert found.damages == ()
    assert found.stack
    if name == "web":
        upper = encode(machine.moved(root.root))
        assert found.stack == Stack(
            driver="vfs", upper=upper, provenance=(f"layers: {file}: lxc.rootfs.path",)
        )
        assert (found.storage, found.rootfs) == ("dir", upper)
    else:
        shown = overlayopts.parse_options(root.super_options)
        assert found.storage == "overlay"
        assert found.stack.driver == "overlay"
        assert found.stack.lowers == tuple(encode(machine.moved(each)) for each in shown.lowers)
        assert found.stack.upper == encode(machine.moved(str(shown.upper)))
        assert found.stack.work == encode(machine.moved(str(shown.work)))
        assert found.rootfs is None
    (bound,) = [each for each in others if each.mountpoint == "/data"]
    assert found.mounts == (
        ContainerMount(
            destination=bound.mountpoint,
            type="bind",
            source=encode(machine.moved(bound.root)),
            readonly=True,
        ),
    )
    assert found.labels == {"lxc.uts.name": "webhost" if name == "web" else name}
    assert (found.name, found.state_root) == (name, encode(str(machine.lxcpath)))
    include = "lxc.include = /usr/share/lxc/config/common.conf"
    assert f"included, not read: {file}: {include}" in found.provenance


def test_a_container_runs_if_its_control_group_has_an_init(machine: Machine) -> None:
    """The init is the one whose monitor names this lxcpath, or names none."""
    machine.recorded("web")
    assert (machine.described("web").pid, machine.described("web").status) == (0, "stopped")
    machine.inits["web"] = [Running(7, 70, "/lxc.payload.web", "/other")]
    assert machine.described("web").pid == 0
    mine = Running(8, 80, "/lxc.payload.web-1", str(machine.lxcpath))
    machine.inits["web"].append(mine)
    found = machine.described("web")
    assert (found.pid, found.start_time, found.status) == (8, 80, "running")
    assert found.cgroup == "/lxc.payload.web-1"
    assert "pid: /proc/8/cgroup: /lxc.payload.web-1" in found.provenance
    machine.inits["web"] = [mine._replace(lxcpath="")]
    assert machine.described("web").pid == 8


def test_processes_of_this_machine_are_looked_at(machine: Machine) -> None:
    """A container of which no process is there does not run."""
    machine.recorded("web")
    (found,) = Lxc(machine.usual).containers(machine.roots)
    assert found.pid == 0
    assert find("lxc:we", roots=machine.roots).id == "web"
    assert Lxc(machine.usual).lookup("web", machine.roots) is None


def test_older_keys_and_cleared_ones_are_read(machine: Machine) -> None:
    """Keys before LXC 2.1 mean the same; one without value drops what stood before it."""
    (machine.lower / "fstab").write_text(f"{machine.lower} mnt none rbind,rshared 0 0\n# no\n")
    machine.container(
        "old",
        f"lxc.rootfs = {machine.lower}\nlxc.utsname=box\nlxc.mount = {machine.lower}/fstab\n"
        "lxc.mount.entry = a b none bind 0 0\nlxc.mount.entry =\n"
        "lxc.mount.entry = tmpfs my\\040dir tmpfs rw,nosuid 0 0\nlxc.mount.entry = short\n",
    )
    found = machine.described("old")
    assert found.stack
    assert (found.storage, found.stack.upper) == ("dir", str(machine.lower))
    assert found.labels == {"lxc.uts.name": "box"}
    assert found.mounts == (
        ContainerMount(destination=KPath("/my\\040dir"), type="tmpfs"),
        ContainerMount(
            destination=KPath("/mnt"),
            type="bind",
            source=encode(str(machine.lower)),
            propagation="rshared",
        ),
    )


@pytest.mark.parametrize(
    ("path", "storage", "what"),
    [
        ("zfs:pool/web", "zfs", "mountcr reads directories and overlays of LXC, no backend zfs"),
        ("loop:/web.img", "loop", "mountcr reads directories and overlays of LXC, no backend loop"),
        ("overlay:/only", "overlay", "/only is not LOWER:UPPER"),
        ("overlay:a:/b", "overlay", "a:/b is not LOWER:UPPER"),
        ("/nowhere", "dir", "is no directory"),
        ("overlayfs:/nowhere:/gone", "overlayfs", "is no directory"),
    ],
)
def test_what_is_no_stack_is_said(machine: Machine, path: str, storage: str, what: str) -> None:
    """A backend that is no directory, or a directory that is not there, is named; all else told."""
    text = f"lxc.rootfs.path = {path}\nlxc.uts.name = web\nlxc.rootfs.mount = /mnt/web\n"
    machine.container("web", text)
    found = machine.described("web")
    assert (found.stack, found.storage) == (None, storage)
    assert what in str(found.damages[0])
    assert f"{machine.lxcpath}/web/config: lxc.rootfs.path" in str(found.damages[0])
    assert found.labels == {"lxc.uts.name": "web"}
    assert found.rootfs == "/mnt/web"


def test_a_container_may_have_no_root_of_its_own(machine: Machine) -> None:
    """Without `lxc.rootfs.path` the root is that of the host, which is no damage."""
    machine.container("web", "lxc.uts.name = web\n")
    found = machine.described("web")
    assert (found.stack, found.storage, found.damages) == (None, "", ())
    assert any(each.startswith("root: the host's") for each in found.provenance)


def test_a_damaged_configuration_is_listed(machine: Machine, tmp_path: Path) -> None:
    """A configuration that leads out of the lxcpath is not read, and one of bytes is nothing."""
    machine.recorded("web")
    (tmp_path / "secret").write_text("lxc.uts.name = secret\n")
    (machine.lxcpath / "link").mkdir()
    (machine.lxcpath / "link" / "config").symlink_to(tmp_path / "secret")
    machine.container("bytes", "")
    (machine.lxcpath / "bytes" / "config").write_bytes(bytes(range(256)) * 10)
    assert "leads out of the root" in str(machine.described("link").damages[0])
    assert machine.described("link").labels == {}
    assert machine.described("bytes").stack is None
    assert machine.described("web").damages == ()
    machine.container("fstab", "lxc.mount.fstab = /nowhere/fstab\n")
    assert str(machine.described("fstab").damages[0]) == "/nowhere/fstab: is missing"


def test_the_lxcpath_is_configured(machine: Machine, tmp_path: Path) -> None:
    """lxc.conf names the lxcpath; the one of the user is in his home; a place is all there is."""
    machine.recorded("web")
    home = tmp_path / "home"
    users = home / ".local/share/lxc/mine"
    users.mkdir(parents=True)
    (users / "config").write_text("lxc.uts.name = mine\n")
    other = tmp_path / "other" / "there"
    other.mkdir(parents=True)
    (other / "config").write_text("lxc.uts.name = there\n")

    def names(roots: Roots) -> list[str]:
        return [each.id for each in Lxc(machine.usual).containers(roots)]

    everywhere = Roots(usual=True, environ={"HOME": str(home)})
    assert names(everywhere) == ["web", "mine"]
    Path(machine.usual.configuration).write_text(f"lxc.lxcpath = {other.parent}\n")
    assert names(everywhere) == ["there", "web", "mine"]
    settings = home / ".config/lxc/lxc.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"lxc.lxcpath = {other.parent}/\n")
    assert names(everywhere) == ["there", "web"]
    assert names(Roots(usual=True)) == ["there", "web"]
    assert names(Roots()) == []
    assert names(Roots(places=(Place(data=encode(str(tmp_path))),))) == []
