# SPDX-License-Identifier: Apache-2.0
"""Image layers are found by digest wherever an engine has them in a directory, and told apart."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerds import Daemon
from mountcr import bolt
from mountcr.engines import Place, Roots, list_containers
from mountcr.engines.containerd import images as snapshots
from mountcr.engines.containerd import metadata
from mountcr.engines.docker import images as docker
from mountcr.engines.imagelayers import (
    ImageLayer,
    base_of,
    chain_ids,
    identify,
    identify_opened,
    image_layers,
    pile,
    survey_layers,
)
from mountcr.engines.storage import images as storage
from mountcr.engines.storage.configuration import Files
from mountcr.errors import UsageError
from mountcr.paths import KPath, encode, fsdecode
from unit.engines import dockertrees, storagetrees
from unit.engines.conftest import RECORDED
from unit.engines.dockertrees import hex64, write
from unit.engines.storagetrees import NOWHERE, identity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boltwriter import Content
    from mountcr.bolt import Bucket
    from mountcr.engines.imagelayers import Found

REFERENCE = "containerd.io/gc.ref.content"
"""What the labels begin with by which containerd keeps what a manifest refers to."""

ROOTLESS = os.geteuid() != 0
OVERLAY = "overlay-user" if ROOTLESS else "overlay"
"""The dialect of layers in a store of whoever runs the tests."""

DRIVERS = ("overlay2", "fuse-overlayfs", "aufs", "overlay", "vfs", "btrfs")


def diff_id(*words: object) -> str:
    """Give a DiffID that is always the same for the same words."""
    return f"sha256:{hex64(*words)}"


def layer(path: str, *, word: str = "layer") -> ImageLayer:
    """Give an image layer in a directory."""
    return ImageLayer(
        diff_id=diff_id(word),
        chain_id=diff_id(word),
        path=encode(path),
        dialect="overlay",
        flat=False,
        engine="docker",
        provenance="a test",
    )


class Docker(dockertrees.Tree):
    """A data root, and the image layers that are found in it."""

    def found(self) -> Found:
        """Give what is found in the only graph driver."""
        (found,) = docker.found(self.roots, "docker", self.usual)
        return found

    def record(self, driver: str, chain_id: str) -> Path:
        """Give the record of a layer."""
        return self.data / "image" / driver / "layerdb" / chain_id.replace(":", "/")


class Storage(storagetrees.Tree):
    """A graph root with image layers, whose DiffIDs are of their words."""

    def image(self, *words: str, **more: object) -> list[str]:
        """Make the layers of an image; `more` is in the entry of the top one. Give the ids."""
        ids: list[str] = []
        for word in words:
            ids.append(self.layer(word, ids[-1] if ids else ""))
            self.lists[self.list_of("layers")][-1]["diff-digest"] = diff_id(word)
        self.lists[self.list_of("layers")][-1] |= more
        self.save(self.list_of("layers"))
        return ids

    def found(self, files: Files = NOWHERE) -> Found:
        """Give what is found of the only driver."""
        (found,) = storage.found(self.roots, "podman", files)
        return found


def image(daemon: Daemon, *words: str, **given: str) -> list[str]:
    """
    Put an image into the content store of a containerd, and its layers as snapshots; give DiffIDs.

    `namespace` and `snapshotter` say where. The snapshots are numbered from 1 in each snapshotter.
    """
    where = {"namespace": "default", "snapshotter": "overlayfs"} | given
    diff_ids = [diff_id(word) for word in words]
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    digest = hashlib.sha256(config).hexdigest()
    blobs = daemon.root / "io.containerd.content.v1.content/blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / digest).write_bytes(config)
    chains = chain_ids(diff_ids)
    label = f"containerd.io/gc.ref.snapshot.{where['snapshotter']}".encode()
    content = daemon.space(where["namespace"], b"content")
    blob = content.setdefault(b"blob", {})
    assert isinstance(blob, dict)
    blob[f"sha256:{digest}".encode()] = {b"size": b"\2", b"labels": {label: chains[-1].encode()}}
    parent, first = "", len(daemon.snapshots.get(where["snapshotter"], {})) + 1
    for number, chain in enumerate(chains, first):
        daemon.snapshot(chain, number, 3, parent, **where)
        parent = chain
    return diff_ids


# Docker


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_layer_of_docker_is_where_its_graph_driver_has_it(tmp_path: Path, driver: str) -> None:
    """Each has DiffID and chain id, and is flat where the driver keeps whole trees."""
    tree = Docker(tmp_path)
    _, ids = tree.image(driver, 3)
    found = tree.found()
    diff_ids = [diff_id("diff", "image", number) for number in range(3)]
    by_chain = {each.chain_id: each for each in found.layers}
    layers = [by_chain[chain] for chain in chain_ids(diff_ids)]
    assert not found.damages
    assert [each.diff_id for each in layers] == diff_ids
    assert all(each.path.startswith(encode(str(tree.data / driver))) for each in layers)
    assert all(name in each.path for name, each in zip(reversed(ids), layers, strict=True))
    whole = driver in {"overlay", "vfs", "btrfs"}
    dialect = {"overlay2": OVERLAY, "fuse-overlayfs": driver, "aufs": driver}.get(driver, "vfs")
    assert {(each.flat, each.dialect) for each in layers} == {(whole, dialect)}
    assert layers[0].provenance == str(tree.record(driver, diff_ids[0]) / "diff")


@pytest.mark.parametrize("driver", ["zfs", "devicemapper"])
def test_what_is_no_directory_until_mounted_is_left_out(tmp_path: Path, driver: str) -> None:
    """The mountpoint of a layer of zfs, or of a device, is no layer while nothing is mounted."""
    tree = Docker(tmp_path)
    tree.image(driver, 2)
    assert list(docker.found(tree.roots, "docker", tree.usual)) == []


def test_a_container_has_no_image_layer_of_its_own(tmp_path: Path) -> None:
    """Neither the writable layer nor the one with the engine's files has a DiffID."""
    tree = Docker(tmp_path)
    top, ids = tree.image("overlay2", 2)
    container = tree.container("web", image=(top, ids))
    stack = tree.described()[container].stack
    assert stack
    found = tree.found()
    assert len(found.layers) == 2
    assert docker.base(tree.described()[container], tree.roots, tree.usual) == top
    assert [each is not None for each in identify(stack.directories, found.layers)] == [
        False,  # writable
        False,  # the engine's
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("diff", diff_id("another"), "the record"),
        ("diff", "sha256:none", "no DiffID"),
        ("diff", "../../../../x", "no DiffID"),
        ("parent", diff_id("another"), "the record"),
        ("parent", "sha256:none", "no chain id"),
        ("cache-id", "../x", "no id of a layer"),
        ("cache-id", hex64("none"), "is missing"),
    ],
)
def test_a_record_that_contradicts_itself_is_a_damage(
    tmp_path: Path, name: str, text: str, what: str
) -> None:
    """A layer whose DiffID does not make its chain id is left out, and the others are there."""
    tree = Docker(tmp_path)
    top, _ = tree.image("overlay2", 2)
    tree.image("overlay2", 1, "other")
    (tree.record("overlay2", top) / name).write_text(text)
    found = tree.found()
    assert top not in {each.chain_id for each in found.layers}
    assert len(found.layers) == 2
    (damage,) = found.damages
    assert what in str(damage)


