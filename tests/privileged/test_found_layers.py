# SPDX-License-Identifier: Apache-2.0
"""Layers that mountinfo tells relative to nothing, or as numbers, are found where they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.graph.tree import MountTree
from mountcr.kernel import syscalls
from mountcr.observation.layers import look_again, with_layers, with_layers_of_all
from mountcr.paths import KPath, encode
from mountcr_drivers.overlayfs import OverlayFS
from scratch import mounted, tmpfs

if TYPE_CHECKING:
    from mountcr.model import Mount
    from mountcr.stack import Stack

pytestmark = pytest.mark.requires("overlay")

RECORDED = Path(__file__).parents[1] / "fixtures" / "engines" / "layers" / "podman-overlay"
RECORDED_HOME = "/srv/lab/pod/overlay/root/overlay"


class Store:
    """A directory of layers as Docker and containers/storage have it."""

    def __init__(self, top: Path) -> None:
        tmpfs(top)
        self.home = top / "overlay2"
        (self.home / "l").mkdir(parents=True)
        self.ids: list[str] = []

    def add(self, name: str) -> Path:
        """Make a layer, on top of those there are."""
        layer = self.home / name
        for each in ("diff", "work", "merged"):
            (layer / each).mkdir(parents=True)
        short = f"SHORT{len(self.ids)}"
        (layer / "link").write_text(short)
        (self.home / "l" / short).symlink_to(f"../{name}/diff")
        if self.ids:
            (layer / "lower").write_text(":".join(self.short_names))
        (layer / "diff" / f"in-{name}").touch()
        self.ids.insert(0, name)
        return layer

    @property
    def short_names(self) -> list[str]:
        """The names of the layers there are, top first."""
        return [f"l/{(self.home / each / 'link').read_text()}" for each in self.ids]

    def diffs(self, *names: str) -> tuple[KPath, ...]:
        """Where layers really are."""
        return tuple(encode(str(self.home / each / "diff")) for each in names)


def mount_from(directory: Path | str, at: Path, options: str) -> Mount:
    """Mount from a working directory, as engines do, and give what mountinfo has of it."""
    os.chdir(directory)  # of the process of this test, which ends with it
    syscalls.mount(b"overlay", bytes(at), b"overlay", 0, options.encode())
    os.chdir("/")
    return mounted(encode(str(at)))[-1]


def stack_of(mount: Mount) -> Stack:
    """What the driver makes of a mount."""
    stack = OverlayFS().recognise(mount, MountTree(()))
    assert stack
    return stack


def docker(top: Path) -> tuple[Store, Path, str]:
    """A container on three layers, and the options that Docker shortens."""
    store = Store(top)
    for each in ("base", "middle", "own-init"):
        store.add(each)
    lowers = ":".join(store.short_names)
    own = store.add("own")
    return store, own, f"lowerdir={lowers},upperdir=own/diff,workdir=own/work"


def test_names_of_docker(tmp_path: Path) -> None:
    """With all paths relative to the home of the driver, the mountpoint on the host tells it."""
    store, own, options = docker(tmp_path)
    mount = mount_from(store.home, own / "merged", options)
    assert stack_of(mount).lowers[0] == "l/SHORT2"
    inside = msgspec.structs.replace(mount, mountpoint=KPath("/"))
    for found in (with_layers_of_all([mount])[0], with_layers(inside, near=[mount.mountpoint])):
        stack = stack_of(found)
        assert stack.lowers == store.diffs("own-init", "middle", "base")
        assert (stack.upper, stack.work) == (encode(f"{own}/diff"), encode(f"{own}/work"))
        assert str(encode(str(store.home))) in stack.provenance[-1]


def test_nothing_is_told_without_a_place(tmp_path: Path) -> None:
    """Relative names that nothing leads to stay what they are, for rule M6."""
    store, own, options = docker(tmp_path)
    mount = mount_from(store.home, own / "merged", options)
    inside = msgspec.structs.replace(mount, mountpoint=KPath("/"))
    assert with_layers(inside) is inside


def test_a_lost_link_is_read_from_its_file(tmp_path: Path) -> None:
    """`l/ABC` is what the layer is called whose file `link` says ABC; absolute names as well."""
    store, own, options = docker(tmp_path)
    relative = mount_from(store.home, own / "merged", options)
    absolute = relative.super_options.replace("lowerdir=l/", f"lowerdir={store.home}/l/")
    absolute = absolute.replace(":l/", f":{store.home}/l/").replace("=own/", f"={own}/")
    shutil.rmtree(store.home / "l")
    for text in (relative.super_options, absolute):
        mount = msgspec.structs.replace(relative, super_options=text)
        stack = stack_of(with_layers(mount, near=[mount.mountpoint]))
        assert stack.lowers == store.diffs("own-init", "middle", "base")
        assert any("own-init/link names it" in each for each in stack.provenance)


def test_links_that_are_lost_after_the_dump(tmp_path: Path) -> None:
    """Facts of a dump are looked at again, on the host where the layers are."""
    store, own, options = docker(tmp_path)
    text = options.replace("l/SHORT", f"{store.home}/l/SHORT").replace("=own/", f"={own}/")
    mount = mount_from("/", own / "merged", text)
    facts = builders.facts((msgspec.structs.replace(mount, mountpoint=KPath("/")),))
    there = look_again(facts, facts.host).namespaces[0].mounts[0]
    assert stack_of(there).lowers == store.diffs("own-init", "middle", "base")
    shutil.rmtree(store.home / "l")
    found = look_again(facts, facts.host).namespaces[0].mounts[0]
    assert stack_of(found).lowers == store.diffs("own-init", "middle", "base")


def test_names_of_containerd(tmp_path: Path) -> None:
    """Snapshots are relative to their directory, which the upper lies in."""
    top = tmpfs(tmp_path)
    snapshots = tmp_path / "snapshots"
    for number in (1, 2, 11, 12):
        (snapshots / str(number) / "fs").mkdir(parents=True)
    (snapshots / "12" / "work").mkdir()
    (tmp_path / "rootfs").mkdir()
    own = f"workdir={snapshots}/12/work,upperdir={snapshots}/12/fs"
    mount = mount_from(snapshots, tmp_path / "rootfs", f"{own},lowerdir=11/fs:2/fs:1/fs,index=off")
    stack = stack_of(with_layers(mount))
    assert stack.lowers == tuple(KPath(f"{top}/snapshots/{each}/fs") for each in (11, 2, 1))
    assert stack.upper == f"{top}/snapshots/12/fs"


def test_what_could_be_two_directories_is_not_guessed(tmp_path: Path) -> None:
    """Names that are there below the upper's parent and above it tell nothing."""
    tmpfs(tmp_path)
    near, far = tmp_path / "inner", tmp_path
    names = ("one-layer", "other-layer")
    made = [place / each for place in (near, far) for each in names]
    for each in (*made, near / "up", near / "wk", far / "at"):
        each.mkdir(parents=True)
    options = f"lowerdir=one-layer:other-layer,upperdir={near}/up,workdir={near}/wk"
    mount = mount_from(near, far / "at", options)
    assert with_layers(mount) is mount
    (far / "other-layer").rmdir()
    assert stack_of(with_layers(mount)).lowers == (
        encode(f"{near}/one-layer"),
        encode(f"{near}/other-layer"),
    )


