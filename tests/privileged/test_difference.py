# SPDX-License-Identifier: Apache-2.0
"""What a copy changed of the tree it was made from is found by comparing both."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from mountcr.paths import encode
from mountcr.rootfs.changes import everything
from mountcr.rootfs.difference import difference
from mountcr.rootfs.fingerprint import layer_digest
from mountcr.rootfs.opened import opened
from mountcr.rootfs.tarwriter import write_tar
from mountcr.rootfs.tree import DirectoryTree
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.privileged, pytest.mark.any_kernel]


def base(top: Path) -> Path:
    """A small root file system with one name of each kind."""
    root = top / "base"
    for name in ("etc", "var/deep/er", "usr/bin"):
        (root / name).mkdir(parents=True)
    for name in ("etc/a", "etc/b", "var/deep/er/c", "usr/bin/tool"):
        (root / name).write_text(f"{name}\n")
    os.link(root / "etc/a", root / "etc/a2")
    os.symlink("a", root / "etc/link")
    os.mkfifo(root / "var/pipe")
    os.setxattr(root / "etc/b", "user.name", b"value")
    os.chown(root / "var/deep/er/c", 12, 34)
    return root


def changed(root: Path, top: Path) -> Path:
    """A copy as drivers make it, with something of every kind changed."""
    copy = top / "copy"
    subprocess.run(["cp", "-a", root, copy], check=True)
    times = os.stat(copy / "usr/bin/tool")
    (copy / "usr/bin/tool").write_text("usr/bin/TOOL\n")
    os.utime(copy / "usr/bin/tool", ns=(times.st_atime_ns, times.st_mtime_ns))
    (copy / "etc/b").unlink()
    shutil.rmtree(copy / "var/deep/er")
    (copy / "var/deep/er").write_text("a file now\n")
    (copy / "new/dir").mkdir(parents=True)
    (copy / "new/dir/file").write_text("new\n")
    os.link(copy / "etc/a", copy / "new/a3")
    (copy / "var/pipe").chmod(0o600)
    return copy


def paths(entries: object) -> dict[str, bool]:
    """Give the paths of entries, and whether each is there."""
    return {each.path.decode(): each.inode is not None for each in entries}  # type: ignore[attr-defined]


def test_only_what_changed_is_given(tmp_path: Path) -> None:
    """A file with the same size and times, but another content, is one of them."""
    root = base(tmp_path)
    copy = changed(root, tmp_path)
    with DirectoryTree(encode(str(copy))) as tree, DirectoryTree(encode(str(root))) as other:
        found = paths(difference(tree, other))
    assert found.pop("")
    directories = {"etc", "var", "var/deep"}  # their times, as names were made or removed in them
    assert {each: there for each, there in found.items() if each not in directories} == {
        "etc/a": True,
        "etc/a2": True,
        "etc/b": False,
        "new": True,
        "new/a3": True,
        "new/dir": True,
        "new/dir/file": True,
        "usr/bin/tool": True,
        "var/deep/er": True,
        "var/pipe": True,
    }


def test_the_difference_as_a_layer_makes_the_copy_of_the_base(tmp_path: Path) -> None:
    """Written as a tar and read over the base, it shows the copy, by the digest of all."""
    root = base(tmp_path)
    copy = changed(root, tmp_path)
    layer = tmp_path / "layer.tar"
    with DirectoryTree(encode(str(copy))) as tree, DirectoryTree(encode(str(root))) as other:
        with layer.open("wb") as file:
            write_tar(difference(tree, other), file)
        wanted = layer_digest(everything(tree))
    stack = (
        StoredLayer(path=encode(str(layer)), dialect="oci"),
        StoredLayer(path=encode(str(root)), dialect="vfs"),
    )
    with opened(stack) as view:
        assert layer_digest(everything(view)) == wanted


def test_nothing_changed_is_the_root_alone(tmp_path: Path) -> None:
    """Files with several names are given too, as nobody looks for which they are in the base."""
    root = base(tmp_path)
    copy = tmp_path / "same"
    subprocess.run(["cp", "-a", root, copy], check=True)
    with DirectoryTree(encode(str(copy))) as tree, DirectoryTree(encode(str(root))) as other:
        assert paths(difference(tree, other)) == {"": True, "etc/a": True, "etc/a2": True}
