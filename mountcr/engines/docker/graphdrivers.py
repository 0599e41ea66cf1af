# SPDX-License-Identifier: Apache-2.0
"""
Graph drivers: from the ids of a container's layers to what its root file system is made of.

Each keeps its layers in a directory of its own below the data root, and has its own way to say
which are below another (moby daemon/graphdriver of v1.9.1, v20.10.27 and v28.5.2). What is not
known is not guessed: there is no stack then, and a damage that names the layer. A layer that is
known and has no directory any more is a damage, and the stack says what was there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.container import TornDown
from mountcr.engines.docker.directories import MISSING
from mountcr.engines.docker.layers import name_in
from mountcr.engines.docker.links import Links
from mountcr.overlayhome import is_name
from mountcr.paths import encode
from mountcr.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.engines.docker.directories import Directories
    from mountcr.engines.docker.layers import Layers
    from mountcr.engines.docker.links import Link
    from mountcr.engines.reading import Reader
    from mountcr.paths import KPath

__all__ = ["GRAPH_DRIVERS", "GraphDriver", "RootFs"]

AUFS_OPTIONS: Final = ("dio", "xino=/dev/shm/aufs.xino")
AUFS_DIRPERM: Final = "dirperm1"
"""Docker asks for it since 1.7, where the module knows it."""

GRAPH_DRIVERS: Final = frozenset(
    {"aufs", "btrfs", "devicemapper", "fuse-overlayfs", "overlay", "overlay2", "vfs", "zfs"}
)
_OF_MERGED: Final = 0o700


class RootFs(NamedTuple):
    """
    What a root file system is made of, where it is mounted or is, and what goes with it.

    `namespace` is that of containerd, whose the layers are.
    """

    stack: Stack | None
    rootfs: KPath | None
    torn_down: tuple[TornDown, ...] = ()
    namespace: str = ""


class _Tail(NamedTuple):
    """Layers below the first one, as links, as ids, and as directories."""

    links: tuple[Link, ...]
    ids: tuple[str, ...]
    lowers: tuple[KPath, ...]


class GraphDriver:
    """One graph driver of one data root; what it read of layers that are shared is kept."""

    def __init__(self, name: str, data: str, reader: Reader, directories: Directories) -> None:
        self._name = name
        self._home = f"{data}/{name}"
        self._reader = reader
        self._directories = directories
        self._links = Links(self._home, reader, directories)
        self._tails: dict[str, _Tail] = {}

    def rootfs(self, layers: Layers, *, dirperm: bool = True) -> RootFs:
        """
        Give the root file system of a container.

        `dirperm` says that the daemon is one that asks AUFS for `dirperm1`.
        """
        ways = {
            "overlay2": self._overlay2,
            "fuse-overlayfs": self._overlay2,
            "overlay": self._overlay,
            "vfs": self._vfs,
            "btrfs": self._btrfs,
            "zfs": self._zfs,
            "devicemapper": self._devicemapper,
        }
        if self._name in ways:
            return ways[self._name](layers)
        return self._aufs(layers, dirperm=dirperm)

    def _overlay2(self, layers: Layers) -> RootFs:
        """Follow `lower`; a layer with the marker `committed` is only read."""
        directory = f"{self._home}/{layers.id}"
        lower = f"{directory}/lower"
        text = self._reader.text(lower, optional=True)
        if text is None:
            return self._single(layers, f"{directory}/diff", lower)
        self._reader.tell("layers", lower)
        names = text.split(":")
        tail = self._tail(text)
        first = self._links.layer(names[0])
        links = (first, *tail.links)
        for number, link in enumerate(links):
            if link.complaint:
                self._reader.damaged(lower, f"layer {number}", link.complaint)
            elif link.repaired:
                self._reader.tell(f"{names[number]} is lost, layer {number}", link.repaired)
            if link.lost:
                self._reader.damaged(lower, f"layer {number}", link.lost)
        rootfs = self._spelled(f"{directory}/merged")
        torn = (TornDown(path=rootfs, type="directory", mode=_OF_MERGED),)
        usable = self._usable(f"{directory}/diff", lower, "writable layer")
        if not usable or any(link.complaint for link in links):
            return RootFs(None, rootfs, torn)
        self._compare(layers, (first.id, *tail.ids), lower)
        lowers = (self._diff(first.id), *tail.lowers)
        own = self._spelled(f"{directory}/diff")
        driver = "overlay" if self._name == "overlay2" else self._name
        if os.path.exists(f"{directory}/committed"):
            self._reader.tell("the writable layer is only read", f"{directory}/committed")
            stack = Stack(
                driver=driver, lowers=(own, *lowers), provenance=self._told(layers, lower)
            )
            return RootFs(stack, rootfs, torn)
        stack = Stack(
            driver=driver,
            lowers=lowers,
            upper=own,
            work=self._spelled(f"{directory}/work"),
            provenance=self._told(layers, lower),
        )
        return RootFs(stack, rootfs, torn)

    def _tail(self, lower: str) -> _Tail:
        """Resolve all but the first of the layers below, which containers of an image share."""
        text = lower.partition(":")[2]
        known = self._tails.get(text)
        if known is None:
            links = tuple(self._links.layer(name) for name in text.split(":") if name)
            ids = tuple(link.id for link in links)
            known = _Tail(links, ids, tuple(self._diff(each) for each in ids))
            self._tails[text] = known
        return known

    def _overlay(self, layers: Layers) -> RootFs:
        """Follow `lower-id` to the one layer below; it has a whole tree in `root`."""
        directory = f"{self._home}/{layers.id}"
        lower = f"{directory}/lower-id"
        if os.path.isdir(f"{directory}/root"):
            return self._single(layers, f"{directory}/root", lower)
        below = name_in(self._reader, lower)
        rootfs = self._spelled(f"{directory}/merged")
        torn = (TornDown(path=rootfs, type="directory", mode=_OF_MERGED),)
        if not below:
            return RootFs(None, rootfs, torn)
        self._reader.tell("layers", lower)
        usable = self._usable(f"{directory}/upper", lower, "writable layer")
        if not self._usable(f"{self._home}/{below}/root", lower, "layer 0") or not usable:
            return RootFs(None, rootfs, torn)
        # The changes of the init layer were copied, unless it is the base itself.
        if layers.below is not None:
            top = layers.chain[0] if layers.chain else layers.init
            if top != below:
                self._disagree(lower, layers, (below,), (top,))
        stack = Stack(
            driver="overlay",
            lowers=(self._spelled(f"{self._home}/{below}/root"),),
            upper=self._spelled(f"{directory}/upper"),
            work=self._spelled(f"{directory}/work"),
            provenance=self._told(layers, lower),
        )
        return RootFs(stack, rootfs, torn)

    def _aufs(self, layers: Layers, *, dirperm: bool) -> RootFs:
        """Follow `layers/<id>`: an id a line, nearest first; without any nothing is mounted."""
        own, file = f"{self._home}/diff/{layers.id}", f"{self._home}/layers/{layers.id}"
        rootfs = self._spelled(f"{self._home}/mnt/{layers.id}")
        text = self._reader.text(file)
        if text is None:
            return RootFs(None, rootfs)
        ids = tuple(line for line in text.split("\n") if line)
        if not ids:
            return self._single(layers, own, file)
        self._reader.tell("layers", file)
        usable = self._usable(own, file, "writable layer")
        for number, each in enumerate(ids):
            if not is_name(each):
                self._reader.damaged(file, f"layer {number}", f"{each!r} is no id of a layer")
                usable = False
            elif not self._usable(f"{self._home}/diff/{each}", file, f"layer {number}"):
                usable = False
        self._compare(layers, ids, file)
        if not usable:
            return RootFs(None, rootfs)
        stack = Stack(
            driver="aufs",
            lowers=tuple(self._spelled(f"{self._home}/diff/{each}") for each in ids),
            upper=self._spelled(own),
            permissions=("rw", *("ro+wh",) * len(ids)),
            options=(*AUFS_OPTIONS, AUFS_DIRPERM) if dirperm else AUFS_OPTIONS,
            provenance=(*self._told(layers, file), "options: those that Docker asks for"),
        )
        return RootFs(stack, rootfs)

    def _plain(self, layers: Layers, below: str, *, lasts: bool) -> RootFs:
        """Give the one directory that there is; without `lasts` it is there while it is mounted."""
        directory = f"{self._home}/{below}"
        told = self._told(layers, f"{directory}")
        complaint = self._directories.complaint(directory)
        if complaint and (lasts or complaint != MISSING):
            self._reader.damaged(directory, "", complaint)
        elif complaint:
            self._reader.tell("the root file system is not mounted", directory)
        if complaint not in {"", MISSING}:
            return RootFs(None, self._spelled(directory))
        path = self._spelled(directory)
        return RootFs(Stack(driver="vfs", upper=path, provenance=told), path)

    def _vfs(self, layers: Layers) -> RootFs:
        return self._plain(layers, f"dir/{layers.id}", lasts=True)

    def _btrfs(self, layers: Layers) -> RootFs:
        return self._plain(layers, f"subvolumes/{layers.id}", lasts=True)

    def _zfs(self, layers: Layers) -> RootFs:
        return self._plain(layers, f"graph/{layers.id}", lasts=False)

    def _devicemapper(self, layers: Layers) -> RootFs:
        record = f"{self._home}/metadata/{layers.id}"
        if not os.path.exists(record):
            self._reader.damaged(record, "", MISSING)
            return RootFs(None, None)
        return self._plain(layers, f"mnt/{layers.id}/rootfs", lasts=False)

    def _single(self, layers: Layers, directory: str, file: str) -> RootFs:
        """Give a layer with nothing below, which Docker takes as it is; `file` says nothing."""
        path = self._spelled(directory)
        expected = layers.below
        if expected != ():
            number = "some" if expected is None else len(expected)
            what = f"names no layer, but there are {number} below by {layers.told}"
            self._reader.damaged(file, "", what)
            return RootFs(None, path)
        if not self._usable(directory, file, "writable layer"):
            return RootFs(None, path)
        return RootFs(Stack(driver="vfs", upper=path, provenance=self._told(layers, file)), path)

    def _usable(self, directory: str, file: str, field: str) -> bool:
        """
        Tell whether a layer can be named; what is wrong is a damage of the file that names it.

        One that is not there can; one that lies elsewhere is not this engine's.
        """
        complaint = self._directories.complaint(directory)
        if complaint:
            self._reader.damaged(file, field, f"{directory} {complaint}")
        return complaint in {"", MISSING}

    def _compare(self, layers: Layers, found: tuple[str, ...], file: str) -> None:
        """Hold what the graph driver says against what the engine says of the same container."""
        expected = layers.below
        if expected is not None and expected != found:
            self._disagree(file, layers, found, expected)

    def _disagree(
        self, file: str, layers: Layers, found: Sequence[str], expected: Sequence[str]
    ) -> None:
        pairs = zip(found, expected, strict=False)
        shorter = min(len(found), len(expected))
        number = next((n for n, (one, other) in enumerate(pairs) if one != other), shorter)
        ours = found[number] if number < len(found) else "none"
        theirs = expected[number] if number < len(expected) else "none"
        what = f"is {ours}, but {theirs} by {layers.told}"
        self._reader.damaged(file, f"layer {number}", what)

    def _told(self, layers: Layers, file: str) -> tuple[str, ...]:
        return (f"layers: {encode(file)}", f"writable layer: {layers.id}")

    def _diff(self, layer: str) -> KPath:
        return self._spelled(f"{self._home}/{layer}/diff")

    def _spelled(self, path: str) -> KPath:
        return self._directories.spelled(path)
