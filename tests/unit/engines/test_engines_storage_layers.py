# SPDX-License-Identifier: Apache-2.0
"""The layers of containers/storage: in order, from two records that must agree, or a damage."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import msgspec
import pytest

from mountcr.engines import Roots
from mountcr.engines.storage import Podman
from mountcr.engines.storage.configuration import Files
from unit.engines.storagetrees import NOWHERE, Tree, identity, short

if TYPE_CHECKING:
    from pathlib import Path

    from mountcr.model import Container


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A graph root of the driver overlay."""
    return Tree(tmp_path)


def configured(tree: Tree, text: str) -> Container:
    """Describe the only container as a storage.conf with more in it says."""
    (tree.base / "etc").mkdir(exist_ok=True)
    (tree.base / "etc/storage.conf").write_text(
        f'[storage]\ngraphroot = "{tree.graph}"\nrunroot = "{tree.run}"\n{text}'
    )
    engine = Podman(Files(share="/nowhere", etc=str(tree.base / "etc")))
    roots = Roots(usual=True)
    (found,) = engine.containers(roots)
    return engine.describe(found, roots)


def damage(found: Container) -> str:
    """Give the only damage, and see that no stack is given beside it."""
    assert found.stack is None
    (only,) = found.damages
    return str(only)


def test_layers_are_top_first(tree: Tree) -> None:
    """The directories of the layers, without the links that lead there."""
    tree.container("web", tree.chain("base", "middle", "top", "web"))
    found = tree.one()
    assert found.stack
    assert found.stack.driver == "overlay"
    expected = [tree.path(identity(word)) for word in ("top", "middle", "base")]
    assert [*found.stack.lowers] == expected
    assert found.stack.upper == tree.path(identity("web"))
    assert found.stack.work == tree.path(identity("web"), "work")
    assert found.rootfs == tree.path(identity("web"), "merged")
    assert found.damages == ()
    layer = f"{tree.home}/{identity('web')}"
    assert [*found.stack.provenance] == [
        f"upper: {tree.list_of('containers')}: layer",
        f"lowers: {layer}/lower",
        f"lowers: {tree.list_of('layers')}: parent",
    ]


def test_ids_are_read_before_short_names(tree: Tree) -> None:
    """`lower-layers` of newer releases counts, and `lower` need not be there."""
    layer = tree.chain("base", "top", "web")
    tree.container("web", layer)
    (tree.home / layer / "lower-layers").write_text(f"{identity('top')}:{identity('base')}")
    (tree.home / layer / "lower").write_text("l/GONE")
    found = tree.one()
    assert found.stack
    assert [*found.stack.lowers] == [tree.path(identity(word)) for word in ("top", "base")]
    assert f"lowers: {tree.home}/{layer}/lower-layers" in found.stack.provenance


def test_ids_that_cannot_be_read_are_not_taken_for_none(tree: Tree) -> None:
    """A `lower-layers` that is a directory, with no `lower`, does not say that nothing is below."""
    layer = tree.layer("web")
    tree.container("web", layer)
    (tree.home / layer / "lower-layers").mkdir()
    assert damage(tree.one()).startswith(f"{tree.home}/{layer}/lower-layers: ")


def test_a_lost_link_is_read_from_the_layer(tree: Tree) -> None:
    """A link below `l` that is gone, or leads nowhere, is made up for by the file `link`."""
    tree.container("web", tree.chain("base", "top", "web"))
    (tree.home / "l" / short(identity("base"))).unlink()
    (tree.home / "l" / short(identity("top"))).unlink()
    (tree.home / "l" / short(identity("top"))).symlink_to("../gone/diff")
    found = tree.one()
    assert found.stack
    assert [*found.stack.lowers] == [tree.path(identity(word)) for word in ("top", "base")]


def test_a_file_of_a_name_that_is_none_is_passed_over(tree: Tree) -> None:
    """A directory in the place of the file `link` of one layer hides no name of another."""
    stray = tree.layer("stray")
    tree.container("web", tree.chain("base", "web"))
    (tree.home / stray / "link").unlink()
    (tree.home / stray / "link").mkdir()
    (tree.home / "l" / short(identity("base"))).unlink()
    found = tree.one()
    assert found.stack
    assert [*found.stack.lowers] == [tree.path(identity("base"))]


def test_a_link_that_leads_nowhere_is_a_damage(tree: Tree) -> None:
    """The damage names the link and the layer that it leads to."""
    tree.container("web", tree.chain("base", "web"))
    tree.container("db", tree.chain("other", "db"))
    shutil.rmtree(tree.home / identity("base"))
    every = tree.all()
    said = damage(every["web"])
    assert said.startswith(f"{tree.home}/l/{short(identity('base'))}: ")
    assert identity("base") in said
    assert every["db"].stack


def test_a_missing_layer_is_a_damage(tree: Tree) -> None:
    """A layer that is listed and has no directory is named."""
    layer = tree.chain("base", "web")
    tree.container("web", layer)
    (tree.home / layer / "lower-layers").write_text(identity("base"))
    shutil.rmtree(tree.home / identity("base"))
    assert damage(tree.one()) == f"{tree.home / identity('base')}: No such file or directory"