def test_a_layer_that_leads_out_of_the_data_root_is_none(tmp_path: Path) -> None:
    """The directory of a layer that is a symbolic link to elsewhere is a damage."""
    tree = Docker(tmp_path)
    _, (only,) = tree.image("overlay2", 1)
    directory = tree.data / "overlay2" / only / "diff"
    directory.rmdir()
    directory.symlink_to(tmp_path)
    found = tree.found()
    assert not found.layers
    assert "leads out of the root" in str(found.damages[0])


def test_a_remapped_data_root_has_other_owners(tmp_path: Path) -> None:
    """The layers below `<uid>.<gid>` are mapped, and their marks are those of the host's root."""
    tree = Docker(tmp_path)
    tree.image("overlay2", 1)
    group = os.getegid()
    remapped = tmp_path / f"4242.{group}"
    tree.data.rename(remapped)
    roots = Roots(places=(Place(data=encode(str(remapped))),))
    (found,) = docker.found(roots, "docker", tree.usual)
    assert [(each.mapped, each.dialect) for each in found.layers] == [(True, "overlay")]


@pytest.mark.requires("root")
def test_an_engine_without_privilege_has_attributes_of_users(tmp_path: Path) -> None:
    """Layers below what is not root's are mapped, and have the marks of `userxattr`."""
    tree, graph = Docker(tmp_path / "docker"), Storage(tmp_path / "storage")
    tree.image("overlay2", 1)
    graph.image("base")
    os.chown(tree.data, 1000, 1000)
    os.chown(graph.graph / "overlay", 1000, 1000)
    layers = (*tree.found().layers, *graph.found().layers)
    assert [(each.mapped, each.dialect) for each in layers] == [(True, "overlay-user")] * 2


