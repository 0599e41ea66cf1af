# SPDX-License-Identifier: Apache-2.0
"""
The writable layer of a checkpoint, in the normal form, however its archive writes it down.

A diff of podman or CRI-O has no directory that was there before, not even above the files that it
has, so such directories are left to what lies below. Nor has it the root directory, whose mode CRIU
compares: the images have that.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from mountcr.bundle.foreign.checkpoint import DiffForm
from mountcr.paths import decode, join
from mountcr.rootfs.changes import changes
from mountcr.rootfs.dialect import Listing, Marked, get_dialect
from mountcr.rootfs.tar import TarTree

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from mountcr.bundle.foreign.checkpoint import RootfsDiff
    from mountcr.bundle.foreign.unpacked import Unpacked
    from mountcr.model import InodeType
    from mountcr.paths import KPath
    from mountcr.rootfs.dialect import Entry, Layer
    from mountcr.rootfs.tree import Tree

__all__ = ["DiffLayer", "opened_layer", "written_entries"]


class DiffLayer:
    """A tree of files that are there, and a list of paths that are removed."""

    def __init__(self, tree: Tree, removed: Iterable[KPath]) -> None:
        self.tree = tree
        self._removed: dict[bytes, set[bytes]] = {}
        self._passed: dict[bytes, set[bytes]] = {}
        for each in removed:
            parent, _, name = decode(each).strip(b"/").rpartition(b"/")
            self._removed.setdefault(parent, set()).add(name)
            while parent:
                above, _, name = parent.rpartition(b"/")
                self._passed.setdefault(above, set()).add(name)
                parent = above

    def listing(self, path: bytes) -> Listing:
        """Say what the layer has and removes in a directory."""
        inode = self.tree.inode(path)
        names: Mapping[bytes, InodeType] = {}
        if inode is not None and inode.is_directory:
            names = self.tree.entries(path)
        passed = self._passed.get(path, set()) - names.keys()
        return Listing(names, frozenset(self._removed.get(path, ())), frozenset(passed))

    def inode(self, path: bytes) -> Marked | None:
        """Give the inode as it is stored."""
        inode = self.tree.inode(path)
        return Marked(inode) if inode else None


@contextlib.contextmanager
def opened_layer(
    diff: RootfsDiff, archive: Unpacked, below: Tree | None = None
) -> Generator[Layer]:
    """
    Open the changes of a checkpoint for a block.

    `below` is what they lie on, if that is at hand. Devices are left to whoever writes the layer.
    Raises DocumentError where the archive has none, RefusedError for a tar that is not as it may
    be, OSError.
    """
    if not archive.has(diff.member):
        raise archive.wrong(diff.member, "is missing")
    with TarTree(join(archive.directory, diff.member), below) as tree:
        if diff.form is DiffForm.LAYER:
            yield get_dialect("oci").layer(tree)
        else:
            yield DiffLayer(tree, diff.removed)


def written_entries(layer: Layer, *, root_mode: int | None = None) -> Iterator[Entry]:
    """
    Give what a layer says itself, without the directories that are only implied.

    `root_mode` are the bits of permission of the root directory, if somebody knows them.
    """
    for entry in changes(layer, None):
        inode = entry.inode
        implied = inode is not None and inode.is_directory and inode.identity == (0, 0)
        if entry.path == b"" and inode is not None and root_mode is not None:
            inode = msgspec.structs.replace(inode, mode=root_mode)
            yield entry._replace(inode=inode)
        elif not implied:
            yield entry
