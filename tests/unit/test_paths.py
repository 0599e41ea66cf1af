# SPDX-License-Identifier: Apache-2.0
"""Paths are spelled as mountinfo spells them, and compared by whole components."""

from __future__ import annotations

import doctest
import json

import pytest

from mountcr import paths
from mountcr.paths import KPath


def test_the_examples_of_the_documentation_are_true() -> None:
    """Every doctest of the module holds."""
    failed, tried = doctest.testmod(paths)
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize(
    ("raw", "spelled"),
    [
        (b"/a b", r"/a\040b"),
        (b"/a\tb\nc", r"/a\011b\012c"),
        (b"/a\\b", r"/a\134b"),
        (b"/a\\040b", r"/a\134040b"),
        (b"/a#b", "/a#b"),
        ("/käse".encode(), "/käse"),
        (b"/a\xff\xfe", r"/a\xff\xfe"),
        (b"/a\\xff", r"/a\134xff"),
        (b"", ""),
    ],
)
def test_spelling(raw: bytes, spelled: str) -> None:
    """What the kernel escapes is escaped, what is not UTF-8 is spelled in hexadecimal."""
    assert paths.encode(raw) == spelled
    assert paths.decode(KPath(spelled)) == raw
    assert json.loads(json.dumps(spelled)) == spelled


def test_bytes_of_the_interpreter_are_spelled_as_bytes_are() -> None:
    """A path with surrogate escapes, as os.fsdecode() gives it, is the same path."""
    assert paths.encode("/a\udcff b") == paths.encode(b"/a\xff b")


def test_octal_escapes_that_the_kernel_uses_in_one_field_only() -> None:
    """`#` is escaped in sources, a colon in layers of overlay; both mean the byte."""
    assert paths.decode(KPath(r"a\043b\072c\054d")) == b"a#b:c,d"


@pytest.mark.parametrize(
    "field", [rb"/a\b", rb"\\", rb"/a\x41", rb"/a\04", b"/\\\xff", rb"\8", b"\\"]
)
def test_a_backslash_that_escapes_nothing_is_kept(field: bytes) -> None:
    """No kernel prints one, but a line with one is written back as it was."""
    assert paths.to_line(paths.from_line(field)) == field


@pytest.mark.parametrize(
    ("path", "ancestor", "expected"),
    [
        ("/a/b", "/a", True),
        ("/a", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/a/b", False),
        ("/a", "/", True),
        ("/", "/", True),
        ("/", "/a", False),
        (r"/a\040b", "/a", False),
        ("net:[1]", "/", False),
    ],
)
def test_beneath_goes_by_whole_components(path: str, ancestor: str, expected: bool) -> None:
    """`/ab` is not beneath `/a`; every absolute path is beneath the root."""
    assert paths.is_beneath(KPath(path), KPath(ancestor)) is expected


def test_relative_to_what_is_elsewhere() -> None:
    """A path that is not beneath the ancestor is a ValueError that names both."""
    with pytest.raises(ValueError, match="/ab is not beneath /a"):
        paths.relative_to(KPath("/ab"), KPath("/a"))


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("/a/b", "/a", "/x/y", "/x/y/b"),
        ("/a", "/a", "/x", "/x"),
        ("/a/b", "/", "/x", "/x/a/b"),
        ("/a/b", "/a", "/", "/b"),
        ("/a", "/a", "/", "/"),
    ],
)
def test_rebase(path: str, old: str, new: str, expected: str) -> None:
    """The old ancestor is replaced, roots included, without a doubled slash."""
    assert paths.rebase(KPath(path), KPath(old), KPath(new)) == expected


@pytest.mark.parametrize(
    ("path", "above", "last"),
    [("/a/b", "/a", "b"), ("/a", "/", "a"), ("/", "/", ""), ("/a/b/", "/a", "b")],
)
def test_parent_and_name(path: str, above: str, last: str) -> None:
    """The root is its own parent and has no name."""
    assert (paths.parent(KPath(path)), paths.name(KPath(path))) == (above, last)
