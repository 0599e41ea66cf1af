# SPDX-License-Identifier: Apache-2.0
"""What is damaged in Docker's state is named with file and field, and nothing else suffers."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mountcr.engines.docker import Docker
from unit.engines.dockertrees import Tree, hex64, short, write

if TYPE_CHECKING:
    from pathlib import Path

    from mountcr.model import Container


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A data root with one container, `good`, that nothing happens to."""
    tree = Tree(tmp_path)
    tree.container("good", image=tree.image("overlay2", 3, "good"))
    return tree


def damages(tree: Tree, container: str) -> list[str]:
    """Give the damages of a container in words, having seen that the other one has none."""
    return [str(each) for each in described(tree, container).damages]


def described(tree: Tree, container: str) -> Container:
    """Give a container, having seen that the other one is whole."""
    found = tree.described()
    good = found[hex64("container", "good")]
    assert good.stack
    assert not good.damages
    return found[container]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"ID": "', "no JSON: Input data was truncated"),
        ("", "no JSON: Input data was truncated"),
        ('{"ID": 1}', "ID: Expected `str`, got `int`"),
        ('{"State": {"Pid": "1"}}', "State.Pid: Expected `int`, got `str`"),
        ("[]", "Expected `object`, got `array`"),
        ('{"Name": "\\ud800"}', "no JSON"),
    ],
)
def test_a_damaged_record_is_listed_by_its_directory(
    tree: Tree, content: str, complaint: str
) -> None:
    """A container whose config.v2.json is of no use is there, with the file and field."""
    container = tree.container("bad", image=tree.image("overlay2", 3, "good"[::-1]))
    file = tree.directory(container) / "config.v2.json"
    write(file, content)
    found = described(tree, container)
    assert found.id == container
    (damage,) = map(str, found.damages)
    assert damage.startswith(f"{file}: {complaint}")


def test_layers_are_known_without_the_record(tree: Tree) -> None:
    """The graph driver that has a layer of a container tells its storage, if nothing else does."""
    container = tree.container("bad", image=tree.image("overlay2", 3, "bad"))
    expected = described(tree, container).stack
    write(tree.directory(container) / "config.v2.json", "")
    found = described(tree, container)
    assert (found.stack, found.storage) == (expected, "overlay2")


def test_a_record_that_is_missing_is_a_damage(tree: Tree) -> None:
    """A directory called like a container without a record is one that is damaged."""
    container = hex64("nothing")
    tree.directory(container).mkdir()
    tree.directory("lost+found").mkdir()
    assert damages(tree, container) == [f"{tree.directory(container)}/config.v2.json: is missing"]
    assert "lost+found" not in tree.described()


def test_a_record_of_another_container_is_a_damage(tree: Tree) -> None:
    """The id in the record must be the one of the directory."""
    container = tree.container("bad", ID=hex64("other"))
    (damage,) = damages(tree, container)
    assert damage.startswith(f"{tree.directory(container)}/config.v2.json: ID: is {hex64('other')}")


def test_a_damaged_host_configuration_is_a_damage(tree: Tree) -> None:
    """What hostconfig.json does not tell is left out."""
    container = tree.container("bad")
    write(tree.directory(container) / "hostconfig.json", '{"IpcMode": 1}')
    (damage,) = damages(tree, container)
    assert damage == (
        f"{tree.directory(container)}/hostconfig.json: IpcMode: Expected `str`, got `int`"
    )


@pytest.mark.parametrize("file", ["config.v2.json", "hostconfig.json"])
def test_nothing_is_read_outside_of_the_root(tree: Tree, tmp_path: Path, file: str) -> None:
    """A link that leads out of the data root is a damage, whatever it leads to."""
    container = tree.container("bad")
    path = tree.directory(container) / file
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    (damage,) = damages(tree, container)
    assert damage == f"{path}: a symbolic link leads out of the root, to {tmp_path}/elsewhere.json"


def test_a_container_that_is_a_link_out_is_a_damage(tree: Tree, tmp_path: Path) -> None:
    """The directory of a container must be in the data root too."""
    container = tree.container("bad")
    tree.directory(container).rename(tmp_path / "away")
    tree.directory(container).symlink_to(tmp_path / "away")
    (damage, *_) = damages(tree, container)
    assert "a symbolic link leads out of the root" in damage


