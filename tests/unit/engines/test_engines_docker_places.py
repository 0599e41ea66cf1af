# SPDX-License-Identifier: Apache-2.0
"""Data roots of Docker are found where they are, whatever was recorded of where they were."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mountcr.engines import Place, Roots
from mountcr.engines.docker import Docker, Usual
from mountcr.paths import encode
from unit.engines.dockertrees import Tree, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An empty data root."""
    return Tree(tmp_path)


def test_a_root_that_was_moved_is_taken_as_it_is(tmp_path: Path) -> None:
    """What was recorded below the data root is below it still; what was outside stays there."""
    tree = Tree(tmp_path, recorded="/var/lib/docker")
    points = {
        "/v": {"Source": "/var/lib/docker/volumes/v/_data", "Name": "v", "Type": "volume"},
        "/b": {"Source": "/var/lib/dockers", "Type": "bind"},
    }
    image = tree.image("overlay2", 2)
    container = tree.container("web", image=image, MountPoints=points)
    found = tree.described()[container]
    assert not found.damages
    assert found.files["hosts"] == f"{tree.directory(container)}/hosts"
    assert [each.source for each in found.mounts] == [
        "/var/lib/dockers",
        f"{tree.data}/volumes/v/_data",
    ]
    assert found.stack
    assert all(each.startswith(str(tree.data)) for each in found.stack.directories)
    file = f"{tree.directory(container)}/config.v2.json"
    moved = f"the data root was /var/lib/docker, and is {tree.data}: {file}: HostnamePath"
    assert moved in found.provenance


def test_a_root_that_is_where_it_was_is_not_told(tree: Tree) -> None:
    """Nothing is said about a data root that is where the record has it."""
    container = tree.container("web")
    assert not any("data root" in each for each in tree.described()[container].provenance)


def test_a_root_that_is_a_link_is_known_by_its_directory(tree: Tree, tmp_path: Path) -> None:
    """A data root that is reached by a link is spelled as the daemon spells it: resolved."""
    container = tree.container("web", image=tree.image("overlay2", 2))
    (tmp_path / "link").symlink_to(tree.data)
    roots = Roots(places=(Place(data=encode(str(tmp_path / "link"))),))
    found = tree.described(roots)[container]
    assert found.state_root == encode(str(tree.data))
    assert not found.damages


def test_remapped_users_have_a_root_of_their_own(tmp_path: Path) -> None:
    """With userns-remap the containers are in `<uid>.<gid>` of the data root."""
    outer = Tree(tmp_path)
    inner = Tree(tmp_path / "inner")
    container = inner.container("web", image=inner.image("overlay2", 3))
    plain = outer.container("plain")
    inner.data.rename(outer.data / "100000.100000")
    (outer.data / "1000.x").mkdir()
    found = outer.described()
    assert set(found) == {container, plain}
    data = encode(f"{outer.data}/100000.100000")
    assert found[container].state_root == data
    stack = found[container].stack
    assert stack
    assert all(each.startswith(data) for each in stack.directories)


def test_another_layout_is_none_of_dockers(tmp_path: Path) -> None:
    """A directory that a user named for another engine is left alone."""
    (tmp_path / "overlay-containers").mkdir()
    (tmp_path / "overlay").mkdir()
    roots = Roots(places=(Place(data=encode(str(tmp_path))),))
    assert list(Docker().containers(roots)) == []
    (tmp_path / "containers").mkdir()
    (tmp_path / "overlay").rmdir()
    assert list(Docker().containers(roots)) == []


@pytest.mark.parametrize("key", ["data-root", "graph"])
def test_the_daemons_configuration_names_the_roots(tree: Tree, tmp_path: Path, key: str) -> None:
    """daemon.json says where the data root is, by its name of today or of before 17.05."""
    container = tree.container("web")
    write(tmp_path / "etc/daemon.json", f'{{"{key}": "{tree.data}", "exec-root": "{tree.run}"}}')
    usual = Usual(
        configuration=encode(f"{tmp_path}/etc/daemon.json"), data=encode(f"{tmp_path}/none")
    )
    found = [each.id for each in Docker(usual).containers(Roots(usual=True))]
    assert found == [container]
    assert list(Docker(usual).containers(Roots())) == []
    elsewhere = Roots(usual=True, places=(Place(data=encode(str(tmp_path))),))
    assert list(Docker(usual).containers(elsewhere)) == []


def test_a_damaged_configuration_of_the_daemon_is_a_damage(tree: Tree, tmp_path: Path) -> None:
    """The usual places are looked into all the same, and their containers tell."""
    tree.container("web")
    write(tmp_path / "daemon.json", '{"data-root": ')
    usual = Usual(configuration=encode(f"{tmp_path}/daemon.json"), data=encode(str(tree.data)))
    (found,) = Docker(usual).containers(Roots(usual=True))
    (damage,) = found.damages
    assert damage.file == f"{tmp_path}/daemon.json"


def test_a_user_has_a_root_at_home(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a user who is not root, data and exec root are those of the XDG directories."""
    container = tree.container("web")
    (tmp_path / "home/.local/share").mkdir(parents=True)
    (tmp_path / "home/.local/share/docker").symlink_to(tree.data)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    nowhere = encode(f"{tmp_path}/none")
    usual = Usual(configuration=nowhere, data=nowhere)
    for environ in (
        {"HOME": f"{tmp_path}/home"},
        {"HOME": "/", "XDG_DATA_HOME": f"{tmp_path}/home/.local/share"},
    ):
        roots = Roots(usual=True, environ=environ)
        assert [each.id for each in Docker(usual).containers(roots)] == [container]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    roots = Roots(usual=True, environ={"HOME": f"{tmp_path}/home"})
    assert list(Docker(usual).containers(roots)) == []
