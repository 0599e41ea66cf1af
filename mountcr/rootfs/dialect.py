# SPDX-License-Identifier: Apache-2.0
"""
Dialects: how a union file system writes down what a layer removes, hides and moves.

A dialect reads a tree as a layer and spells entries of the normal form in its own marks. It opens
nothing but what the tree gives it. Other distributions offer more in the entry-point group
`mountcr.dialects`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

from mountcr.errors import RefusedError, UsageError
from mountcr.plugins import offered

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mountcr.model import InodeType
    from mountcr.rootfs.inode import Inode
    from mountcr.rootfs.tree import Tree

__all__ = [
    "Dialect",
    "Entry",
    "Layer",
    "Listing",
    "Marked",
    "Raw",
    "dialects",
    "get_dialect",
    "refuse_opaque_root",
]

GROUP: Final = "mountcr.dialects"


class Listing(NamedTuple):
    """
    What a layer says of a directory: names that it has, and names below that it removes.

    A name can be in both: it is then there, and hides what lies below as if it were opaque.
    `passed` are directories that the layer does not have, but removes names in; it may have
    something else of that name.
    """

    names: Mapping[bytes, InodeType]
    removed: frozenset[bytes] = frozenset()
    passed: frozenset[bytes] = frozenset()


class Marked(NamedTuple):
    """
    An inode as a layer means it, without the marks, and what the marks said.

    `opaque`: nothing below shows through the directory. `redirect`: what lies below is found there
    instead of at the own path: absolute (with a leading slash) or another name in the same
    directory. `metacopy`: the content is that of the file below. `linked`: the file below had hard
    links, and all of them are this one now; of the root: the layer may have such files. `origin`:
    the number of the inode below that a linked one was copied from, 0 where nothing tells.
    `blocks`: what is no directory hides further ones below it from a directory above it. `follows`:
    what a symbolic link leads to shows in a directory above it.
    """

    inode: Inode
    opaque: bool = False
    redirect: bytes | None = None
    metacopy: bool = False
    linked: bool = False
    origin: int = 0
    blocks: bool = True
    follows: bool = False


class Entry(NamedTuple):
    """
    What a layer has at a path, in the normal form.

    `inode` is None for what it removes. `opaque` is a directory that shows nothing from below.
    `link` is the path of an earlier entry that this is a hard link of. `source` is the tree and
    the path there that have the content of a regular file.
    """

    path: bytes
    inode: Inode | None
    opaque: bool = False
    link: bytes | None = None
    source: tuple[Tree, bytes] | None = None


class Raw(NamedTuple):
    """
    An inode to be stored as it is: an entry in the marks of a dialect.

    Parents that no entry made are made as directories of mode 0755. `content` tells that the
    content of the entry goes into it; without, a regular file is empty. `link` is the path of an
    earlier one that it becomes a hard link of.
    """

    path: bytes
    inode: Inode
    content: bool = False
    link: bytes | None = None


class Layer(Protocol):
    """A tree, read by a dialect."""

    tree: Tree

    def listing(self, path: bytes) -> Listing:
        """Say what the layer has and removes in a directory of its tree."""
        ...

    def inode(self, path: bytes) -> Marked | None:
        """Give the inode at a path of the tree, as it is meant; None where none is there."""
        ...


class Dialect(Protocol):
    """The marks of a union file system."""

    @property
    def name(self) -> str:
        """What it is called on the command line and in plans."""
        ...

    def layer(self, tree: Tree) -> Layer:
        """Read a tree as a layer."""
        ...

    def begin(self) -> Iterable[Raw]:
        """Give what a new layer has before anything else, beneath its root."""
        ...

    def encode(self, entry: Entry) -> Iterable[Raw]:
        """
        Spell an entry; the one with its content, if any, comes first.

        Raises RefusedError, naming the path, for what the dialect cannot say or would mistake for
        a mark of its own.
        """
        ...


def dialects() -> dict[str, Dialect]:
    """Give every dialect by name: the built-in ones, then what other distributions offer."""
    return dict(_loaded())


@functools.cache
def _loaded() -> dict[str, Dialect]:
    from mountcr.rootfs.dialects.aufs import Aufs
    from mountcr.rootfs.dialects.fuse_overlayfs import FuseOverlayfs
    from mountcr.rootfs.dialects.oci import Oci
    from mountcr.rootfs.dialects.overlay import Overlay
    from mountcr.rootfs.dialects.unionfs import ClassicUnionfs
    from mountcr.rootfs.dialects.unionfs_fuse import UnionfsFuse
    from mountcr.rootfs.dialects.vfs import Vfs

    built_in: tuple[Dialect, ...] = (
        Vfs(),
        Overlay(),
        Overlay("user"),
        Aufs(),
        Aufs(whiteouts=False),
        UnionfsFuse(),
        UnionfsFuse(b".unionfs-fuse"),
        ClassicUnionfs(),
        FuseOverlayfs(),
        Oci(),
    )
    found: dict[str, Dialect] = {each.name: each for each in built_in}
    for name, loaded in offered(GROUP):
        if callable(loaded):
            found[name] = cast("Dialect", loaded())
    return found


def get_dialect(name: str) -> Dialect:
    """Give a dialect by name. Raises UsageError listing the names there are."""
    known = dialects()
    if name not in known:
        msg = f"no dialect of layers is called {name!r}"
        raise UsageError(msg, hint=f"dialects: {', '.join(sorted(known))}")
    return known[name]


def refuse_opaque_root(entry: Entry, dialect: str) -> None:
    """Raise RefusedError for a root that shows nothing from below, which few dialects can say."""
    if entry.opaque and not entry.path:
        msg = f"the root of the layer hides all that lies below, which {dialect} cannot say"
        raise RefusedError(msg, hint="name the layers below, so that each name is hidden: --lower")
