# SPDX-License-Identifier: Apache-2.0
"""Laws of trees, on tables made by mounting at random as a kernel would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given

from mountcr import paths
from mountcr.graph.tree import MountTree
from mountcr.paths import KPath
from strategies import PLACES, tables, tmpfs

if TYPE_CHECKING:
    from mountcr.model import Mount


@given(tables())
def test_what_was_mounted_last_at_a_path_is_on_top(mounts: list[Mount]) -> None:
    """Unless something was mounted above it later, a path leads to the last mount there."""
    tree = MountTree(mounts)
    for number, mount in enumerate(mounts):
        later = mounts[number + 1 :]
        covered = any(paths.is_beneath(mount.mountpoint, each.mountpoint) for each in later)
        assert tree.hidden(mount) == covered


@given(tables())
def test_the_order_of_lines_does_not_matter(mounts: list[Mount]) -> None:
    """Newer kernels list mounts by id, older ones by tree; a tree is the same."""
    ours, theirs = MountTree(mounts), MountTree(reversed(mounts))
    for mount in mounts:
        assert ours.lies_on(mount.mountpoint) == theirs.lies_on(mount.mountpoint)
        assert ours.hidden(mount) == theirs.hidden(mount)
    assert {each.id for each in theirs.walk()} == {each.id for each in mounts}


@given(tables())
def test_order_is_a_topological_one(mounts: list[Mount]) -> None:
    """Every mount once, none before its parent, also from a table that is upside down."""
    tree = MountTree(reversed(mounts))
    order = list(tree.walk())
    assert sorted(each.id for each in order) == [each.id for each in mounts]
    seen: set[int] = set()
    for mount in order:
        assert mount.parent in seen or mount is tree.root
        seen.add(mount.id)


@given(tables(), PLACES)
def test_path_of_leads_there(mounts: list[Mount], place: KPath) -> None:
    """The path lies on a mount of the same device, and is what the mount shows."""
    tree = MountTree(mounts)
    wanted = tmpfs(99, 98, KPath("/x"), root=place)
    path = tree.path_of(wanted)
    if path is None:
        return
    lies = tree.lies_on(path)
    assert lies is not None
    assert lies.dev == wanted.dev
    assert paths.rebase(path, lies.mountpoint, lies.root) == place


@given(tables())
def test_a_mount_that_can_be_reached_has_a_path(mounts: list[Mount]) -> None:
    """None is only for what is hidden everywhere."""
    tree = MountTree(mounts)
    for mount in mounts:
        if not tree.hidden(mount):
            assert tree.path_of(mount) is not None