def test_layers_of_docker_may_be_snapshots(tmp_path: Path) -> None:
    """Those of the namespace `moby` are Docker's, of its own containerd, or of the host's."""
    tree = Docker(tmp_path)
    daemon = Daemon(tmp_path)
    diff_ids = image(daemon, "base", "top", namespace="moby")
    image(daemon, "foreign", namespace="default")
    daemon.write()
    usual = tree.usual
    host = msgspec.structs.replace(usual, containerd=encode(str(daemon.root)))
    (found,) = docker.found(tree.roots, "docker", host)
    assert [each.diff_id for each in found.layers] == diff_ids
    assert {each.engine for each in found.layers} == {"docker"}
    tree.image("overlay2", 1)
    (found,) = docker.found(tree.roots, "docker", host)
    assert [each.diff_id for each in found.layers] == [diff_id("diff", "image", 0)]
    own = tree.data / "containerd"
    own.mkdir()
    daemon.root.rename(own / "daemon")
    found, snapshots = docker.found(tree.roots, "docker", usual)
    assert len(found.layers) == 1
    assert [each.diff_id for each in snapshots.layers] == diff_ids


# containers/storage


@pytest.mark.parametrize("driver", ["overlay", "vfs", "btrfs"])
def test_a_layer_of_a_list_is_where_its_driver_has_it(tmp_path: Path, driver: str) -> None:
    """Each has its DiffID, and the chain id of it and its parents."""
    tree = Storage(tmp_path, driver)
    ids = tree.image("base", "middle", "top")
    tree.container("web", tree.layer("own", ids[-1]))
    found = tree.found()
    diff_ids = [diff_id(word) for word in ("base", "middle", "top")]
    diff = "/diff" if driver == "overlay" else ""
    assert not found.damages
    assert [each.diff_id for each in found.layers] == diff_ids
    assert [each.chain_id for each in found.layers] == [*chain_ids(diff_ids)]
    assert [each.path for each in found.layers] == [f"{tree.home}/{each}{diff}" for each in ids]
    assert {(each.flat, each.dialect) for each in found.layers} == {
        (False, OVERLAY) if driver == "overlay" else (True, "vfs")
    }
    assert found.layers[0].provenance == f"{tree.list_of('layers')}: diff-digest of {ids[0]}"


def test_a_program_that_mounts_has_its_own_marks(tmp_path: Path) -> None:
    """Where fuse-overlayfs was used, layers have the whiteouts of archives."""
    tree = Storage(tmp_path)
    tree.image("base")
    (tree.home / ".has-mount-program").write_text("true")
    assert [each.dialect for each in tree.found().layers] == ["fuse-overlayfs"]


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_a_layer_on_one_without_digest_has_no_chain_id(tmp_path: Path, driver: str) -> None:
    """Its DiffID is known all the same; a parent that is missing or is its child is as bad."""
    tree = Storage(tmp_path, driver)
    below = tree.layer("committed by hand")
    for word, parent in (("on it", below), ("on none", identity("nothing")), ("own", "own")):
        tree.layer(word, below)
        entry = tree.lists[tree.list_of("layers")][-1]
        entry["parent"] = identity("own") if parent == "own" else parent
        entry["diff-digest"] = diff_id(word)
    tree.save(tree.list_of("layers"))
    assert [(each.diff_id, each.chain_id) for each in tree.found().layers] == [
        (diff_id("on it"), ""),
        (diff_id("on none"), ""),
        (diff_id("own"), ""),
    ]


