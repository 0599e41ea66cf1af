# SPDX-License-Identifier: Apache-2.0
"""
Damaged state of an engine: `mountcr ls` names file and field, and lists all the others.

Each engine has a sound container beside the damaged one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from containerds import Daemon
from mountcr.cli import main
from unit.engines.dockertrees import Tree as Docker
from unit.engines.storagetrees import Tree as Storage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Said(NamedTuple):
    """What `mountcr ls` printed: the containers by name, and standard error."""

    rows: dict[str, dict[str, Any]]
    complaints: str


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Give a function that lists what is below some roots."""

    def run(*roots: object) -> Said:
        words = [word for root in roots for word in ("--root", str(root))]
        assert main(["ls", "--json", *words]) == 0
        printed = capsys.readouterr()
        rows = json.loads(printed.out)["containers"]
        return Said({each["name"] or each["id"]: each for each in rows}, printed.err)

    return run


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    """A data root of Docker with two containers on an image of three layers."""
    tree = Docker(tmp_path)
    image = tree.image("overlay2", 3)
    tree.container("sound", image=image)
    tree.container("bad", image=image)
    return tree


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A graph root of podman with two containers, each on layers of its own."""
    tree = Storage(tmp_path / "storage")
    for name in ("sound", "bad"):
        tree.podman(name)
        tree.container(name, tree.chain(f"{name} base", f"{name} own"))
    tree.sqlite()
    return tree


def _is_sound(said: Said) -> None:
    assert said.rows["sound"]["damages"] == []
    assert said.rows["sound"]["layers"] > 0


def _bad_config(tree: Docker) -> Path:
    (found,) = (
        each
        for each in tree.data.glob("containers/*/config.v2.json")
        if '"/bad"' in each.read_text()
    )
    return found


def test_truncated_json(docker: Docker, listed: Callable[..., Said]) -> None:
    """A record that ends early is named, with the byte where it does."""
    file = _bad_config(docker)
    file.write_text(file.read_text()[:100])
    said = listed(docker.data)
    _is_sound(said)
    assert f"{file}: no JSON" in said.complaints
    assert file.parent.name in said.rows


def test_a_missing_layer(docker: Docker, listed: Callable[..., Said]) -> None:
    """It is named by its directory; which layers there were is known all the same."""
    config = _bad_config(docker)
    mount = docker.data / "image/overlay2/layerdb/mounts" / config.parent.name / "mount-id"
    own = docker.data / "overlay2" / mount.read_text()
    (own / "diff").rename(own / "gone")
    said = listed(docker.data)
    _is_sound(said)
    assert said.rows["bad"]["layers"] == said.rows["sound"]["layers"]
    assert f"{own}/diff is missing" in said.complaints


def test_a_dangling_link(storage: Storage, listed: Callable[..., Said]) -> None:
    """A short name that leads nowhere, and that no layer has in its file `link`."""
    layers = {each.parent.name: each for each in storage.home.glob("*/lower")}
    lower = next(f for f in layers.values() if _is_of(storage, f.parent.name, "bad"))
    name = lower.read_text().split(":")[0]
    link = storage.home / name
    target = link.resolve().parent
    link.unlink()
    link.symlink_to("../nowhere/diff")
    (target / "link").write_text("ANOTHERNAME")
    said = listed(storage.graph)
    _is_sound(said)
    assert f"podman:bad: {storage.home}/{name}: leads to ../nowhere/diff" in said.complaints
    assert said.rows["bad"]["layers"] == -1


def _is_of(storage: Storage, layer: str, name: str) -> bool:
    entries = json.loads(storage.list_of("containers").read_text())
    return any(each["layer"] == layer and name in each["names"] for each in entries)


def test_a_pid_that_is_none(docker: Docker, listed: Callable[..., Said]) -> None:
    """The field is named."""
    file = _bad_config(docker)
    config = json.loads(file.read_text())
    config["State"]["Pid"] = "many"
    file.write_text(json.dumps(config))
    said = listed(docker.data)
    _is_sound(said)
    assert f"{file}: State.Pid" in said.complaints


def test_a_link_out_of_the_root(
    docker: Docker, tmp_path: Path, listed: Callable[..., Said]
) -> None:
    """A record that lies elsewhere is not read."""
    file = _bad_config(docker)
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    said = listed(docker.data)
    _is_sound(said)
    assert f"{file}: a symbolic link leads out of the root, to {elsewhere}" in said.complaints


def test_a_bolt_file_of_zeros(tmp_path: Path, docker: Docker, listed: Callable[..., Said]) -> None:
    """The database of containerd is named, and other engines answer all the same."""
    daemon = Daemon(tmp_path)
    daemon.write()
    daemon.meta.write_bytes(bytes(65536))
    said = listed(daemon.root, docker.data)
    _is_sound(said)
    assert f"containerd: {daemon.meta}" in said.complaints


def test_a_database_that_is_none(storage: Storage, listed: Callable[..., Said]) -> None:
    """Without podman's database, the lists of the storage still tell what there is."""
    database = storage.graph / "db.sql"
    database.write_bytes(b"no database" * 100)
    said = listed(storage.graph)
    assert str(database) in said.complaints
    assert said.rows["sound"]["layers"] > 0
    assert set(said.rows) == {"sound", "bad"}