@pytest.mark.parametrize("driver", ["overlay2", "fuse-overlayfs"])
@pytest.mark.parametrize("number", range(4))
def test_a_layer_that_is_missing_is_named(tree: Tree, driver: str, number: int) -> None:
    """The damage names `lower` and the number of the layer; what it was called is known."""
    image = tree.image(driver, 3, "bad")
    container = tree.container("bad", driver, image)
    own = hex64("layer", "bad")
    layers = (f"{own}-init", *image[1])
    path = tree.data / driver / layers[number] / "diff"
    shutil.rmtree(path)
    found = described(tree, container)
    assert found.stack
    assert found.stack.lowers[number] == str(path)
    (damage,) = found.damages
    assert damage.file == f"{tree.data}/{driver}/{own}/lower"
    assert damage.field == f"layer {number}"
    assert damage.what == f"{path} is missing"


def test_a_missing_layer_is_a_damage_of_each_container(tree: Tree) -> None:
    """Two containers of one image are both without the layer, each by its own `lower`."""
    image = tree.image("overlay2", 3, "bad")
    containers = [tree.container(name, image=image) for name in ("one", "two")]
    shutil.rmtree(tree.data / "overlay2" / image[1][1] / "diff")
    for name, container in zip(("one", "two"), containers, strict=True):
        (damage,) = described(tree, container).damages
        assert damage.file == f"{tree.data}/overlay2/{hex64('layer', name)}/lower"


@pytest.mark.parametrize(
    ("driver", "layer", "lost"),
    [
        ("overlay2", "{own}/diff", "writable layer"),
        ("overlay", "{own}/upper", "writable layer"),
        ("overlay", "{top}/root", "layer 0"),
        ("aufs", "diff/{own}", "writable layer"),
        ("aufs", "diff/{top}", "layer 1"),
        ("vfs", "dir/{own}", ""),
        ("btrfs", "subvolumes/{own}", ""),
        ("devicemapper", "metadata/{own}", ""),
    ],
)
def test_no_driver_does_without_a_layer(tree: Tree, driver: str, layer: str, lost: str) -> None:
    """With every driver, a directory that is missing is named, and the others are known."""
    image = tree.image(driver, 3, "bad")
    container = tree.container("bad", driver, image)
    path = f"{driver}/{layer.format(own=hex64('layer', 'bad'), top=image[1][0])}"
    (tree.data / path).unlink() if driver == "devicemapper" else shutil.rmtree(tree.data / path)
    found = described(tree, container)
    if driver == "devicemapper":
        assert found.stack is None
    else:
        assert found.stack
        assert f"{tree.data}/{path}" in found.stack.directories
    (damage,) = found.damages
    assert damage.field == lost
    assert f"{tree.data}/{path}" in str(damage)
    assert damage.what.endswith("is missing")


def test_links_lead_to_layers_only(tree: Tree, tmp_path: Path) -> None:
    """A link that is no link to a layer is not followed, even if the files `link` are lost too."""
    image = tree.image("overlay2", 2, "bad")
    container = tree.container("bad", image=image)
    link = tree.data / "overlay2/l" / short(image[1][0])
    link.unlink()
    (tree.data / "overlay2" / image[1][0] / "link").unlink()
    link.symlink_to(tmp_path)
    found = described(tree, container)
    assert found.stack is None
    (damage,) = found.damages
    assert damage.field == "layer 1"
    assert f"leads to {tmp_path}, which is no layer, and no layer has that name" in damage.what


def test_a_layer_outside_of_the_root_is_a_damage(tree: Tree, tmp_path: Path) -> None:
    """A directory of a layer that is a link to elsewhere is not taken for the layer."""
    image = tree.image("overlay2", 2, "bad")
    container = tree.container("bad", image=image)
    layer = tree.data / "overlay2" / image[1][1] / "diff"
    layer.rename(tmp_path / "stolen")
    layer.symlink_to(tmp_path / "stolen")
    found = described(tree, container)
    assert found.stack is None
    assert f"leads out of the root, to {tmp_path}/stolen" in found.damages[0].what