def test_a_layer_that_was_not_written_to_its_end_is_none(tmp_path: Path) -> None:
    """An entry with the flag `incomplete` is left out, one with another flag is not."""
    tree = Storage(tmp_path)
    tree.image("half", flags={"incomplete": True})
    tree.image("whole", flags={"other": {"more": [1]}, "incomplete": False})
    assert [each.diff_id for each in tree.found().layers] == [diff_id("whole")]


def test_owners_that_were_mapped_are_told(tmp_path: Path) -> None:
    """A copy for a user namespace has the DiffID of the original, and other owners."""
    tree = Storage(tmp_path)
    tree.image("original", uidmap=[{"container_id": 0, "host_id": 0, "size": 4294967295}])
    tree.image("copy", gidmap=[{"container_id": 0, "host_id": 100000, "size": 65536}])
    assert [each.mapped for each in tree.found().layers] == [ROOTLESS, True]


def test_a_layer_that_is_an_image_or_several_directories_is_left_out(tmp_path: Path) -> None:
    """Composefs names files by their digests, and a layer with `diff1` is not in one directory."""
    tree = Storage(tmp_path)
    composed, several, _ = tree.image("composed", "several", "plain")
    (tree.home / composed / "composefs-data").mkdir()
    (tree.home / composed / "composefs-data/composefs.blob").touch()
    (tree.home / several / "diff1").mkdir()
    found = tree.found()
    assert [each.diff_id for each in found.layers] == [diff_id("plain")]
    assert not found.damages


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_a_layer_without_directory_is_a_damage(tmp_path: Path, driver: str) -> None:
    """What a list names and nobody has is left out; what cannot be a name leads nowhere."""
    tree = Storage(tmp_path, driver)
    base, _ = tree.image("base", "top")
    os.rename(tree.home / base, tree.home / "elsewhere")
    tree.save(tree.list_of("layers"), {"id": "../x", "diff-digest": diff_id("x")})
    found = tree.found()
    assert [each.diff_id for each in found.layers] == [diff_id("top")]
    assert found.layers[0].chain_id == chain_ids([diff_id("base"), diff_id("top")])[1]
    assert len(found.damages) == 2
    assert any("missing" in each.what or "No such" in each.what for each in found.damages)
    assert any("'../x' is no id of a layer" in each.what for each in found.damages)


def test_an_entry_that_is_damaged_is_one(tmp_path: Path) -> None:
    """The other layers are found; a list that is no JSON has none, and is a damage."""
    tree = Storage(tmp_path)
    tree.image("base")
    tree.save(tree.list_of("layers"), {"id": "x", "diff-digest": 5}, {"diff-digest": "y"})
    found = tree.found()
    assert [each.diff_id for each in found.layers] == [diff_id("base")]
    assert len(found.damages) == 2
    tree.list_of("layers").write_text("[{")
    found = tree.found()
    assert (len(found.layers), len(found.damages)) == (0, 1)


def test_other_image_stores_are_read_too(tmp_path: Path) -> None:
    """Layers of an additional image store are found where they are; a list tells the chain."""
    tree, other = Storage(tmp_path / "own"), Storage(tmp_path / "other")
    tree.image("mine")
    theirs = other.image("theirs")
    configuration = tmp_path / "etc"
    options = f'additionalimagestores = ["{other.graph}"]'
    write(
        configuration / "storage.conf",
        f'[storage]\ngraphroot = "{tree.graph}"\n[storage.options]\n{options}\n',
    )
    files = Files(share="/nowhere", etc=str(configuration))
    (found,) = storage.found(Roots(usual=True), "podman", files)
    assert [each.diff_id for each in found.layers] == [diff_id("mine"), diff_id("theirs")]
    assert found.layers[1].path == other.path(theirs[0])


def test_a_layer_store_that_is_a_link_has_its_real_path(tmp_path: Path) -> None:
    """A graph root behind a symbolic link gives directories without one in their paths."""
    tree = Storage(tmp_path / "real")
    (layer,) = tree.image("base")
    (tmp_path / "link").symlink_to("real")
    roots = Roots(places=(Place(data=encode(str(tmp_path / "link/root"))),))
    (found,) = storage.found(roots, "podman", NOWHERE)
    assert [each.path for each in found.layers] == [tree.path(layer)]


