# SPDX-License-Identifier: Apache-2.0
"""Prefixes of paths and of control groups: nothing else changes, and twice is once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import assume, given
from hypothesis import strategies as st

from mountcr import paths
from mountcr.criu import images_pb2 as pb
from mountcr.criu.prefixes import is_beneath, moved
from mountcr.criu.rewriting import CgroupMap, PathMap
from mountcr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.paths import KPath

# Few names, so that prefixes meet; one begins with another one, one is not UTF-8.
NAMES = st.sampled_from([b"a", b"ab", b"b", b"\xff \\"])
PATHS = st.lists(NAMES, max_size=4).map(lambda names: b"/" + b"/".join(names))
PREFIXES = PATHS.map(paths.encode)


@given(path=PATHS, old=PREFIXES, new=PREFIXES)
def test_a_prefix_is_replaced_once(path: bytes, old: KPath, new: KPath) -> None:
    """A path with the prefix has the other one and keeps its rest; twice is once, or is refused."""
    try:
        found = moved(path, old, new)
    except UsageError:
        assert is_beneath(paths.decode(old), paths.decode(new))
        return
    assert moved(found, old, new) == found
    before, after = paths.decode(old), paths.decode(new)
    if found == path:
        assert old == new or not is_beneath(path, before) or is_beneath(path, after)
    else:
        assert is_beneath(found, after)
        assert found[len(after.rstrip(b"/")) :].strip(b"/") == path[len(before) :].strip(b"/")


@given(path=PATHS, old=PREFIXES, new=PREFIXES)
def test_only_the_name_of_a_file_changes(path: bytes, old: KPath, new: KPath) -> None:
    """A file keeps all that is not its path, fields that mountcr does not know too."""
    unknown = b"\xf2\x02\x03new"  # field 46, as a later CRIU may have it
    regular = pb.RegularFile(id=7, flags=2, pos=9, name=path, mnt_id=3, size=4, build_id=[5, 6])
    message = pb.FileEntry(type=1, id=7)
    message.reg.MergeFromString(regular.SerializeToString() + unknown)
    try:
        found = PathMap(because="a test", old=old, new=new).rewritten(message)
    except UsageError:
        assume(False)  # noqa: FBT003
        return
    assert found.reg.name == moved(path, old, new)
    assert unknown in found.SerializeToString()
    copy = pb.FileEntry.FromString(found.SerializeToString())
    copy.reg.name = path
    assert copy == message


def directory(name: bytes, children: list[pb.CgroupDirectory]) -> pb.CgroupDirectory:
    return pb.CgroupDirectory(name=name, children=children)


TREES = st.lists(
    st.recursive(
        st.builds(directory, NAMES, st.just([])),
        lambda below: st.builds(directory, NAMES, st.lists(below, max_size=3)),
        max_leaves=8,
    ),
    max_size=3,
)


def paths_of(directories: Iterable[pb.CgroupDirectory], above: bytes = b"") -> list[bytes]:
    found: list[bytes] = []
    for each in directories:
        path = above.rstrip(b"/") + b"/" + each.name
        found += [path, *paths_of(each.children, path)]
    return sorted(found)


@given(trees=TREES, member=PATHS, old=PREFIXES, new=PREFIXES)
def test_every_group_goes_where_its_path_goes(
    trees: list[pb.CgroupDirectory], member: bytes, old: KPath, new: KPath
) -> None:
    """Of a tree of groups each one has the path that it should have, and none is lost."""
    message = pb.CgroupEntry()
    message.sets.add(id=1).members.add(name=b"pids", path=member)
    message.controllers.add(names=[b"pids"], directories=trees)
    operation = CgroupMap(because="a test", old=old, new=new)
    try:
        found = operation.rewritten(message)
        wanted = sorted(moved(path, old, new) for path in paths_of(trees))
    except UsageError:
        assume(False)  # noqa: FBT003
        return
    assert paths_of(found.controllers[0].directories) == wanted
    assert found.sets[0].members[0].path == moved(member, old, new)
    assert operation.rewritten(found) is found
