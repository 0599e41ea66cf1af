# SPDX-License-Identifier: Apache-2.0
"""Recipes for property tests: smaller than those of the generator, and hypothesis shrinks them."""

from __future__ import annotations

from hypothesis import strategies as st

from fidelity.generator import NAMES, TIMES, acl, capability
from fidelity.recipe import (
    Chmod,
    Chown,
    Directory,
    File,
    Layer,
    Link,
    Move,
    Node,
    Operation,
    Punch,
    Recipe,
    Remove,
    RemoveXattr,
    SetXattr,
    Symlink,
    Times,
    Truncate,
    Write,
)

__all__ = ["creations", "mutations", "paths", "recipes"]

_names = st.sampled_from((b"a", b"b", b"c")) | st.sampled_from(sorted(set(NAMES)))

paths: st.SearchStrategy[bytes] = st.lists(_names, min_size=1, max_size=3).map(b"/".join)
"""Paths of which many are beneath each other."""

_offsets = st.sampled_from((0, 1, 4095, 4096, 5000, 40_000))
_lengths = st.sampled_from((1, 10, 4096, 9000))
_fills = st.integers(0, 1000)
_modes = st.sampled_from((0o644, 0o755, 0o600, 0o000, 0o4755, 0o2755, 0o1777))
_owners = st.sampled_from((0, 1, 1000, 100_000, 4_294_967_294))
_times = st.sampled_from(TIMES)

_data = st.lists(st.tuples(_offsets, _lengths), max_size=2).map(tuple)

_xattrs = st.sampled_from(
    (
        (b"user.a", b""),
        (b"user.a", b"v"),
        (b"user.n\xff", b"\0\xff"),
        (b"trusted.t", b"t"),
        (b"security.capability", capability(1 << 13)),
        (b"system.posix_acl_access", acl(33)),
        (b"system.posix_acl_default", acl(1000)),
    )
)


def _set_xattr(path: bytes, xattr: tuple[bytes, bytes]) -> SetXattr:
    return SetXattr(path, *xattr)


creations: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Directory, path=paths, mode=_modes),
    st.builds(File, path=paths, size=_lengths, data=_data, fill=_fills, mode=_modes),
    st.builds(Symlink, path=paths, target=paths | st.just(b"/nowhere")),
    st.builds(Node, path=paths, kind=st.sampled_from(("fifo", "socket"))),
    st.builds(
        Node,
        path=paths,
        kind=st.sampled_from(("character", "block")),
        major=st.integers(1, 4095),
        minor=st.integers(0, 1_048_575),
    ),
    st.builds(Link, path=paths, source=paths),
)
"""What makes something new."""

mutations: st.SearchStrategy[Operation] = st.one_of(
    creations,
    st.builds(Remove, path=paths),
    st.builds(Move, path=paths, to=paths),
    st.builds(Write, path=paths, offset=_offsets | st.just(-1), length=_lengths, fill=_fills),
    st.builds(Truncate, path=paths, size=_offsets),
    st.builds(Punch, path=paths, offset=_offsets, length=_lengths),
    st.builds(Chmod, path=paths, mode=_modes),
    st.builds(Chown, path=paths, uid=_owners, gid=_owners),
    st.builds(Times, path=paths, mtime=_times, atime=_times),
    st.builds(_set_xattr, paths, _xattrs),
    st.builds(RemoveXattr, path=paths, name=_xattrs.map(lambda each: each[0])),
)
"""What changes something, most of the time."""


@st.composite
def recipes(draw: st.DrawFn, most: int = 4) -> Recipe:
    """Containers of a few layers with a few changes."""
    first = Layer(tuple(draw(st.lists(creations, min_size=2, max_size=8))))
    others = [
        Layer(tuple(draw(st.lists(mutations if merged else creations, max_size=5))), merged=merged)
        for merged in draw(st.lists(st.booleans(), max_size=most - 1))
    ]
    return Recipe(0, (first, *others), tuple(draw(st.lists(mutations, max_size=8))))