@pytest.mark.parametrize("text", ["l/../../etc", "/etc", "l/", "x/AAAA", "..", "l/a/b"])
def test_lower_names_links_only(tree: Tree, text: str) -> None:
    """What `lower` names is looked up among the links, and nowhere else."""
    container = tree.container("bad")
    write(tree.data / "overlay2" / hex64("layer", "bad") / "lower", text)
    found = described(tree, container)
    assert found.stack is None
    assert "is no link to a layer" in found.damages[0].what


@pytest.mark.parametrize("text", ["../../etc", "..", "a/b"])
def test_ids_of_layers_are_names(tree: Tree, text: str) -> None:
    """An id that would lead to another directory is none."""
    container = tree.container("bad")
    mount = tree.data / "image/overlay2/layerdb/mounts" / container
    write(mount / "mount-id", text)
    found = described(tree, container)
    assert (found.stack, found.rootfs) == (None, None)
    assert str(found.damages[0]) == f"{mount}/mount-id: {text!r} is no id of a layer"


def test_driver_and_engine_must_agree(tree: Tree) -> None:
    """A layer that `lower` and layerdb have differently is a damage that names both."""
    image = tree.image("overlay2", 3, "bad")
    container = tree.container("bad", image=image)
    own = hex64("layer", "bad")
    swapped = (f"{own}-init", image[1][1], image[1][0], image[1][2])
    lower = tree.data / "overlay2" / own / "lower"
    write(lower, ":".join(f"l/{short(each)}" for each in swapped))
    found = described(tree, container)
    (damage,) = found.damages
    parent = f"{tree.data}/image/overlay2/layerdb/mounts/{container}/parent"
    assert str(damage) == f"{lower}: layer 1: is {image[1][1]}, but {image[1][0]} by {parent}"
    assert found.stack
    write(lower, ":".join(f"l/{short(each)}" for each in (f"{own}-init", *image[1][:2])))
    (damage,) = described(tree, container).damages
    assert damage.what == f"is none, but {image[1][2]} by {parent}"


@pytest.mark.parametrize(
    ("driver", "file"), [("overlay2", "overlay2/{}/lower"), ("aufs", "aufs/layers/{}")]
)
def test_lost_layers_are_not_taken_for_none(tree: Tree, driver: str, file: str) -> None:
    """Where the driver names no layer and layerdb does, what is below is not known."""
    container = tree.container("bad", driver, tree.image(driver, 2, "bad"))
    path = tree.data / file.format(hex64("layer", "bad"))
    write(path, "") if driver == "aufs" else path.unlink()
    found = described(tree, container)
    assert found.stack is None
    (damage,) = found.damages
    assert str(damage).startswith(f"{path}: names no layer, but there are 3 below by ")


@pytest.mark.parametrize("file", ["cache-id", "parent"])
def test_a_broken_chain_is_named(tree: Tree, file: str) -> None:
    """A layer of an image whose record is of no use is named; `lower` still tells the stack."""
    image = tree.image("overlay2", 3, "bad")
    container = tree.container("bad", image=image)
    record = tree.data / "image/overlay2/layerdb" / image[0].replace(":", "/") / file
    write(record, "..")
    (damage,) = damages(tree, container)
    assert damage.startswith(f"{record}: '..' is no ")


def test_a_chain_that_comes_round_ends(tree: Tree) -> None:
    """A layer that is its own parent is a damage, and no endless walk."""
    image = tree.image("overlay2", 1, "bad")
    container = tree.container("bad", image=image)
    record = tree.data / "image/overlay2/layerdb" / image[0].replace(":", "/")
    write(record / "parent", image[0])
    (damage,) = damages(tree, container)
    assert damage == f"{record}/parent: {image[0]} is a parent of itself"


def test_images_of_old_come_round_too(tree: Tree) -> None:
    """An image of Docker before 1.10 that is its own parent is a damage."""
    image = tree.old_image("aufs", 2)
    container = tree.old_container("bad", "aufs", image)
    write(tree.data / "graph" / image[1] / "json", json.dumps({"parent": image[0]}))
    (damage,) = damages(tree, container)
    assert damage.endswith(f"{image[1]}/json: parent: '{image[0]}' is a parent of itself")