# containerd


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native", "btrfs"])
def test_a_snapshot_is_the_layer_of_its_chain_id(tmp_path: Path, snapshotter: str) -> None:
    """Committed snapshots have the DiffIDs that the configuration of an image says."""
    daemon = Daemon(tmp_path)
    diff_ids = image(daemon, "base", "top", snapshotter=snapshotter)
    daemon.snapshot("lab", 3, 2, chain_ids(diff_ids)[-1], snapshotter=snapshotter)
    daemon.write()
    (found,) = snapshots.found(daemon.roots, "containerd")
    home = daemon.directory(snapshotter) / "snapshots"
    fs = "/fs" if snapshotter == "overlayfs" else ""
    assert not found.damages
    assert [
        (each.diff_id, each.chain_id, each.path, each.flat, each.dialect) for each in found.layers
    ] == [
        (diff, chain, f"{home}/{number}{fs}", not fs, OVERLAY if fs else "vfs")
        for number, (diff, chain) in enumerate(
            zip(diff_ids, chain_ids(diff_ids), strict=True), start=1
        )
    ]
    assert found.layers[1].provenance.endswith(": rootfs.diff_ids[1]")


@pytest.mark.parametrize("name", ["containerd-1.6-overlayfs", "containerd-1.7-native"])
def test_a_recorded_containerd_calls_snapshots_by_chain_ids(tmp_path: Path, name: str) -> None:
    """The keys that containerd gave to layers are the chain ids of what it says they unpack to."""
    file = tmp_path / "meta.db"
    file.write_bytes(gzip.decompress((RECORDED / "bolt" / name / "meta.db.gz").read_bytes()))

    def unpacked(bucket: Bucket) -> list[str]:
        """Follow the labels of the manifest to those of its layers, lowest first."""
        blobs = bucket.bucket(b"v1", b"default", b"content", b"blob")
        assert blobs
        labels = {
            blob: dict(found.pairs()) for blob in blobs if (found := blobs.bucket(blob, b"labels"))
        }
        (manifest,) = (each for each in labels.values() if f"{REFERENCE}.config".encode() in each)
        layers = [manifest[f"{REFERENCE}.l.{number}".encode()] for number in range(3)]
        return [labels[each][b"containerd.io/uncompressed"].decode() for each in layers]

    images = metadata.images(str(file))
    (names,) = images.snapshots.values()
    assert {*names.values()} == {*chain_ids(bolt.read(encode(str(file)), unpacked))}
    assert all(called.endswith(f"/{key}") for called, key in names.items())
    assert (len(images.configurations), images.flaws) == (1, [])
    top = chain_ids(bolt.read(encode(str(file)), unpacked))[-1]
    assert metadata.base_of(str(file), "default", "lab") == top


def test_images_share_layers(tmp_path: Path) -> None:
    """Each layer is found once, and in each namespace that has it unpacked."""
    daemon = Daemon(tmp_path)
    image(daemon, "base", "one")
    image(daemon, "base", "two", namespace="k8s.io")
    daemon.write()
    (found,) = snapshots.found(daemon.roots, "containerd")
    assert sorted(each.diff_id for each in found.layers) == sorted(
        diff_id(word) for word in ("base", "base", "one", "two")
    )
    roots = msgspec.structs.replace(daemon.roots, namespace="k8s.io")
    (found,) = snapshots.found(roots, "containerd")
    assert {each.diff_id for each in found.layers} == {diff_id("base"), diff_id("two")}


def test_a_snapshot_that_no_image_tells_of_is_left_out(tmp_path: Path) -> None:
    """Keys that are no chain id, and chain ids whose image was removed, have no DiffID."""
    daemon = Daemon(tmp_path)
    image(daemon, "base")
    daemon.snapshot(diff_id("removed"), 2, 3)
    daemon.snapshot("buildkit's", 3, 3)
    daemon.write()
    (found,) = snapshots.found(daemon.roots, "containerd")
    assert [each.diff_id for each in found.layers] == [diff_id("base")]
    assert not found.damages


@pytest.mark.parametrize(
    "content", [None, b"{}", b"[", b'{"rootfs": {"diff_ids": ["sha256:x"]}}', b'{"rootfs": 1}']
)
def test_a_configuration_must_be_what_its_digest_says(
    tmp_path: Path, content: bytes | None
) -> None:
    """One that is lost or changed is a damage; what it said is unknown, and others are not."""
    daemon = Daemon(tmp_path)
    image(daemon, "changed")
    (blob,) = daemon.root.rglob("blobs/sha256/*")
    image(daemon, "sound")
    daemon.write()
    blob.unlink() if content is None else blob.write_bytes(content)
    (found,) = snapshots.found(daemon.roots, "containerd")
    assert [each.diff_id for each in found.layers] == [diff_id("sound")]
    assert [each.file for each in found.damages] == [encode(str(blob))]


