# SPDX-License-Identifier: Apache-2.0
"""What an archive lacks of a container whose layers are here, and how its own layer is read."""

from __future__ import annotations

import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from archives import unpacked
from mountcr.bundle.foreign.checkpoint import DiffForm, ForeignCheckpoint, Format, RootfsDiff
from mountcr.bundle.foreign.losses import find_losses
from mountcr.bundle.foreign.podman import removed_paths
from mountcr.bundle.foreign.rootfs import opened_layer, written_entries
from mountcr.errors import DocumentError, RefusedError
from mountcr.paths import KPath, encode
from mountcr.rootfs.tarwriter import write_tar
from mountcr.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path

TIME = 1_600_000_000


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """
    Make the layers of an overlay.

    In the writable one are a new file with a second name, a changed file, a file and a directory
    with other modes, a removed file, an opaque directory and a new link.
    """
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for path in ("etc", "data", "hidden", "same"):
        (lower / path).mkdir(parents=True)
    for path in ("etc/changed", "etc/mode", "etc/removed", "data/kept", "hidden/one"):
        (lower / path).write_text("of the image\n")
    for path in ("etc", "data", "hidden"):
        (upper / path).mkdir(parents=True)
    (upper / "data").chmod(0o711)
    (upper / "etc/changed").write_text("of the container\n")
    (upper / "etc/mode").write_text("of the image\n")
    (upper / "etc/mode").chmod(0o600)
    (upper / "etc/new").write_text("new\n")
    os.link(upper / "etc/new", upper / "etc/second")
    os.symlink("new", upper / "etc/link")
    os.mknod(upper / "etc/removed", 0o020000, os.makedev(0, 0))
    os.setxattr(upper / "hidden", "trusted.overlay.opaque", b"y")
    for each in (*lower.rglob("*"), *upper.rglob("*")):
        os.utime(each, (TIME, TIME), follow_symlinks=False)
    return Stack(
        driver="overlay",
        lowers=(encode(str(lower)),),
        upper=encode(str(upper)),
        work=encode(str(tmp_path / "work")),
    )


def archive(tmp_path: Path, names: list[str], removed: list[str]) -> ForeignCheckpoint:
    """Write what podman would of the writable layer, had it taken some names only."""
    top = tmp_path / "archive"
    top.mkdir()
    with tarfile.open(top / "rootfs-diff.tar", "w") as tar:
        for name in names:
            tar.add(tmp_path / "upper" / name, name, recursive=False)
    (top / "deleted.files").write_text(json.dumps(removed))
    diff = RootfsDiff(
        member=KPath("rootfs-diff.tar"),
        form=DiffForm.DIFF,
        removed=removed_paths(unpacked(top)),
    )
    return ForeignCheckpoint(format=Format.PODMAN, engine="podman", id="x", rootfs=diff)


def losses(tmp_path: Path, checkpoint: ForeignCheckpoint, stack: Stack) -> dict[str, str]:
    found = find_losses(checkpoint, unpacked(tmp_path / "archive"), stack)
    return {each.path: each.what for each in found}


EVERYTHING = ["etc/changed", "etc/mode", "etc/new", "etc/second", "etc/link"]
REMOVED = ["/etc/removed", "/hidden/one"]


@pytest.mark.requires("root", "overlay")
def test_all_that_podman_can_store_is_there(tmp_path: Path, stack: Stack) -> None:
    """Of an archive with every file and removal, only the mode of a directory is missing."""
    found = losses(tmp_path, archive(tmp_path, EVERYTHING, REMOVED), stack)
    what = "not in the archive, so the image's shows: mode 0755, it had 0711"
    assert found == {"/data": what}


@pytest.mark.requires("root", "overlay")
def test_what_podman_lost_is_named(tmp_path: Path, stack: Stack) -> None:
    """A changed file that is left out, a removal and an opaque directory are named, each once."""
    found = losses(tmp_path, archive(tmp_path, ["etc/new", "etc/second", "etc/link"], []), stack)
    assert found.keys() == {"/data", "/etc/changed", "/etc/mode", "/etc/removed", "/hidden/one"}
    assert found["/etc/changed"].startswith("not in the archive, so the image's shows: size 13")
    assert "mode 0644, it had 0600" in found["/etc/mode"]
    assert found["/etc/removed"] == "not removed in the archive"


@pytest.mark.requires("root", "overlay")
def test_other_contents_are_told(tmp_path: Path, stack: Stack) -> None:
    """A file of the archive with other bytes of the same size is told, unless none is read."""
    checkpoint = archive(tmp_path, EVERYTHING, REMOVED)
    file = tmp_path / "upper/etc/changed"
    file.write_text("of the CONTAINER\n")
    os.utime(file, (TIME, TIME))
    assert losses(tmp_path, checkpoint, stack)["/etc/changed"] == "content"
    quick = find_losses(checkpoint, unpacked(tmp_path / "archive"), stack, contents=False)
    assert [each.path for each in quick] == ["/data"]


@pytest.mark.requires("root")
def test_a_plain_root_tells_nothing(tmp_path: Path) -> None:
    """What was changed in a root without layers nobody can tell."""
    (tmp_path / "root").mkdir()
    (tmp_path / "upper").mkdir()
    checkpoint = archive(tmp_path, [], [])
    with pytest.raises(RefusedError, match="is not known"):
        losses(tmp_path, checkpoint, Stack(driver="vfs", upper=encode(str(tmp_path / "root"))))


@pytest.mark.requires("root", "overlay")
def test_a_diff_becomes_a_layer(tmp_path: Path, stack: Stack) -> None:
    """A diff and its list become an OCI layer: with whiteouts, without directories it implies."""
    checkpoint = archive(tmp_path, EVERYTHING, [*REMOVED, "/gone/deep/file", "/etc/link"])
    assert checkpoint.rootfs is not None
    file = io.BytesIO()
    with opened_layer(checkpoint.rootfs, unpacked(tmp_path / "archive")) as layer:
        write_tar(written_entries(layer, root_mode=0o555), file)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        members = {each.name: each for each in tar}
    assert members.keys() == {
        "", "etc/changed", "etc/mode", "etc/new", "etc/second", "etc/link", "etc/.wh.removed",
        "hidden/.wh.one", "gone/deep/.wh.file",
    } or members.keys() == {
        ".", "etc/changed", "etc/mode", "etc/new", "etc/second", "etc/link", "etc/.wh.removed",
        "hidden/.wh.one", "gone/deep/.wh.file",
    }  # fmt: skip
    root = next(each for name, each in members.items() if name in {"", "."})
    assert root.mode == 0o555
    assert members["etc/second"].islnk()
    assert stack.upper


def test_a_diff_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Where an archive lacks its diff, that is said by name."""
    (tmp_path / "upper").mkdir()
    checkpoint = archive(tmp_path, [], [])
    assert checkpoint.rootfs is not None
    (tmp_path / "archive/rootfs-diff.tar").unlink()
    opened = opened_layer(checkpoint.rootfs, unpacked(tmp_path / "archive"))
    with pytest.raises(DocumentError, match=r"rootfs-diff\.tar: is missing"), opened:
        pass
