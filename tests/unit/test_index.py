# SPDX-License-Identifier: Apache-2.0
"""What only the index of an overlay has a name for is shown by the names that are left below."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.driver import get_driver
from mountcr.paths import KPath
from mountcr.rootfs.changes import changes
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.dialects.vfs import Vfs
from mountcr.rootfs.index import with_index
from mountcr.rootfs.view import View
from mountcr.stack import Stack
from trees_in_memory import DEVICE, MemoryTree, directory, everything_in, file, read

if TYPE_CHECKING:
    from mountcr.rootfs.inode import Inode

OVERLAY: Final = get_dialect("overlay")


def origin(tree: MemoryTree, path: bytes) -> bytes:
    """Give the mark of a file that was copied from one of a tree, as from one on xfs."""
    inode = tree.inode(path)
    assert inode is not None
    header = bytes([0, 0xFB, 33, 0, 0x81]) + bytes(16)
    return header + struct.pack("<QI", inode.identity[1], 1)


def copied(tree: MemoryTree, path: bytes) -> Inode:
    """Give the inode of a copy of a hard link, as it is in the index."""
    return file(trusted__overlay__nlink=b"U-1", trusted__overlay__origin=origin(tree, path))


def lower() -> MemoryTree:
    """A file of three names, one of them in a directory of its own."""
    tree = MemoryTree({b"a": (file(), b"old"), b"x": (file(), b"x")})
    tree.link(b"b", b"a")
    tree.link(b"c/d/e", b"a")
    return tree


def indexed(upper: MemoryTree, index: MemoryTree, below: MemoryTree) -> View:
    """Give what these show."""
    view = View([OVERLAY.layer(upper), Vfs().layer(below)])
    return with_index(view, OVERLAY.layer(index))


def test_the_other_names_show_what_was_changed() -> None:
    """All of them are one file, also those in directories that the layer does not have."""
    below = lower()
    index = MemoryTree({b"00fb": (copied(below, b"a"), b"new"), b"gone": DEVICE, b"d": directory()})
    upper = MemoryTree({b"a": DEVICE, b"b": DEVICE})
    view = indexed(upper, index, below)
    assert everything_in(view)[b"c/d/e"][1] == b"new"
    found = {each.path: each for each in changes(view.layers[0], view.below())}
    assert list(found) == [b"", b"a", b"b", b"c", b"c/d", b"c/d/e"]
    assert read(found[b"c/d/e"]) == b"new"


def test_several_names_are_links_of_each_other() -> None:
    """The first that is left stands for the others."""
    below = lower()
    index = MemoryTree({b"00fb": (copied(below, b"a"), b"new")})
    view = indexed(MemoryTree({b"a": DEVICE}), index, below)
    shown = everything_in(view)
    assert [shown[path][1] for path in (b"b", b"c/d/e", b"x")] == [b"new", b"new", b"x"]
    found = {each.path: each for each in changes(view.layers[0], view.below())}
    assert found[b"c/d/e"].link == b"b"


def test_what_has_a_name_in_the_layer_or_shows_nowhere() -> None:
    """Entries that are links of something, or copies of what no name is left of, are no files."""
    below = lower()
    index = MemoryTree({b"00fb": (copied(below, b"a"), b"new")})
    index.link(b"other", b"00fb")
    view = View([OVERLAY.layer(MemoryTree()), Vfs().layer(below)])
    assert with_index(view, OVERLAY.layer(index)) is view
    gone = MemoryTree(dict.fromkeys((b"a", b"b", b"c"), DEVICE))
    nameless = MemoryTree({b"00fb": (copied(below, b"a"), b"new")})
    hidden = View([OVERLAY.layer(gone), Vfs().layer(below)])
    assert with_index(hidden, OVERLAY.layer(nameless)) is hidden


def test_where_the_driver_says_that_it_is() -> None:
    """In the work directory, with the options that make the kernel keep one."""
    stack = Stack(driver="overlay", lowers=(KPath("/l"),), upper=KPath("/u"), work=KPath("/w"))
    driver = get_driver("overlay")
    assert [each.index for each in driver.layers(stack)] == [None, None]
    for option in ("index=on", "nfs_export=on"):
        indexing = msgspec.structs.replace(stack, options=(option,))
        assert [each.index for each in driver.layers(indexing)] == ["/w/index", None]
