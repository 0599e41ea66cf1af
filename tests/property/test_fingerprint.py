# SPDX-License-Identifier: Apache-2.0
"""A fingerprint is a function of a tree: the same for the same, and whatever changes is named."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mountcr.paths import encode
from mountcr.rootfs.fingerprint import Extent, Fingerprint, take
from mountcr.rootfs.tree import shown
from mountcr.rootfs.verify import differences
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

NAMES = st.sampled_from([b"a", b"b", b"c d", b"\xff\n", b"x_HIDDEN~", b"\\134"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)


class Node(NamedTuple):
    """An inode of a random tree."""

    kind: str
    mode: int
    mtime: int
    word: bytes
    times: int
    xattrs: Mapping[str, bytes]

    @property
    def content(self) -> bytes:
        """Some content is longer than what is hashed on the spot."""
        return self.word * self.times


NODES = st.builds(
    Node,
    st.sampled_from(["file", "file", "symlink", "fifo"]),
    st.sampled_from([0o600, 0o644, 0o4755, 0o1777]),
    st.integers(0, 2**33 * 10**9),
    st.binary(min_size=1, max_size=20),
    st.sampled_from([1, 1, 1, 100_000]),
    st.dictionaries(st.sampled_from(["user.a", "user.b"]), st.binary(max_size=4)),
)
TREES = st.dictionaries(PATHS, NODES, min_size=1, max_size=8)


def place(top: bytes, path: tuple[bytes, ...]) -> bytes:
    """The path of something in a tree, below its directory."""
    return b"/".join((top, *path))


def build(top: bytes, tree: Mapping[tuple[bytes, ...], Node]) -> list[tuple[bytes, ...]]:
    """Make a tree; what would lie in something that is no directory is left out."""
    made: list[tuple[bytes, ...]] = []
    for path, node in sorted(tree.items(), key=lambda item: (len(item[0]), item[0])):
        if any(path[:end] in made for end in range(1, len(path))):
            continue
        os.makedirs(os.path.dirname(place(top, path)), exist_ok=True)
        if not os.path.lexists(place(top, path)):
            make(place(top, path), node)
            made.append(path)
    for directory, _, _ in os.walk(top, topdown=False):
        os.utime(directory, ns=(7, 7))
    return made


def make(path: bytes, node: Node) -> None:
    """Make one inode."""
    if node.kind == "symlink":
        os.symlink(node.content.replace(b"\0", b"0")[:100], path)
    elif node.kind == "fifo":
        os.mkfifo(path)
        os.chmod(path, node.mode)
    else:
        with open(path, "wb") as file:
            file.write(node.content)
        for name, value in node.xattrs.items():
            os.setxattr(path, name, value)
        os.chmod(path, node.mode)
    os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)


@contextmanager
def directory() -> Generator[bytes]:
    """A new directory for one example."""
    with tempfile.TemporaryDirectory() as found:
        yield os.fsencode(found)


def fingerprint(top: bytes) -> Fingerprint:
    """The whole fingerprint of a plain tree."""
    return take([StoredLayer(path=encode(top), dialect="vfs")], extent=Extent.ALL)


@contextmanager
def kept(path: bytes) -> Generator[None]:
    """Leave the times of a path and of its directory as they were."""
    paths = [path, os.path.dirname(path)]
    before = [os.lstat(each) for each in paths]
    yield
    for each, was in zip(paths, before, strict=True):
        if os.path.lexists(each):
            os.utime(each, ns=(was.st_atime_ns, was.st_mtime_ns), follow_symlinks=False)


def write(path: bytes, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(content)
        file.truncate(len(content))


def content_of(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def other_content(path: bytes) -> str:
    """Change the last byte."""
    content = content_of(path)
    write(path, content[:-1] + bytes([content[-1] ^ 1]))
    return "content"


def longer(path: bytes) -> str:
    content = content_of(path)
    write(path, content + b"!")
    return f"size {len(content) + 1}, it had {len(content)}"


def other_mode(path: bytes) -> str:
    mode = os.lstat(path).st_mode & 0o7777
    os.chmod(path, mode ^ 0o001)
    return f"mode 0{mode ^ 0o001:o}, it had 0{mode:o}"


def new_xattr(path: bytes) -> str:
    os.setxattr(path, "user.c", b"")
    return "xattr user.c new"


def no_xattr(path: bytes) -> str:
    assume("user.a" in os.listxattr(path))
    os.removexattr(path, "user.a")
    return "xattr user.a missing"


def other_xattr(path: bytes) -> str:
    assume("user.a" in os.listxattr(path))
    os.setxattr(path, "user.a", b"another")
    return "xattr user.a has another value"


def other_owner(path: bytes) -> str:
    was = os.lstat(path)
    os.chown(path, 12, 34, follow_symlinks=False)
    if not os.path.islink(path):
        os.chmod(path, was.st_mode & 0o7777)
    return f"owner 12:34, it had {was.st_uid}:{was.st_gid}"


def other_target(path: bytes) -> str:
    was = os.readlink(path)
    os.unlink(path)
    os.symlink(was + b"~", path)
    return f"target {encode(was + b'~')}, it had {encode(was)}"


def gone(path: bytes) -> str:
    os.unlink(path)
    return "missing"


def other_type(path: bytes) -> str:
    was = "fifo" if os.path.exists(path) and not os.path.isfile(path) else "symlink"
    was = "file" if os.path.isfile(path) and not os.path.islink(path) else was
    was = "symlink" if os.path.islink(path) else was
    os.unlink(path)
    os.mkdir(path)
    return f"a directory, it was a {was}"


FILE: set[Callable[[bytes], str]] = {
    other_content, longer, other_mode, new_xattr, no_xattr, other_xattr, other_owner, gone,
    other_type,
}  # fmt: skip
MUTATIONS: dict[str, set[Callable[[bytes], str]]] = {
    "file": FILE,
    "symlink": {other_target, other_owner, gone, other_type},
    "fifo": {other_mode, other_owner, gone, other_type},
}


@given(TREES)
@settings(max_examples=40, deadline=None)
def test_the_same_tree_has_the_same_fingerprint(tree: dict[tuple[bytes, ...], Node]) -> None:
    """Made twice, on other inodes, in another order of names."""
    with directory() as one, directory() as other:
        build(one, tree)
        build(other, tree)
        first, second = fingerprint(one).layers[0], fingerprint(other).layers[0]
        assert first.digest == second.digest
        assert first.metadata == second.metadata
        assert first.changes == second.changes


@given(TREES, st.data())
@settings(max_examples=150, deadline=None)
def test_any_single_change_is_found_and_named(
    tree: dict[tuple[bytes, ...], Node], data: st.DataObject
) -> None:
    """The path that changed and no other one, with the field; the digest is another one too."""
    with directory() as top:
        made = build(top, tree)
        path = data.draw(st.sampled_from(made))
        possible = MUTATIONS[tree[path].kind]
        mutate = data.draw(st.sampled_from(sorted(possible, key=lambda each: each.__name__)))
        if mutate is other_owner and os.geteuid() != 0:
            pytest.skip("only root gives files away")
        before = fingerprint(top)
        with kept(place(top, path)):
            what = mutate(place(top, path))
        after = fingerprint(top)
        found = [(each.path, each.what) for each in differences(before, after)]
        assert found == [(shown(b"/".join(path)), what)]
        assert before.layers[0].digest != after.layers[0].digest


@given(TREES, st.integers(0, 2**33 * 10**9), st.data())
@settings(max_examples=30, deadline=None)
def test_a_nanosecond_is_found(
    tree: dict[tuple[bytes, ...], Node], time: int, data: st.DataObject
) -> None:
    """Times are compared whole, those of directories and symbolic links too."""
    with directory() as top:
        made = build(top, tree)
        path = data.draw(st.sampled_from([(), *made, *(each[:1] for each in made)]))
        os.utime(place(top, path), ns=(1, time), follow_symlinks=False)
        before = fingerprint(top)
        os.utime(place(top, path), ns=(1, time + 1), follow_symlinks=False)
        ((where, what),) = [
            (each.path, each.what) for each in differences(before, fingerprint(top))
        ]
        assert where == shown(b"/".join(path))
        assert what.startswith("mtime ")


@given(TREES)
@settings(max_examples=20, deadline=None)
def test_reading_changes_nothing(tree: dict[tuple[bytes, ...], Node]) -> None:
    """Neither a time of access nor anything else."""
    with directory() as top:
        made = build(top, tree)

        def look() -> list[tuple[int, ...]]:
            stats = (os.lstat(place(top, path)) for path in made)
            return [(each.st_atime_ns, each.st_mtime_ns, each.st_ctime_ns) for each in stats]

        before = look()
        fingerprint(top)
        assert look() == before


@given(TREES, st.data())
@settings(max_examples=30, deadline=None)
def test_hard_links_are_told_from_copies(
    tree: dict[tuple[bytes, ...], Node], data: st.DataObject
) -> None:
    """Two names of one inode are something else than two files that are equal in all."""
    with directory() as top:
        made = [path for path in build(top, tree) if tree[path].kind == "file"]
        assume(made)
        path = data.draw(st.sampled_from(made))
        first, second = place(top, path), place(top, (b"zz",))
        make(second, tree[path])
        os.utime(top, ns=(7, 7))
        before = fingerprint(top)
        os.unlink(second)
        os.link(first, second)
        os.utime(top, ns=(7, 7))
        ((where, what),) = [
            (each.path, each.what) for each in differences(before, fingerprint(top))
        ]
        earlier, later = sorted([path, (b"zz",)])
        assert where == shown(b"/".join(later))
        assert what.startswith(f"a hard link of {shown(b'/'.join(earlier))}, it was")