def by_number(store: Store, own: Path, lowers: list[str]) -> Mount:
    """Mount with layers as numbers of descriptors, as containers/storage does."""
    fds = [os.open(store.home / each / "diff", os.O_PATH) for each in lowers]
    names = ":".join(map(str, fds))
    options = f"lowerdir={names},upperdir={own}/diff,workdir={own}/work"
    mount = mount_from("/proc/self/fd", own / "merged", options)
    for fd in fds:
        os.close(fd)
    return mount


@pytest.mark.parametrize("file", ["lower", "lower-layers"])
def test_numbers_of_descriptors(file: str, tmp_path: Path) -> None:
    """What they were is in the files beside the upper; the newer one has ids."""
    store, own, _ = docker(tmp_path)
    names = ["own-init", "middle", "base"]
    if file == "lower-layers":
        (own / file).write_text(":".join(names))
        (own / "lower").write_text("l/NOBODY:l/KNOWS:l/THIS")
    mount = by_number(store, own, names)
    assert all(each.isdigit() for each in stack_of(mount).lowers)
    stack = stack_of(with_layers(mount))
    assert stack.lowers == store.diffs(*names)
    assert f"own/{file}:" in stack.provenance[-1]


def test_numbers_of_more_layers_than_are_recorded(tmp_path: Path) -> None:
    """Files that tell of another number of layers do not tell of this mount."""
    store, own, _ = docker(tmp_path)
    mount = by_number(store, own, ["own-init", "middle", "base"])
    (own / "lower").write_text("l/SHORT2:l/SHORT1")
    assert with_layers(mount) is mount
    (own / "lower").unlink()
    assert with_layers(mount) is mount


def test_the_files_of_podman(tmp_path: Path) -> None:
    """The layers that podman recorded are those that it mounted, in their order."""
    home = tmp_path / "overlay"
    shutil.copytree(RECORDED, home)
    for layer in list(home.iterdir()):
        (layer / "diff").mkdir()
        (layer / "work").mkdir()
    (root,) = (each for each in builders.recorded("podman-overlay") if each.mountpoint == "/")
    absolute = root.super_options.replace(RECORDED_HOME, str(home))
    shown = stack_of(msgspec.structs.replace(root, super_options=KPath(absolute)))
    lowers = ":".join(shown.lowers)
    by_name = with_layers(msgspec.structs.replace(root, super_options=KPath(absolute)))
    numbered = absolute.replace(lowers, ":".join(map(str, range(3, 3 + len(shown.lowers)))))
    found = with_layers(msgspec.structs.replace(root, super_options=KPath(numbered)))
    short = {(each / "link").read_text(): encode(f"{each}/diff") for each in home.iterdir()}
    wanted = tuple(short[each.rpartition("/")[2]] for each in shown.lowers)
    assert len(wanted) == 3
    assert stack_of(found).lowers == stack_of(by_name).lowers == wanted
