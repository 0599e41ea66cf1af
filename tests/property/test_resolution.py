# SPDX-License-Identifier: Apache-2.0
"""
A file that is shown by a layer is found at its path, whatever layers and files are called.

Layers are named so that they are prefixes of each other, files so that their names end as if they
were gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st

import builders
from mountcr.model import (
    FileKind,
    InodeType,
    LayerPart,
    Mapping,
    Mount,
    MountId,
    OpenFile,
    PathStat,
    SeenPath,
)
from mountcr.paths import KPath, encode, join
from mountcr.resolution.files import resolve
from mountcr.resolution.state import FileState

if TYPE_CHECKING:
    from mountcr.model import Facts

ROOTS: Final = st.sampled_from([b"/", b"/run/lab/m", b"/data", b"/a b"])
STEMS: Final = (b"a", b"ab", b"a-init", b"a-init2", b"f00d", b"f00d-init", b"\xff", b"a b", b"x")
"""What layers are called: prefixes of each other."""

NAMES: Final = st.one_of(
    st.sampled_from(
        [b"f", b"f (deleted)", b"a\nb", b"a-init", b"ab", b" (deleted)", b"\\040", b"d"]
    ),
    st.binary(min_size=1, max_size=6).filter(
        lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}
    ),
)
PATHS: Final = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)

MAPPED_BY: Final = MountId(3)
"""A mount of the host, which is in no table of the container."""


class Union(NamedTuple):
    """Layers, top first, where they are merged, and which of them have each path."""

    layers: tuple[bytes, ...]
    at: bytes
    files: dict[bytes, tuple[int, ...]]
    removed: frozenset[bytes]


@st.composite
def unions(draw: st.DrawFn) -> Union:
    """A union of some layers with some files, some of which the top layer removes."""
    base = draw(st.sampled_from([b"/var/lib/x/diff", b"/l", b"/"]))
    stems = draw(st.lists(st.sampled_from(STEMS), min_size=1, max_size=5, unique=True))
    layers = tuple(b"%s/%s" % (base.rstrip(b"/"), stem) for stem in stems)
    chosen = draw(st.sets(PATHS, min_size=1, max_size=5))
    files = {
        path: tuple(sorted(draw(st.sets(st.sampled_from(range(len(layers))), min_size=1))))
        for path in chosen
        if not any(path.startswith(other + b"/") for other in chosen)
    }
    lower_only = [path for path, having in files.items() if 0 not in having]
    removed = draw(st.sets(st.sampled_from(lower_only))) if lower_only else set[bytes]()
    return Union(layers, draw(ROOTS), files, frozenset(removed))


def inode(union: Union, path: bytes, layer: int) -> PathStat:
    """Every file of every layer has a number of its own."""
    number = sorted(union.files).index(path) * 10 + layer + 100
    return PathStat(dev="8:1", ino=number, mode=0o100644, nlink=1, size=1, type=InodeType.FILE)


def seen(union: Union) -> tuple[SeenPath, ...]:
    """What lies at each path of the union, in the merged view and in the layers."""
    found: list[SeenPath] = []
    for path, having in union.files.items():
        gone = path in union.removed
        merged = PathStat(
            dev="0:50",
            ino=inode(union, path, having[0]).ino + 1000,
            mode=0o100644,
            nlink=1,
            size=1,
            type=InodeType.FILE,
        )
        found.append(
            SeenPath(
                namespace=builders.CONTAINER_NS,
                path=join(encode(union.at), encode(path)),
                stat=None if gone else merged,
                missing=gone,
                parts=tuple(
                    LayerPart(layer=encode(union.layers[number]), stat=inode(union, path, number))
                    for number in having
                ),
            )
        )
    return tuple(found)


def mounts(union: Union, fstype: str) -> tuple[Mount, ...]:
    """The mount table of the container, with the union at the root or somewhere below."""
    spelled = tuple(map(encode, union.layers))
    options = "rw,si=1"
    branches: tuple[KPath, ...] = ()
    if fstype == "aufs":
        branches = tuple(
            KPath(f"{each}={'ro+wh' if number else 'rw'}") for number, each in enumerate(spelled)
        )
    else:
        lowers = ":".join(spelled[1:] or spelled)
        upper = f",upperdir={spelled[0]},workdir=/w" if spelled[1:] else ""
        options = f"rw,lowerdir={lowers}{upper}"
    here = Mount(
        id=MountId(11),
        parent=MountId(10 if union.at != b"/" else 1),
        dev="0:50",
        root=KPath("/"),
        mountpoint=encode(union.at),
        options="rw",
        fstype=fstype,
        source=KPath("none"),
        super_options=options,
        branches=branches,
    )
    if union.at == b"/":
        return (here,)
    return (builders.mount("10 1 8:2 / / rw - ext4 /dev/sda2 rw"), here)


def facts_of(union: Union, fstype: str, *files: OpenFile) -> Facts:
    """The facts of a task that holds files of a union."""
    facts = builders.facts(mounts(union, fstype), files=files)
    return msgspec.structs.replace(facts, paths=seen(union))


def mapped(shown: KPath, stat: PathStat) -> OpenFile:
    """A mapping of which both accounts show the same."""
    return OpenFile(
        kind=FileKind.MAP,
        shown=shown,
        mnt_id=MAPPED_BY,
        stat=stat,
        mapping=Mapping(access="r--p", dev=stat.dev, ino=stat.ino, path=shown),
    )


def expected(union: Union, path: bytes, layer: int) -> FileState:
    """What a file of a layer is, seen from the union."""
    if path in union.removed:
        return FileState.DELETED
    if union.files[path][0] != layer:
        return FileState.STALE
    return FileState.UPPER if layer == 0 else FileState.LOWER


@given(st.data(), unions())
def test_a_mapping_shown_by_a_branch(data: st.DataObject, union: Union) -> None:
    """The longest branch by whole components is taken off, and the layers say what is left."""
    path = data.draw(st.sampled_from(sorted(union.files)))
    layer = data.draw(st.sampled_from(union.files[path]))
    stat = inode(union, path, layer)
    file = mapped(join(encode(union.layers[layer]), encode(path)), stat)
    (found,) = resolve(facts_of(union, "aufs", file))
    assert found.path == join(encode(union.at), encode(path))
    assert found.state is expected(union, path, layer)
    assert "aufs-branch-path" in found.quirks


@given(st.data(), unions())
def test_a_mapping_that_was_unlinked_in_its_branch(data: st.DataObject, union: Union) -> None:
    """The mark of a name that is gone is taken off, unless a file is really called so."""
    path = data.draw(PATHS.filter(lambda name: name + b" (deleted)" not in union.files))
    layer = data.draw(st.sampled_from(range(len(union.layers))))
    stat = PathStat(dev="8:1", ino=7, mode=0o100644, nlink=0, size=1, type=InodeType.FILE)
    shown = join(encode(union.layers[layer]), encode(path + b" (deleted)"))
    (found,) = resolve(facts_of(union, "aufs", mapped(shown, stat)))
    assert found.path == join(encode(union.at), encode(path))
    assert found.state is FileState.DELETED


@given(st.data(), unions())
def test_a_file_of_a_private_mount(data: st.DataObject, union: Union) -> None:
    """A path from the root of a layer is told from those of other layers by its inode."""
    path = data.draw(st.sampled_from(sorted(union.files)))
    layer = data.draw(st.sampled_from(union.files[path]))
    file = OpenFile(
        kind=FileKind.FD,
        fd=5,
        shown=join(KPath("/"), encode(path)),
        mnt_id=MAPPED_BY,
        stat=inode(union, path, layer),
    )
    (found,) = resolve(facts_of(union, "overlay", file))
    assert found.path == join(encode(union.at), encode(path))
    if len(union.layers) > 1:
        assert found.state is expected(union, path, layer)
    assert "private-mount" in found.quirks


@given(st.data(), unions())
def test_another_file_is_not_taken_for_it(data: st.DataObject, union: Union) -> None:
    """What is in no layer is unresolved, although the path is one of the union."""
    path = data.draw(st.sampled_from(sorted(union.files)))
    file = OpenFile(
        kind=FileKind.FD,
        fd=5,
        shown=join(KPath("/"), encode(path)),
        mnt_id=MAPPED_BY,
        stat=PathStat(dev="8:1", ino=1, mode=0o100644, nlink=1, size=1, type=InodeType.FILE),
    )
    (found,) = resolve(facts_of(union, "overlay", file))
    assert (found.path, found.state) == (None, FileState.UNRESOLVED)
