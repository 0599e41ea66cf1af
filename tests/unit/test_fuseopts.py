# SPDX-License-Identifier: Apache-2.0
"""The command lines of FUSE servers are taken apart as libfuse and the programs do it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountcr.fuseopts import (
    Branch,
    format_branches,
    format_options,
    parse_branches,
    parse_command,
)
from mountcr.kernel.programs import dialect_of
from mountcr.paths import KPath, encode

NAMES = st.binary(min_size=1, max_size=20).map(lambda name: name.replace(b"\0", b"0"))
PATHS = NAMES.map(lambda name: b"/" + name)
BRANCHES = st.lists(
    st.builds(
        Branch,
        PATHS.map(lambda path: path.replace(b":", b"").replace(b"=", b"")),
        st.booleans(),
    ),
    min_size=1,
)


def words(*given: str) -> tuple[KPath, ...]:
    """Give words as observed."""
    return tuple(encode(each) for each in given)


def test_options_are_gathered_from_every_place() -> None:
    """`-o` with its argument beside or behind it, flags left out, the rest are words."""
    command = parse_command(
        words("/usr/bin/unionfs", "-f", "-o", "cow,dirs=/a", "-oallow_other", "/up=RW", "/mnt")
    )
    assert command.program == "unionfs"
    assert command.options == (b"cow", b"dirs=/a", b"allow_other")
    assert command.words == (b"/up=RW", b"/mnt")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (r"a\,b,c", (b"a,b", b"c")),
        (r"a\\b", (rb"a\b",)),
        (r"a\054b", (b"a,b",)),
        (r"a\954b", (b"a954b",)),
        (r"a\05", (b"a05",)),
        ("a,,b,", (b"a", b"b")),
        ("", ()),
    ],
)
def test_escapes_of_libfuse(text: str, options: tuple[bytes, ...]) -> None:
    """A backslash takes what follows for what it is, or three octal digits for a byte."""
    assert parse_command(words("x", "-o", text)).options == options


def test_words_after_two_dashes_are_no_options() -> None:
    """As getopt(3) has it."""
    assert parse_command(words("x", "--", "-o", "a")).words == (b"-o", b"a")


def test_the_last_of_two_values_counts() -> None:
    """As libfuse stores them."""
    command = parse_command(words("x", "-o", "lowerdir=/a,lowerdir=/b"))
    assert command.value(b"lowerdir") == b"/b"
    assert command.value(b"upperdir") is None


@given(st.lists(NAMES))
def test_options_round_trip(options: list[bytes]) -> None:
    """Whatever is in them."""
    command = parse_command((KPath("x"), KPath("-o"), format_options(options)))
    assert command.options == tuple(options)


@pytest.mark.parametrize(
    ("text", "branches"),
    [
        (b"/up=RW:/lo=RO", [("/up", True), ("/lo", False)]),
        (b"/up=rw:/lo", [("/up", True), ("/lo", False)]),
        (b"up=Rw", [("up", True)]),
        (b"/up=what", [("/up", False)]),
        (b":/a::/b:", [("/a", False), ("/b", False)]),
    ],
)
def test_branches(text: bytes, branches: list[tuple[str, bool]]) -> None:
    """Permissions in any case; without one, or with another one, a branch is read-only."""
    assert parse_branches(text) == tuple(Branch(path.encode(), rw) for path, rw in branches)


@given(BRANCHES)
def test_branches_round_trip(branches: list[Branch]) -> None:
    """Any path without a colon or an equals sign."""
    command = parse_command((KPath("unionfs"), format_branches(branches), KPath("/mnt")))
    assert parse_branches(command.words[0]) == tuple(branches)


@pytest.mark.parametrize("path", [b"/a:b", b"/a=b", b""])
def test_a_path_that_is_no_branch(path: bytes) -> None:
    """unionfs-fuse has no escape for it."""
    with pytest.raises(ValueError, match=f"^{encode(path)}$"):
        format_branches([Branch(path, writable=True)])


@pytest.mark.parametrize(
    ("said", "dialect"),
    [
        (b"fusermount3 version: 3.14.0\nunionfs-fuse version: 1.0\n", "unionfs-1.0"),
        (b"unionfs-fuse version: 0.26\n", "unionfs"),
        (b"unionfs-fuse version: 2.2\n", "unionfs"),
        (b"unionfs-fuse version: 3.6\nFUSE library version 3.17.2\n", "unionfs"),
        (b"no version at all", "unionfs"),
    ],
)
def test_marks_by_version(said: bytes, dialect: str) -> None:
    """Version 1.0 alone has a directory for its marks that is called otherwise."""
    assert dialect_of(said) == dialect