@pytest.mark.parametrize("content", [b"[", b'{"rootfs": {"diff_ids": ["../x"]}}', b"[" * 9999])
def test_a_configuration_may_be_anything(tmp_path: Path, content: bytes) -> None:
    """One whose digest is right and whose content is no configuration is a damage."""
    daemon = Daemon(tmp_path)
    image(daemon, "base")
    digest = hashlib.sha256(content).hexdigest()
    (blob,) = daemon.root.rglob("blobs/sha256/*")
    (blob.parent / digest).write_bytes(content)
    unpacked: Content = {b"labels": {b"containerd.io/gc.ref.snapshot.overlayfs": b"sha256:x"}}
    blobs = daemon.space("default", b"content")[b"blob"]
    assert isinstance(blobs, dict)
    blobs |= {f"sha256:{digest}".encode(): unpacked, b"../../x": unpacked}
    daemon.write()
    (found,) = snapshots.found(daemon.roots, "containerd")
    assert [each.diff_id for each in found.layers] == [diff_id("base")]
    assert [each.file for each in found.damages] == [encode(str(blob.parent / digest))]


def test_a_snapshotter_that_is_damaged_has_no_layers(tmp_path: Path) -> None:
    """Its database is a damage, as is a directory that is gone, and a snapshot it lacks."""
    daemon = Daemon(tmp_path)
    diff_ids = image(daemon, "base", "middle", "top")
    names = daemon.snapshots["overlayfs"]
    del names[f"default/2/{chain_ids(diff_ids)[1]}".encode()]
    daemon.write()
    (daemon.directory("overlayfs") / "snapshots/3/fs").rmdir()
    (found,) = snapshots.found(daemon.roots, "containerd")
    assert [each.diff_id for each in found.layers] == [diff_ids[0]]
    assert sorted(each.what for each in found.damages) == [
        "is missing",
        "is missing, or is not committed",
    ]
    (daemon.directory("overlayfs") / "metadata.db").write_bytes(b"none")
    (found,) = snapshots.found(daemon.roots, "containerd")
    assert (len(found.layers), len(found.damages)) == (0, 1)
    daemon.meta.write_bytes(b"none")
    (found,) = snapshots.found(daemon.roots, "containerd")
    assert (len(found.layers), len(found.damages)) == (0, 1)


def test_a_mapped_snapshot_has_other_owners(tmp_path: Path) -> None:
    """The labels of a snapshot tell that its owners are mapped."""
    daemon = Daemon(tmp_path)
    diff_ids = image(daemon, "base")
    name = f"default/1/{diff_ids[0]}".encode()
    content = daemon.snapshots["overlayfs"][name]
    assert isinstance(content, dict)
    content[b"labels"] = {b"containerd.io/snapshot/uidmapping": b"0:100000:65536"}
    daemon.write()
    (found,) = snapshots.found(daemon.roots, "containerd")
    assert [each.mapped for each in found.layers] == [True]


