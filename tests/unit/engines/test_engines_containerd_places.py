# SPDX-License-Identifier: Apache-2.0
"""containerd is found where its configuration, or the user, says that it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mountcr.engines import Place, Roots
from mountcr.engines.containerd.places import METADATA, Usual, instances
from mountcr.paths import encode

if TYPE_CHECKING:
    from pathlib import Path

    from mountcr.engines.containerd.places import Instance

EVERYWHERE = Roots(usual=True)


class Machine:
    """A made-up machine: a configuration, and the usual directories of containerd and Docker."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.configuration = top / "etc" / "config.toml"
        self.configuration.parent.mkdir()
        self.usual = Usual(
            (str(self.configuration),),
            ((f"{top}/lib", f"{top}/run"), (f"{top}/docker/daemon", f"{top}/run/docker")),
            f"{top}/run/runc",
        )

    def root(self, name: str) -> str:
        """Make a root of containerd."""
        (self.top / name / METADATA).mkdir(parents=True)
        return f"{self.top}/{name}"

    def found(self, roots: Roots = EVERYWHERE) -> list[Instance]:
        """Give what is found."""
        return instances(roots, self.usual)

    def pairs(self, roots: Roots = EVERYWHERE) -> list[tuple[str, str]]:
        """Give root and state of what is found."""
        return [(each.root, each.state) for each in self.found(roots)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine without any containerd."""
    return Machine(tmp_path)


def test_the_usual_places_are_those_that_are_there(machine: Machine) -> None:
    """A root that is missing, or holds something else, is none."""
    assert machine.pairs() == []
    (machine.top / "lib").mkdir()
    docker = machine.root("docker/daemon")
    assert machine.pairs() == [(docker, f"{machine.top}/run/docker")]
    lib = machine.root("lib")
    assert machine.pairs() == [
        (lib, f"{machine.top}/run"),
        (docker, f"{machine.top}/run/docker"),
    ]
    assert machine.pairs(Roots()) == []


@pytest.mark.parametrize("version", ["", "version = 1\n", "version = 2\n", "version = 3\n"])
def test_the_configuration_names_root_and_state(machine: Machine, version: str) -> None:
    """`root` and `state` are the same in every version; a missing one is the usual one."""
    root = machine.root("elsewhere")
    machine.configuration.write_text(f'{version}root = "{root}"\nstate = "/run/x"\n')
    assert machine.pairs() == [(root, "/run/x")]
    machine.configuration.write_text(f'{version}root = "{root}"\n')
    assert machine.pairs() == [(root, f"{machine.top}/run")]


def test_imports_override(machine: Machine) -> None:
    """Files that a configuration imports count more, and one that imports itself ends."""
    root = machine.root("elsewhere")
    machine.configuration.write_text('root = "/nowhere"\nimports = ["conf.d/*.toml", 7]\n')
    more = machine.configuration.parent / "conf.d"
    more.mkdir()
    (more / "a.toml").write_text(f'root = "{root}"\nimports = ["{machine.configuration}"]\n')
    assert machine.pairs() == [(root, f"{machine.top}/run")]


@pytest.mark.parametrize(
    "text",
    [b"root = ", b"\xff\xfe", b"[" * 5000, b"root = 7\nplugins = 7\nimports = 7", b"\0" * 100],
)
def test_a_damaged_configuration_names_nothing(machine: Machine, text: bytes) -> None:
    """What is no TOML, or of another kind, is as if it were not there."""
    machine.configuration.write_bytes(text)
    root = machine.root("lib")
    assert machine.pairs() == [(root, f"{machine.top}/run")]


def test_a_snapshotter_may_have_a_root_of_its_own(machine: Machine) -> None:
    """`root_path` of a plug-in counts, by its long name or, in version 1, by its short one."""
    root = machine.root("lib")
    machine.configuration.write_text(
        '[plugins."io.containerd.snapshotter.v1.overlayfs"]\nroot_path = "/fast"\n'
        '[plugins.native]\nroot_path = "/slow"\n[plugins]\nx = 1\n'
    )
    (found,) = machine.found()
    assert [found.snapshotter(name) for name in ("overlayfs", "native", "btrfs")] == [
        "/fast",
        "/slow",
        f"{root}/io.containerd.snapshotter.v1.btrfs",
    ]


def test_what_the_user_names_is_all_that_counts(machine: Machine) -> None:
    """A place that was named is taken if it is one of containerd's, and no other is."""
    machine.root("lib")
    mine = machine.root("mine")
    places = tuple(Place(data=encode(path)) for path in (mine, f"{machine.top}/etc"))
    named = Roots(places=places, usual=True)
    assert machine.pairs(named) == [(mine, f"{machine.top}/run")]
    with_run = Roots(places=(Place(data=encode(mine), run=encode("/run/mine")),), usual=True)
    assert machine.pairs(with_run) == [(mine, "/run/mine")]


def test_the_state_of_a_place_is_looked_up(machine: Machine) -> None:
    """A place without a state has the configured one, else the usual one of that root."""
    mine, docker = machine.root("mine"), machine.root("docker/daemon")
    machine.configuration.write_text(f'root = "{mine}"\nstate = "/run/mine"\n')
    link = machine.top / "link"
    link.symlink_to(mine)
    named = Roots(places=tuple(Place(data=encode(str(path))) for path in (link, docker)))
    assert machine.pairs(named) == [
        (str(link), "/run/mine"),
        (docker, f"{machine.top}/run/docker"),
    ]


def test_a_user_who_is_not_root_has_directories_of_his_own(machine: Machine) -> None:
    """RootlessKit puts the usual ones below those that the environment names."""
    data = machine.root("home/.local/share/containerd")
    environ = {"HOME": f"{machine.top}/home", "XDG_RUNTIME_DIR": "/run/user/7"}
    found = [(data, "/run/user/7/containerd")]
    assert machine.pairs(Roots(usual=True, environ=environ)) == found
    other = machine.root("data/containerd")
    environ["XDG_DATA_HOME"] = f"{machine.top}/data"
    assert machine.pairs(Roots(usual=True, environ=environ)) == [(other, found[0][1])]
    assert machine.pairs(Roots(usual=True, environ={"HOME": environ["HOME"]})) == []
