# SPDX-License-Identifier: Apache-2.0
"""Mount tables for property tests, made by mounting at random as a kernel would."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from mountcr.graph.tree import MountTree
from mountcr.model import Mount, MountId
from mountcr.paths import ROOT, KPath

__all__ = ["PLACES", "containers", "namespaces", "tables", "tmpfs"]

PLACES = st.lists(st.sampled_from("abc"), max_size=3).map(
    lambda parts: KPath("/" + "/".join(parts))
)
"""Paths of which many are beneath each other."""

_OPTIONAL = st.sampled_from(
    [(), ("shared:1",), ("shared:2",), ("master:1",), ("shared:2", "master:1"), ("master:9",)]
)

_VARIETY: st.SearchStrategy[dict[str, object]] = st.sampled_from(
    [
        {},
        {},
        {},
        {"options": "ro,nosuid"},
        {"root": "/a//deleted"},
        {"optional": ("unbindable",)},
        {"dev": "0:4", "root": "net:[4026531840]", "fstype": "nsfs"},
        {"dev": "0:4", "root": "uts:[4026531838]", "fstype": "nsfs"},
    ]
)
"""What else a mount may be than a tmpfs in a directory."""


def tmpfs(
    identity: int,
    parent: int,
    place: KPath,
    *,
    root: KPath = ROOT,
    dev: str = "0:1",
    optional: tuple[str, ...] = (),
) -> Mount:
    """Give a mount of a tmpfs."""
    return Mount(
        id=MountId(identity),
        parent=MountId(parent),
        dev=dev,
        root=root,
        mountpoint=place,
        options="rw",
        optional=optional,
        fstype="tmpfs",
        source=KPath("t"),
        super_options="rw",
    )


@st.composite
def tables(draw: st.DrawFn) -> list[Mount]:
    """Tables that come of mounting at paths one after the other, each on what is topmost there."""
    made = [tmpfs(1, 0, ROOT, root=draw(PLACES), dev="0:1")]
    for number, place in enumerate(draw(st.lists(PLACES, max_size=12)), 2):
        below = MountTree(made).lies_on(place)
        if below is None:
            raise AssertionError("a table with a root holds every path")
        dev = draw(st.sampled_from(["0:1", "0:2", "8:1"]))
        optional = draw(_OPTIONAL)
        made.append(tmpfs(number, below.id, place, root=draw(PLACES), dev=dev, optional=optional))
    return made


@st.composite
def namespaces(draw: st.DrawFn) -> list[list[Mount]]:
    """
    Tables of several namespaces of one container, the root task's first.

    Devices and groups mean the same in all. Mounts may be stacked as siblings, as kernels before
    4.11 did where propagation met a mount; they come in the order of the stack.
    """
    found: list[list[Mount]] = []
    for number in range(draw(st.integers(1, 3))):
        root, *others = draw(tables())
        table = [root]
        for mount in others:
            table.append(msgspec.structs.replace(mount, **draw(_VARIETY)))
            if draw(st.integers(0, 9)) == 0:
                twin = tmpfs(mount.id + 50, mount.parent, mount.mountpoint, dev="0:7")
                table.append(twin)
        found.append([_moved(mount, 100 * number) for mount in table])
    return found


def _moved(mount: Mount, by: int) -> Mount:
    """Give a mount with other numbers for itself and its parent."""
    return msgspec.structs.replace(
        mount, id=MountId(mount.id + by), parent=MountId(mount.parent + by)
    )


_KINDS = st.sampled_from(
    [("8:1", "ext4"), ("8:2", "xfs"), ("0:60", "tmpfs"), ("0:61", "fuse.far"), ("0:62", "overlay")]
)


@st.composite
def containers(draw: st.DrawFn, most: int = 5) -> list[Mount]:
    """Small tables of few file systems, with narrow and wide mounts, slaves and peers of each."""
    made = [tmpfs(1, 0, ROOT, root=draw(PLACES), dev="0:60")]
    for number in range(2, draw(st.integers(2, most + 1)) + 1):
        dev, fstype = draw(_KINDS)
        mount = tmpfs(
            number,
            1,
            KPath(f"/m{number}"),
            root=draw(PLACES),
            dev=dev,
            optional=draw(_OPTIONAL),
        )
        made.append(msgspec.structs.replace(mount, fstype=fstype))
    return made