def test_a_lost_layerdb_is_a_damage(tree: Tree) -> None:
    """A container of a graph driver that layerdb has not is damaged, and no snapshot."""
    container = tree.container("bad")
    mount = tree.data / "image/overlay2/layerdb/mounts" / container
    shutil.rmtree(mount)
    found = described(tree, container)
    assert found.stack is None
    assert [str(each) for each in found.damages] == [f"{mount}/mount-id: is missing"]


@pytest.mark.parametrize("name", ["../../../etc", "", "a/b"])
def test_names_of_volumes_lead_nowhere_else(tree: Tree, name: str) -> None:
    """A volume whose name would lead out of `volumes` has no source."""
    points = {"/v": {"Name": name, "Type": "volume", "Driver": "local"}}
    container = tree.container("bad", MountPoints=points)
    found = described(tree, container)
    assert [each.source for each in found.mounts] == [None]
    (damage,) = found.damages
    assert damage.field == "MountPoints./v.Name"


@pytest.mark.parametrize("driver", ["../overlay2", "..", ""])
def test_a_driver_is_a_name(tree: Tree, driver: str) -> None:
    """A storage driver that would lead elsewhere is none."""
    container = hex64("container", "bad")
    tree.records(container, "bad", driver)
    (damage,) = damages(tree, container)
    assert damage.endswith(f"config.v2.json: Driver: {driver!r} is no storage driver")


def test_a_damaged_exec_state_is_a_damage(tree: Tree) -> None:
    """A record of the exec driver that is cut short leaves the daemon's."""
    container = tree.old_container("bad", "aufs", tree.old_image("aufs", 2))
    file = tree.run / "execdriver/native" / container / "state.json"
    write(file, '{"init_process_pid": ')
    found = described(tree, container)
    assert found.pid == 0
    assert [each.file for each in found.damages] == [str(file)]


def test_a_fifo_does_not_block(tree: Tree) -> None:
    """What is no regular file is not read."""
    container = tree.container("bad")
    file = tree.directory(container) / "config.v2.json"
    file.unlink()
    os.mkfifo(file)
    (damage,) = damages(tree, container)
    assert damage == f"{file}: not a regular file"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["/", ".."]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        "ID",
        "Name",
        "Driver",
        "Image",
        "State",
        "Config",
        "NetworkSettings",
        "MountPoints",
        "Volumes",
        "VolumesRW",
        "HostnamePath",
        "ResolvConfPath",
        "ShmPath",
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.dictionaries(FIELDS, JSON, max_size=3), old=st.booleans())
def test_nothing_that_is_recorded_raises(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], old: bool
) -> None:
    """Whatever stands in a record, the container is listed, described, and can be written down."""
    tree = Tree(tmp_path_factory.mktemp("docker"))
    if old:
        container = tree.old_container("web", "aufs", tree.old_image("aufs", 1), **changes)
    else:
        container = tree.container("web", image=tree.image("overlay2", 1), **changes)
    found = tree.described()
    assert list(found) == [container]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lower=st.binary(max_size=60), link=st.text("l/A:.\0", max_size=20), data=st.data())
def test_nothing_that_a_driver_wrote_raises(
    tmp_path_factory: pytest.TempPathFactory, lower: bytes, link: str, data: st.DataObject
) -> None:
    """Whatever stands in the files of layers, the container is described."""
    tree = Tree(tmp_path_factory.mktemp("docker"))
    own = hex64("layer", "web")
    driver = data.draw(st.sampled_from(["overlay2", "overlay", "aufs"]))
    container = tree.container("web", driver, tree.image(driver, 1))
    files = {
        "overlay2": f"overlay2/{own}/lower",
        "overlay": f"overlay/{own}/lower-id",
        "aufs": f"aufs/layers/{own}",
    }
    content = data.draw(st.sampled_from([lower, link.encode()]))
    (tree.data / files[driver]).write_bytes(content)
    found = list(Docker().containers(tree.roots))
    assert [each.id for each in found] == [container]
    assert tree.described()[container].id == container
