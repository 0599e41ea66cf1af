# SPDX-License-Identifier: Apache-2.0
"""Names of inodes are found by a walk that ends."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import builders
from mountcr.observation.names import find_names

if TYPE_CHECKING:
    from pathlib import Path

    from mountcr.model import Mount

MOUNT = builders.mount("10 5 0:50 / / rw - tmpfs tmpfs rw")
BELOW = builders.mount("11 10 0:51 / /d rw - tmpfs tmpfs rw")


def walk(top: Path, *inodes: int, most: int = 100, mount: Mount = MOUNT) -> tuple[object, bool]:
    """Walk a directory as the root of a namespace."""
    root = os.open(top, os.O_PATH | os.O_DIRECTORY)
    try:
        return find_names(root, mount, inodes, most)
    finally:
        os.close(root)


def test_all_names_of_an_inode(tmp_path: Path) -> None:
    """Each hard link is one, by its path from the root; a symbolic link is none."""
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f g").write_text("x")
    os.link(tmp_path / "d/e/f g", tmp_path / "h")
    (tmp_path / "s").symlink_to("h")
    inode = (tmp_path / "h").stat().st_ino
    assert walk(tmp_path, inode) == ({inode: ["/h", r"/d/e/f\040g"]}, True)
    assert walk(tmp_path, inode, mount=BELOW) == ({inode: [r"/d/e/f\040g"]}, True)
    directory = (tmp_path / "d").stat().st_ino
    assert walk(tmp_path, directory) == ({directory: ["/d"]}, True)


def test_a_walk_that_is_cut(tmp_path: Path) -> None:
    """After so many names it ends, the nearest ones come first, and it says that it was cut."""
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/file").write_text(name)
    near, far = ((tmp_path / name).stat().st_ino for name in ("b", "b/deep/file"))
    assert walk(tmp_path, near, far, most=4) == ({near: ["/b"]}, False)
    found, whole = walk(tmp_path, far)
    assert (found, whole) == ({far: ["/b/deep/file"]}, True)


def test_links_lead_nowhere(tmp_path: Path) -> None:
    """A link to a directory is not walked, wherever it leads."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    assert walk(inside, (outside / "file").stat().st_ino) == ({}, True)
