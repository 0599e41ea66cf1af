# SPDX-License-Identifier: Apache-2.0
"""Mount tables for property tests, made by mounting at random as a kernel would."""

from __future__ import annotations

from hypothesis import strategies as st

from mountcr.graph.tree import MountTree
from mountcr.model import Mount, MountId
from mountcr.paths import ROOT, KPath

__all__ = ["PLACES", "tables", "tmpfs"]

PLACES = st.lists(st.sampled_from("abc"), max_size=3).map(
    lambda parts: KPath("/" + "/".join(parts))
)
"""Paths of which many are beneath each other."""

_OPTIONAL = st.sampled_from(
    [(), ("shared:1",), ("shared:2",), ("master:1",), ("shared:2", "master:1"), ("master:9",)]
)


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