def test_a_layer_that_is_not_listed_is_a_damage(tree: Tree) -> None:
    """A parent that layers.json does not have is named, with its child."""
    tree.container("web", tree.chain("base", "web"))
    file = tree.list_of("layers")
    file.write_text(
        json.dumps([each for each in json.loads(file.read_bytes()) if "parent" in each])
    )
    assert damage(tree.one()) == (
        f"{file}: parent of {identity('web')}: layer {identity('base')} is not in the list"
    )


def test_records_that_differ_are_a_damage(tree: Tree) -> None:
    """A chain by parents and another one by short names: both are named, neither is taken."""
    layer = tree.chain("base", "top", "web")
    tree.layer("stray")
    tree.container("web", layer)
    file = tree.home / layer / "lower"
    file.write_text(f"l/{short(identity('stray'))}:l/{short(identity('base'))}")
    said = damage(tree.one())
    assert said.startswith(f"{file}: layer {identity('stray')} is below")
    assert said.endswith(f"{tree.list_of('layers')} has layer {identity('top')}")


@pytest.mark.parametrize("cut", ["", "l/"])
def test_a_short_list_of_names_is_a_damage(tree: Tree, cut: str) -> None:
    """A file `lower` that was cut short never gives fewer layers."""
    layer = tree.chain("base", "top", "web")
    tree.container("web", layer)
    file = tree.home / layer / "lower"
    file.write_text((f"l/{short(identity('top'))}:" + cut).rstrip(":"))
    assert str(tree.home) in damage(tree.one())


def test_a_loop_of_layers_is_a_damage(tree: Tree) -> None:
    """Layers that are above themselves end the search."""
    layer = tree.chain("base", "top", "web")
    tree.container("web", layer)
    entries = json.loads(tree.list_of("layers").read_bytes())
    entries[0]["parent"] = identity("top")
    tree.list_of("layers").write_text(json.dumps(entries))
    assert "is above itself" in damage(tree.one())


def test_a_damaged_list_leaves_what_the_layers_say(tree: Tree) -> None:
    """Without layers.json the files beside the layers tell all of them."""
    tree.container("web", tree.chain("base", "web"))
    tree.list_of("layers").write_text('[{"id": "')
    found = tree.one()
    assert found.stack
    assert [*found.stack.lowers] == [tree.path(identity("base"))]
    assert any("no JSON" in each.what for each in found.damages)


def test_more_directories_of_a_layer(tree: Tree) -> None:
    """`diff1` and `diff2` are below `diff`; those of the container are above all layers."""
    layer = tree.chain("base", "top", "web")
    tree.container("web", layer)
    for word, name in (("top", "diff1"), ("top", "diff2"), ("web", "diff1")):
        (tree.home / identity(word) / name).mkdir()
    found = tree.one()
    assert found.stack
    top = identity("top")
    assert [*found.stack.lowers] == [
        tree.path(layer, "diff1"),
        *(tree.path(top, name) for name in ("diff", "diff1", "diff2")),
        tree.path(identity("base")),
    ]


def test_a_layer_without_a_parent_has_an_empty_one_below(tree: Tree) -> None:
    """A container from nothing lies on the directory `empty` of its layer."""
    layer = tree.layer("web")
    tree.container("web", layer)
    found = tree.one()
    assert found.stack
    assert found.stack.lowers == (tree.path(layer, "empty"),)
    (tree.home / layer / "empty").rmdir()
    assert damage(tree.one()).startswith(tree.path(layer, "empty"))


@pytest.mark.parametrize("program", [None, "false", "true"])
def test_a_program_that_mounts(tree: Tree, program: str | None) -> None:
    """The flag of the driver says whether fuse-overlayfs mounts, else the configuration."""
    tree.container("web")
    if program:
        (tree.home / ".has-mount-program").write_text(program)
    found = tree.one()
    assert found.stack
    assert found.stack.driver == ("fuse-overlayfs" if program == "true" else "overlay")
    told = configured(tree, '[storage.options.overlay]\nmount_program = "/usr/bin/fuse-overlayfs"')
    assert told.stack
    assert told.stack.driver == ("overlay" if program == "false" else "fuse-overlayfs")


def test_composefs_is_named(tree: Tree) -> None:
    """The layers of an image of EROFS are no directories, so there is no stack."""
    tree.container("web", tree.chain("base", "web"))
    blob = tree.home / identity("base") / "composefs-data/composefs.blob"
    blob.parent.mkdir()
    blob.touch()
    assert damage(tree.one()).startswith(f"{blob}: composefs: ")


def test_layers_of_another_image_store(tree: Tree, tmp_path: Path) -> None:
    """Layers, their links and their list may be in a store that the configuration names."""
    store = Tree(tmp_path / "store")
    parent = store.chain("base", "top")
    tree.parents |= store.parents
    tree.container("web", tree.layer("web", parent))
    found = configured(tree, f'[storage.options]\nadditionalimagestores = ["{store.graph}"]')
    assert found.damages == ()
    assert found.stack
    assert [*found.stack.lowers] == [store.path(identity(word)) for word in ("top", "base")]
    assert found.stack.upper == tree.path(identity("web"))
    assert "is not in the list" in str(tree.one().damages)


