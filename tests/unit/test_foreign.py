# SPDX-License-Identifier: Apache-2.0
"""What archives of other tools are taken for, what is read of them, and what of them is refused."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from archives import CONTAINERD, PODMAN, copied, cri_of_containerd, crio, edited, unpacked
from mountcr.bundle.foreign import Format, read_checkpoint, recognise
from mountcr.bundle.foreign.checkpoint import DiffForm
from mountcr.errors import DocumentError
from mountcr.model import InodeType
from mountcr.paths import KPath

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def podman(tmp_path: Path) -> Path:
    """Give a copy of a recorded archive of podman."""
    return copied(PODMAN, tmp_path / "podman")


# --- Whose it is ----------------------------------------------------------------------------------


def test_archives_are_told_by_what_is_in_them(tmp_path: Path) -> None:
    """An archive of podman, CRI-O, containerd's CRI or `ctr` is told by its members alone."""
    made = {
        Format.PODMAN: PODMAN,
        Format.CRIO: crio(tmp_path / "a"),
        Format.CONTAINERD_CRI: cri_of_containerd(tmp_path / "b"),
        Format.CONTAINERD_IMAGE: CONTAINERD,
    }
    assert {recognise(unpacked(path)) for path in made.values()} == set(made)
    assert all(recognise(unpacked(path)) is name for name, path in made.items())


def test_an_image_without_a_checkpoint_is_none(tmp_path: Path) -> None:
    """An OCI layout of an ordinary image, and an empty directory, are no checkpoints."""
    index = {"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
                            "digest": "sha256:" + "0" * 64}]}  # fmt: skip
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert recognise(unpacked(tmp_path)) is None
    with pytest.raises(DocumentError, match="no checkpoint of podman"):
        read_checkpoint(unpacked(tmp_path))


# --- What is read ---------------------------------------------------------------------------------


def test_podman() -> None:
    """Of podman's archive come the container, its image, its binds, what was removed, its shm."""
    found = read_checkpoint(unpacked(PODMAN))
    assert (found.engine, found.name, found.image) == (
        "podman", "foreignct", "localhost/mountcr-live:1",
    )  # fmt: skip
    assert found.image_id.startswith("21c48dac7078")
    assert found.images == "checkpoint"
    assert found.shm == "devshm-checkpoint.tar"
    assert found.rootfs is not None
    assert (found.rootfs.form, found.rootfs.removed) == (DiffForm.DIFF, ("/etc/motd",))
    binds = {each.destination: each for each in found.binds}
    assert binds.keys() == {
        "/data/vol", "/dev/shm", "/etc/hostname", "/etc/hosts", "/run/.containerenv",
    }  # fmt: skip
    assert binds[KPath("/etc/hosts")].type is InodeType.FILE
    assert found.standard_streams[0] == "/dev/null"
    assert found.dropped == ()


def test_crio_tells_the_types_of_binds(tmp_path: Path) -> None:
    """`bind.mounts` says of a source whether it was a file, and its mode; the name is the pod's."""
    found = read_checkpoint(unpacked(crio(tmp_path / "archive")))
    bind = next(each for each in found.binds if each.destination == "/data/vol")
    assert (bind.type, bind.mode) == (InodeType.DIRECTORY, 0o755)
    assert (found.name, found.image_digests) == ("counter", ("sha256:" + "5e" * 32,))


def test_containerds_cri_writes_a_layer(tmp_path: Path) -> None:
    """The diff of containerd's CRI is an OCI layer, which has its own whiteouts."""
    found = read_checkpoint(unpacked(cri_of_containerd(tmp_path / "archive")))
    assert found.rootfs is not None
    assert found.rootfs.form is DiffForm.LAYER
    assert (found.name, found.image) == ("counter", "localhost/mountcr-live:1")


def test_a_checkpoint_image() -> None:
    """Of an image of `ctr` come the configuration, the writable layer and the tar of images."""
    found = read_checkpoint(unpacked(CONTAINERD))
    assert (found.id, found.image) == ("foreignct", "localhost/mountcr-live:1")
    assert found.images_in_tar
    assert found.images is not None
    assert found.rootfs is not None
    assert found.rootfs.form is DiffForm.LAYER
    assert [each.destination for each in found.binds] == ["/data/vol"]


def test_named_volumes(podman: Path) -> None:
    """A named volume of podman is told with where it was, and the tar that has its content."""
    volume = {"volumeName": "data", "dest": "/data/vol", "options": None}
    edited(podman / "config.dump", {"namedVolumes": [volume]})
    (podman / "volumes").mkdir()
    (podman / "volumes/data.tar").write_bytes(b"")
    found = read_checkpoint(unpacked(podman)).volumes[0]
    assert (found.name, found.destination, found.member) == (
        "data", "/data/vol", "volumes/data.tar",
    )  # fmt: skip


