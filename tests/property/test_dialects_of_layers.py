# SPDX-License-Identifier: Apache-2.0
"""Laws of the dialects of layers: what is written in one is read back, on whatever lies below."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mountcr.model import InodeType
from mountcr.paths import KPath
from mountcr.rootfs.changes import changes
from mountcr.rootfs.dialect import Dialect, Entry, dialects
from mountcr.rootfs.dialects.vfs import Vfs
from mountcr.rootfs.foreign import foreign_path
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.tree import join
from mountcr.rootfs.view import View
from trees_in_memory import MemoryTree, comparable, directory, everything_in, read

NAMES = st.sampled_from([b"a", b"b", b"c", b".opq", b"\xff\n", b"wh.", b"a.wh.b", b"__dir_opaque~"])
TYPES = st.sampled_from(
    [InodeType.FILE, InodeType.FILE, InodeType.DIRECTORY, InodeType.DIRECTORY, InodeType.SYMLINK]
)
READ_ONLY = {"vfs", "aufs-nowh"}
MARKED = {name: each for name, each in dialects().items() if name not in READ_ONLY}
XATTRS = st.dictionaries(
    st.sampled_from([KPath("user.a"), KPath("security.capability"), KPath("trusted.overlayX")]),
    st.binary(max_size=3),
    max_size=2,
)
HOSTILE_XATTRS = st.dictionaries(
    st.sampled_from(
        [
            KPath(f"{prefix}.overlay.{name}")
            for prefix in ("trusted", "user")
            for name in ("opaque", "redirect", "metacopy", "whiteout", "nlink", "overlay.opaque")
        ]
    ),
    st.sampled_from([b"y", b"x", b"", b"/a"]),
    max_size=3,
)


@st.composite
def inodes(draw: st.DrawFn, kind: InodeType, *, hostile: bool) -> Inode:
    """Inodes of a type, with attributes that look like marks if asked for."""
    plain = kind is InodeType.SYMLINK
    xattrs = {} if plain else draw(XATTRS) | (draw(HOSTILE_XATTRS) if hostile else {})
    return Inode(
        type=kind,
        mode=0o777 if plain else draw(st.sampled_from([0o644, 0o4755, 0])),
        uid=draw(st.integers(0, 3)),
        mtime=draw(st.integers(0, 10**18)),
        target=KPath("x") if plain else None,
        xattrs=xattrs,
    )


@st.composite
def trees(draw: st.DrawFn) -> MemoryTree:
    """Small trees without marks."""
    tree = MemoryTree()
    for parts in draw(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=8)):
        path = b"/".join(parts)
        above = [b"/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        met = [tree.inode(each) for each in above]
        if met[-1] is None and all(each is None or each.is_directory for each in met):
            inode = draw(inodes(draw(TYPES), hostile=False))
            tree.store(path, inode, draw(st.binary(max_size=3)) if inode.is_file else b"")
    return tree


@st.composite
def edits(draw: st.DrawFn, below: MemoryTree, *, hostile: bool = False) -> list[Entry]:
    """What a layer may change of a tree, in the normal form."""
    made = MemoryTree()
    found = [Entry(b"", directory())]
    files: list[bytes] = []

    def fill(path: bytes, *, shows: bool, depth: int) -> None:
        for name in sorted(draw(st.sets(NAMES, max_size=4))):
            child = join(path, name)
            lower = below.inode(child) if shows else None
            if lower is not None and draw(st.booleans()):
                found.append(Entry(child, None))
                continue
            kind = draw(TYPES)
            if kind is InodeType.FILE and files and draw(st.integers(0, 2)) == 0:
                first = draw(st.sampled_from(files))
                made.link(child, first)
                found.append(Entry(child, made.inode(first), link=first))
                continue
            inode = draw(inodes(kind, hostile=hostile))
            content = draw(st.binary(min_size=1, max_size=3)) if inode.is_file else b""
            made.store(child, inode, content)
            if inode.is_directory:
                merges = lower is not None and lower.is_directory and draw(st.booleans())
                opaque = lower is not None and not merges
                found.append(Entry(child, made.inode(child), opaque=opaque))
                if depth:
                    fill(child, shows=merges, depth=depth - 1)
            else:
                source = (made, child) if inode.is_file else None
                found.append(Entry(child, made.inode(child), source=source))
                files.extend([child] if inode.is_file else [])

    fill(b"", shows=True, depth=2)
    return found


def told(entries: list[Entry]) -> list[tuple[object, ...]]:
    """What can be compared of entries."""
    return [
        (
            each.path,
            comparable(each.inode) if each.inode else None,
            each.opaque,
            each.link,
            read(each),
        )
        for each in entries
    ]


def may_be_hostile(dialect: Dialect) -> bool:
    """Every dialect but fuse-overlayfs takes attributes that look like marks of an overlay."""
    return dialect.name != "fuse-overlayfs"


QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("dialect", MARKED.values(), ids=MARKED)
@QUICK
@given(data=st.data())
def test_what_is_written_is_read_back(dialect: Dialect, data: st.DataObject) -> None:
    """Every entry, in the order it was given in, over whatever lies below."""
    lower = data.draw(trees())
    wanted = data.draw(edits(lower, hostile=may_be_hostile(dialect)))
    upper = MemoryTree().write(dialect, wanted)
    below = View([Vfs().layer(lower)])
    assert told(list(changes(dialect.layer(upper), below))) == told(wanted)


@pytest.mark.parametrize("dialect", MARKED.values(), ids=MARKED)
@QUICK
@given(data=st.data())
def test_layers_show_what_was_done_one_after_the_other(
    dialect: Dialect, data: st.DataObject
) -> None:
    """Whatever was removed, replaced or made opaque by which of them."""
    now = data.draw(trees())
    layers = [now.copy()]
    for _ in range(data.draw(st.integers(1, 4))):
        wanted = data.draw(edits(now.copy()))
        layers.insert(0, MemoryTree().write(dialect, wanted))
        now.change(wanted)
    view = View([dialect.layer(each) for each in layers])
    assert everything_in(view) == everything_in(now)


@pytest.mark.parametrize("dialect", MARKED.values(), ids=MARKED)
@QUICK
@given(data=st.data())
def test_marks_are_found(dialect: Dialect, data: st.DataObject) -> None:
    """A layer that removes or hides something is marked; a tree that nobody marked is not."""
    lower = data.draw(trees())
    wanted = data.draw(edits(lower))
    upper = MemoryTree().write(dialect, wanted)
    hides = any(each.inode is None or each.opaque for each in wanted)
    marked = hides or bool(tuple(dialect.begin()))
    assert (foreign_path(Vfs().layer(upper), dialect) is not None) == marked
    assert foreign_path(Vfs().layer(lower), dialect) is None