def test_a_container_is_on_the_layer_that_its_records_name(tmp_path: Path) -> None:
    """What an engine puts between is passed; who has no image, or a damaged record, is on none."""
    daemon = Daemon(tmp_path)
    diff_ids = image(daemon, "base", "top", snapshotter="native")
    top = chain_ids(diff_ids)[-1]
    daemon.snapshot("web", 3, 2, top, snapshotter="native")
    daemon.container("web", snapshotKey=b"web", snapshotter=b"native")
    daemon.snapshot("scratch", 4, 2, snapshotter="native")
    daemon.container("scratch", snapshotKey=b"scratch", snapshotter=b"native")
    daemon.container("none")
    image(daemon, "base", "top", namespace="moby", snapshotter="native")
    daemon.snapshot("cid-init", 7, 3, top, namespace="moby", snapshotter="native")
    daemon.snapshot("cid", 8, 2, "cid-init", namespace="moby", snapshotter="native")
    daemon.write()
    layers = image_layers(daemon.roots)
    described = {word: daemon.described(word) for word in ("web", "scratch", "none")}
    base = base_of(described["web"], layers, daemon.roots)
    assert base
    assert (base.chain_id, base.flat) == (top, True)
    assert [each.diff_id for each in pile(base, layers)] == diff_ids
    assert base_of(described["scratch"], layers, daemon.roots) is None
    assert base_of(described["none"], layers, daemon.roots) is None
    tree = Docker(tmp_path)
    (tree.data / "rootfs/native").mkdir(parents=True)
    tree.records(hex64("cid"), "web", "native")
    host = msgspec.structs.replace(tree.usual, containerd=encode(str(daemon.root)))
    (container,) = tree.described().values()
    container = msgspec.structs.replace(container, id="cid")
    assert docker.base(container, tree.roots, host) == top
    daemon.meta.write_bytes(b"none")
    assert snapshots.base(described["web"], daemon.roots) == ""
    assert docker.base(container, tree.roots, host) == ""


# All of them


def test_the_layer_in_the_own_store_comes_first(tmp_path: Path) -> None:
    """Of two stores that have an image, a container is on the layer in its own."""
    one, two = Storage(tmp_path / "one", "vfs"), Storage(tmp_path / "two", "vfs")
    one.image("base", "top")
    (base, top) = two.image("base", "top")
    two.container("web", two.layer("own", top))
    roots = Roots(places=(*one.roots.places, *two.roots.places), environ={})
    layers = image_layers(roots)
    (container,) = list_containers(roots)
    found = base_of(container, layers, roots)
    assert found
    assert found.path == f"{two.home}/{top}"
    assert base_of(container, layers[:2], roots) == layers[1]
    assert base_of(container, (), roots) is None
    assert base_of(msgspec.structs.replace(container, engine="runc"), layers, roots) is None
    assert base_of(msgspec.structs.replace(container, id=base), layers, roots) is None


def test_a_pile_is_whole_or_none() -> None:
    """The layers below one are those that make its chain id, wherever each of them is."""
    diff_ids = [diff_id(number) for number in range(4)]
    known = [
        msgspec.structs.replace(layer(f"/{number}"), diff_id=diff, chain_id=chain)
        for number, (diff, chain) in enumerate(zip(diff_ids, chain_ids(diff_ids), strict=True))
    ]
    shuffled = [known[2], layer("/other"), known[0], known[3], known[1]]
    assert pile(known[3], shuffled) == tuple(known)
    assert pile(known[0], ()) == (known[0],)
    assert pile(known[3], [known[2], known[0]]) == ()
    assert pile(msgspec.structs.replace(known[3], chain_id=""), known) == ()


def test_places_and_the_engine_are_respected(tmp_path: Path) -> None:
    """Of places that are named all engines tell what is theirs; one alone only its own."""
    tree, graph, daemon = Docker(tmp_path), Storage(tmp_path / "storage"), Daemon(tmp_path)
    tree.image("vfs", 1)
    graph.image("base")
    image(daemon, "base", "top")
    daemon.write()
    places = (*tree.roots.places, *graph.roots.places, *daemon.roots.places)
    roots = Roots(places=places, environ={})

    def engines(engine: str = "") -> list[str]:
        found = image_layers(msgspec.structs.replace(roots, engine=engine))
        return [each.engine for each in found]

    assert engines() == ["docker", "containerd", "containerd", "podman"]
    assert engines("docker") == ["docker"]
    assert engines("containerd") == ["containerd"] * 2
    assert engines("crio") == ["crio"]
    assert engines("runc") == []
    assert image_layers(Roots()) == ()
    with pytest.raises(UsageError, match="no engine is called nobody"):
        engines("nobody")


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(chance=st.data())
def test_nothing_is_raised_for_any_damage(stores: Roots, chance: st.DataObject) -> None:
    """Whatever becomes of a file, other stores have their layers, and nothing is raised."""
    whole = {engine: _of(engine, image_layers(stores)) for engine in ("docker", "podman")}
    assert all(whole.values())
    top = Path(fsdecode(stores.places[0].data)).parent
    files = sorted(each for each in top.rglob("*") if each.is_file())
    file = chance.draw(st.sampled_from(files))
    content = file.read_bytes()
    try:
        _damage(file, content, chance)
        found = image_layers(stores)
    finally:
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
        file.write_bytes(content)
    for engine, layers in whole.items():
        if f"/{engine}/" not in f"{file}/":
            assert _of(engine, found) == layers