# --- What is dropped ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("hooks", {"prestart": [{"path": "/bin/evil"}]}, "hooks.prestart[0]"),
        ("linux.devices", [{"path": "/dev/sda", "type": "b"}], "linux.devices[0]"),
        ("annotations", {"cdi.k8s.io/gpu": "nvidia.com/gpu=0"}, "annotations.cdi.k8s.io/gpu"),
        ("annotations", {"org.criu.config": "/etc/x"}, "annotations.org.criu.config"),
        ("linux.rootfsPropagation", "rshared", "linux.rootfsPropagation"),
        ("linux.seccomp.listenerPath", "/run/x.sock", "linux.seccomp.listenerPath"),
        (
            "linux.namespaces",
            [{"type": "network", "path": "/proc/1/ns/net"}],
            "linux.namespaces[0].path",
        ),
    ],
)
def test_what_would_give_more_is_dropped_and_named(
    podman: Path, field: str, value: object, told: str
) -> None:
    """Hooks, devices, CDI, CRIU's configuration and paths of namespaces are named and dropped."""
    edited(podman / "spec.dump", {field: value})
    found = read_checkpoint(unpacked(podman))
    assert [each.field for each in found.dropped] == [f"spec.dump: {told}"]
    assert found.dropped[0].value


def test_podmans_own_configuration_is_dropped_too(podman: Path) -> None:
    """Devices by CDI, and hooks in the configuration that podman makes the runtime's of."""
    hooks = {"poststop": [{"path": "/bin/evil"}]}
    edited(podman / "config.dump", {"CDIDevices": ["x.com/y=z"], "spec.hooks": hooks})
    found = read_checkpoint(unpacked(podman))
    assert [each.field for each in found.dropped] == [
        "config.dump: CDIDevices[0]",
        "config.dump: spec.hooks.poststop[0]",
    ]


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../etc/passwd", "etc/passwd", "/a/../../b", "/", "", "/x\0"])
def test_a_removal_outside_is_refused(podman: Path, path: str) -> None:
    """A removed path that leads out of the root, or is the root, is refused by its number."""
    (podman / "deleted.files").write_text(json.dumps(["/fine", path]))
    with pytest.raises(DocumentError, match=r"deleted\.files: \[1\]"):
        read_checkpoint(unpacked(podman))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "../../x"),
        ("id", ""),
        ("id", 7),
        ("name", "a/b"),
        ("namedVolumes", [{"volumeName": "../x", "dest": "/v"}]),
        ("namedVolumes", [{"volumeName": "x", "dest": "../v"}]),
        ("namedVolumes", {"a": 1}),
        ("labels", []),
    ],
)
def test_a_wrong_field_is_named(podman: Path, field: str, value: object) -> None:
    """A field of another type, or a name that leads elsewhere, is refused and named."""
    edited(podman / "config.dump", {field: value})
    with pytest.raises(DocumentError, match=rf"config\.dump: {field}"):
        read_checkpoint(unpacked(podman))


def test_a_destination_outside_is_refused(podman: Path) -> None:
    """A bind whose destination leads out of the root is refused."""
    mounts = [{"destination": "/a/../../etc", "type": "bind", "source": "/x"}]
    edited(podman / "spec.dump", {"mounts": mounts})
    with pytest.raises(DocumentError, match=r"spec\.dump: mounts\[0\]\.destination"):
        read_checkpoint(unpacked(podman))


@pytest.mark.parametrize("member", ["config.dump", "spec.dump"])
@pytest.mark.parametrize(
    "text",
    [
        b'{"x":' + b"[" * 200_000,
        b"\xff\xfe",
        b"{",
        b"[]",
        b'{"staticDir":"\xff","hostname":"\xff"}',
        b" " * (17 << 20),
    ],
    ids=["deep", "bytes", "cut", "list", "no-utf-8", "large"],
)
def test_bombs_and_damaged_json_are_refused(podman: Path, member: str, text: bytes) -> None:
    """JSON that is nested deep, cut, large or of another shape is refused by its member."""
    (podman / member).write_bytes(text)
    with pytest.raises(DocumentError, match=member.replace(".", r"\.")):
        read_checkpoint(unpacked(podman))


def test_links_are_not_followed(podman: Path, tmp_path: Path) -> None:
    """A member that is a symbolic link, or lies behind one, is not there."""
    outside = tmp_path / "outside"
    outside.write_bytes((podman / "spec.dump").read_bytes())
    (podman / "spec.dump").unlink()
    (podman / "spec.dump").symlink_to(outside)
    with pytest.raises(DocumentError, match=r"spec\.dump"):
        read_checkpoint(unpacked(podman))


def test_a_fifo_is_no_member(podman: Path) -> None:
    """A FIFO in the place of a member is refused at once."""
    (podman / "spec.dump").unlink()
    os.mkfifo(podman / "spec.dump")
    with pytest.raises(DocumentError, match=r"spec\.dump: is no regular file"):
        read_checkpoint(unpacked(podman))


def test_a_blob_that_is_another_one_is_refused(tmp_path: Path) -> None:
    """A blob whose content is not what its digest says is refused by its name."""
    archive = copied(CONTAINERD, tmp_path / "archive")
    blob = (
        archive
        / "blobs/sha256"
        / ("a2679366441982f3875b3b64c28282ce137cc541a59f57bfd9384de7348f7913")
    )
    blob.write_bytes(blob.read_bytes().replace(b"/data/vol", b"/data/vot"))
    with pytest.raises(DocumentError, match=r"a2679366.*digest"):
        read_checkpoint(unpacked(archive))