def test_a_store_of_images_only(tree: Tree, tmp_path: Path) -> None:
    """`imagestore` is where all images are, and containers are not."""
    store = Tree(tmp_path / "store")
    parent = store.chain("base")
    tree.parents |= store.parents
    tree.container("web", tree.layer("web", parent))
    shutil.rmtree(tree.home / "l")
    found = configured(tree, f'imagestore = "{store.graph}"')
    assert found.stack
    assert [*found.stack.lowers] == [store.path(identity("base"))]


def test_layers_of_an_additional_layer_store(tree: Tree, tmp_path: Path) -> None:
    """`diff` may be a link, if it leads into a store that the configuration names."""
    tree.container("web", tree.chain("base", "web"))
    outside = tmp_path / "layers/cmVm/sha256:0/diff"
    outside.mkdir(parents=True)
    diff = tree.home / identity("base") / "diff"
    diff.rmdir()
    diff.symlink_to(outside)
    assert damage(tree.one()) == (f"{diff}: a symbolic link leads out of the root, to {outside}")
    found = configured(
        tree, f'[storage.options]\nadditionallayerstores = ["{tmp_path}/layers:ref"]'
    )
    assert found.stack
    assert found.stack.lowers == (str(outside),)


@pytest.mark.parametrize("driver", ["vfs", "btrfs", "zfs"])
def test_drivers_that_copy_or_snapshot(tmp_path: Path, driver: str) -> None:
    """The root file system is the one directory of the layer."""
    tree = Tree(tmp_path, driver)
    layer = tree.chain("base", "web")
    tree.container("web", layer)
    found = tree.one()
    assert found.stack
    assert (found.storage, found.stack.driver) == (driver, "vfs")
    assert found.stack.upper == found.rootfs == str(tree.home / layer)
    assert found.stack.lowers == ()
    (tree.home / layer).rmdir()
    gone = tree.one()
    (said,) = gone.damages
    assert str(said).startswith(str(tree.home / layer))
    assert (gone.stack is None) == (driver == "zfs")


def test_a_driver_that_nobody_knows(tmp_path: Path) -> None:
    """A container of another driver is listed, without layers."""
    tree = Tree(tmp_path, "stratis")
    tree.container("web")
    assert "stratis" in damage(tree.one())


@pytest.mark.parametrize("word", ["../../../etc", "..", "a/b", ""])
def test_ids_that_lead_elsewhere(tree: Tree, word: str) -> None:
    """What is no name of a directory is not looked at."""
    layer = tree.chain("base", "web")
    tree.container("web", layer)
    (tree.home / layer / "lower-layers").write_text(f"{word}:{identity('base')}")
    assert f"{word!r} is no id of a layer" in damage(tree.one())


def test_a_directory_of_a_layer_that_is_a_link(tree: Tree, tmp_path: Path) -> None:
    """A link in the place of a layer is not followed."""
    tree.container("web", tree.chain("base", "web"))
    layer = tree.home / identity("base")
    os.rename(layer, tmp_path / "elsewhere")
    layer.symlink_to(tmp_path / "elsewhere")
    assert "not a directory" in damage(tree.one())


def test_transient_and_volatile_lists(tree: Tree) -> None:
    """What shall not survive a boot has lists of its own, in either root."""
    in_run = tree.run / "overlay-layers/volatile-layers.json"
    in_graph = tree.graph / "overlay-layers/volatile-layers.json"
    base = tree.chain("base")
    tree.container("web", tree.layer("web", base, listed=in_run))
    tree.container("db", tree.layer("db", base, listed=in_graph))
    moved = json.loads(tree.list_of("containers").read_bytes())
    tree.list_of("containers").unlink()
    tree.save(tree.run / "overlay-containers/volatile-containers.json", moved[0])
    tree.save(tree.graph / "overlay-containers/volatile-containers.json", moved[1])
    every = tree.all()
    assert {name: bool(each.stack) for name, each in every.items()} == {"web": True, "db": True}
    assert all(not each.damages for each in every.values())


def test_layers_are_looked_at_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers of one image share what was read of it."""
    image = tree.chain(*(f"layer {number}" for number in range(20)))
    for number in range(5):
        tree.container(f"c{number}", tree.layer(f"c{number}", image))
    seen: list[str] = []
    real = os.lstat

    def counting(path: str, **given: int) -> os.stat_result:
        seen.append(str(path))
        return real(path, **given)

    monkeypatch.setattr(os, "lstat", counting)
    every = Podman(NOWHERE)
    found = [every.describe(each, tree.roots) for each in every.containers(tree.roots)]
    assert {len(each.stack.lowers) for each in found if each.stack} == {20}
    assert seen.count(tree.path(image)) == 1


def test_a_stack_is_a_record(tree: Tree) -> None:
    """What is described goes into JSON and comes back."""
    tree.container("web")
    found = tree.one()
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