def _of(engine: str, layers: Sequence[ImageLayer]) -> list[ImageLayer]:
    return [each for each in layers if each.engine == engine]


def _damage(file: Path, content: bytes, chance: st.DataObject) -> None:
    """Make something else of a file."""
    kind = chance.draw(st.sampled_from(["flip", "cut", "other", "none", "fifo", "link", "tree"]))
    at = chance.draw(st.integers(0, max(0, len(content) - 1)))
    if kind == "flip":
        file.write_bytes(content[:at] + chance.draw(st.binary(max_size=4)) + content[at + 1 :])
    elif kind == "cut":
        file.write_bytes(content[:at])
    elif kind == "other":
        words = [b"", b"null", b"[null]", b"{}", b"[" * 5000, b"../x", b"sha256:x", b"\0\xff\n"]
        file.write_bytes(chance.draw(st.sampled_from(words)))
    else:
        file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to("/etc/passwd")
    elif kind == "tree":
        file.mkdir()


@pytest.fixture
def stores(tmp_path: Path) -> Roots:
    """Give roots of a store of each engine, each in a directory of its name."""
    tree, graph = Docker(tmp_path / "docker"), Storage(tmp_path / "podman")
    daemon = Daemon(tmp_path, "containerd")
    tree.image("overlay2", 3)
    tree.image("vfs", 2)
    graph.image("base", "middle", "top")
    image(daemon, "base", "top")
    image(daemon, "base", "other", namespace="k8s.io", snapshotter="native")
    daemon.write()
    here = Place(data=encode(str(tmp_path / "none")))
    places = (here, *tree.roots.places, *graph.roots.places, *daemon.roots.places)
    return Roots(places=places, environ={})


def test_damages_are_told_by_engine(tmp_path: Path) -> None:
    """A survey has what could not be read beside the layers, each once."""
    tree, graph = Docker(tmp_path), Storage(tmp_path / "storage")
    _, (top, base) = tree.image("vfs", 2)
    graph.image("base")
    graph.list_of("layers").write_text("{}")
    (tree.data / "vfs/dir" / top).rmdir()
    places = (*tree.roots.places, *graph.roots.places, *tree.roots.places)
    found = survey_layers(Roots(places=places, environ={}))
    assert [each.path for each in found.layers] == [encode(str(tree.data / "vfs/dir" / base))]
    assert [engine for engine, _ in found.damages] == ["docker", "podman"]


def test_directories_are_identified_by_their_paths() -> None:
    """What is none of the layers is none; of two with one path the first counts."""
    one, two, again = layer("/a/1"), layer("/a/2", word="two"), layer("/a/1", word="again")
    paths = [KPath("/a/2"), KPath("/a/3"), KPath("/a/1"), KPath("/a/2")]
    assert identify(paths, [one, two, again]) == (two, None, one, two)
    assert identify([], [one]) == ()
    assert identify(paths, []) == (None,) * 4


def test_directories_are_identified_however_they_are_spelled(tmp_path: Path) -> None:
    """By device and inode a link is what it leads to, and what is not there is nothing."""
    (tmp_path / "layer").mkdir()
    (tmp_path / "link").symlink_to("layer")
    (tmp_path / "other").mkdir()
    one = layer(str(tmp_path / "layer"))
    gone = layer(str(tmp_path / "gone"), word="gone")
    paths = [encode(str(tmp_path / name)) for name in ("link", "layer", "other", "gone")]
    assert identify_opened(paths, [gone, one]) == (one, one, None, None)
    assert identify(paths, [gone, one]) == (None, one, None, gone)


def test_nothing_of_it_is_loaded_with_the_engines() -> None:
    """`mountcr plan` and `ls` import none of the modules that find image layers."""
    words = "import sys, mountcr.cli, mountcr.engines; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", words], capture_output=True, check=True)
    names = loaded.stdout.decode().split()
    assert not [each for each in names if each.endswith(("imagelayers", "engines.docker.images"))]
    assert "mountcr.engines" in names
