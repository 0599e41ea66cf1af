# SPDX-License-Identifier: Apache-2.0
"""The walk that stands in for openat2(2) finds the same file, or fails in the same way."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountcr.kernel import beneath, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES: Final = (b"a", b"b", b"c")
COMPONENTS: Final = (*NAMES, b"..", b".", b"", b"missing")


def path_of(absolute: bytes, names: list[bytes], slash: bytes) -> bytes:
    return absolute + b"/".join(names) + slash


paths = st.builds(
    path_of,
    st.sampled_from([b"", b"", b"/", b"//"]),
    st.lists(st.sampled_from(COMPONENTS), max_size=6),
    st.sampled_from([b"", b"", b"/", b"/."]),
)
places = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
trees = st.lists(
    st.tuples(places, st.one_of(st.just(b"d"), st.just(b"f"), paths.filter(bool))), max_size=14
)
FLAGS: Final = (
    os.O_RDONLY,
    os.O_RDONLY | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_DIRECTORY,
    os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
    os.O_PATH,
    os.O_PATH | os.O_NOFOLLOW,
    os.O_PATH | os.O_DIRECTORY,
    os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW,
    os.O_WRONLY,
)


def openat2_is_there() -> bool:
    try:
        syscalls.openat2(-1, b"", 0)
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


needs_openat2 = pytest.mark.skipif(
    not openat2_is_there(), reason="this kernel has no openat2(2) to compare with"
)


@pytest.fixture(scope="module")
def top() -> Iterator[bytes]:
    """A directory for trees."""
    found = tempfile.mkdtemp(prefix="mountcr-beneath-").encode()
    yield found
    shutil.rmtree(found)


def grow(top: bytes, tree: list[tuple[bytes, bytes]]) -> bytes:
    """Make a tree, a file outside of it, and give its root; what cannot be made is left out."""
    shutil.rmtree(top)
    root = os.path.realpath(top) + b"/outside/root"
    os.makedirs(root)
    for name in (b"/a", b"/outside/b"):
        with open(top + name, "wb"):
            pass
    for place, kind in tree:
        path = root + b"/" + place
        if not (os.path.realpath(os.path.dirname(path)) + b"/").startswith(root + b"/"):
            continue  # a link leads out, to the host
        try:
            if kind == b"d":
                os.mkdir(path)
            elif kind == b"f":
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW))
            else:
                os.symlink(kind, path)
        except OSError:
            continue
    return root


def outcome(opening: Callable[[], int]) -> tuple[int, int] | str:
    """Give the inode that was opened, or the error."""
    try:
        fd = opening()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        found = os.fstat(fd)
        return found.st_dev, found.st_ino
    finally:
        os.close(fd)


def both(
    root: bytes, path: bytes, flags: int, resolve: int, *, follows: bool
) -> tuple[object, ...]:
    """Open a path by openat2(2) and by walking."""
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    descriptors = len(os.listdir("/proc/self/fd"))

    def walk() -> int:
        with beneath.Walk(fd, path, flags | os.O_CLOEXEC, follows=follows) as walking:
            return walking.open()

    try:
        by_kernel = outcome(lambda: syscalls.openat2(fd, path, flags, 0, resolve))
        by_walk = outcome(walk)
        assert len(os.listdir("/proc/self/fd")) == descriptors
    finally:
        os.close(fd)
    return by_kernel, by_walk


@needs_openat2
@settings(max_examples=150, deadline=None)
@given(tree=trees, path=paths, flags=st.sampled_from(FLAGS))
def test_walking_in_a_root(
    top: bytes, tree: list[tuple[bytes, bytes]], path: bytes, flags: int
) -> None:
    """Links and `..` inside of the root lead where they do for a process with that root."""
    root = grow(top, tree)
    by_kernel, by_walk = both(root, path, flags, syscalls.RESOLVE_IN_ROOT, follows=True)
    assert by_walk == by_kernel


@needs_openat2
@settings(max_examples=150, deadline=None)
@given(tree=trees, path=paths, flags=st.sampled_from(FLAGS))
def test_walking_without_links(
    top: bytes, tree: list[tuple[bytes, bytes]], path: bytes, flags: int
) -> None:
    """No link is followed, and no `..` leaves the root."""
    root = grow(top, tree)
    by_kernel, by_walk = both(root, path, flags, beneath.NO_LINKS, follows=False)
    assert by_walk == by_kernel


@needs_openat2
@pytest.mark.parametrize("links", [1, 39, 40, 41, 42])
@pytest.mark.parametrize("tail", [b"", b"/file"])
def test_a_chain_of_links(top: bytes, links: int, tail: bytes) -> None:
    """40 links may be followed, and not one more."""
    root = grow(top, [(b"a", b"d")])
    with open(root + b"/a/file", "wb"):
        pass
    previous = b"a"
    for number in range(links):
        os.symlink(b"/" + previous, root + b"/l%d" % number)
        previous = b"l%d" % number
    by_kernel, by_walk = both(
        root, previous + tail, os.O_RDONLY, syscalls.RESOLVE_IN_ROOT, follows=True
    )
    assert by_walk == by_kernel
    assert (by_walk == "ELOOP") == (links > 40)


@needs_openat2
@pytest.mark.parametrize("path", [b"x" * 255, b"x" * 256, b"./" * 2047 + b"a", b"./" * 2048 + b"a"])
def test_long_paths(top: bytes, path: bytes) -> None:
    """What is too long for the kernel is too long for the walk."""
    root = grow(top, [(b"a", b"d")])
    by_kernel, by_walk = both(root, path, os.O_RDONLY, syscalls.RESOLVE_IN_ROOT, follows=True)
    assert by_walk == by_kernel


def test_a_link_out_of_the_root_stays_inside(top: bytes) -> None:
    """An absolute link, and one with more `..` than there are directories."""
    root = grow(top, [(b"b", b"d"), (b"a", b"/b"), (b"c", b"../../../../b")])
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    inside = os.stat(root + b"/b").st_ino
    try:
        for name in (b"a", b"c", b"/a", b"../c"):
            found = outcome(partial(beneath.open_in_root, fd, name, os.O_RDONLY))
            assert found == (os.stat(root).st_dev, inside)
        for name in (b"a", b"c"):
            assert outcome(partial(beneath.open_beneath, fd, name, os.O_RDONLY)) == "ELOOP"
        for name in (b"/b", b"../root/b", b"b/../.."):
            assert outcome(partial(beneath.open_beneath, fd, name, os.O_RDONLY)) == "EXDEV"
    finally:
        os.close(fd)
