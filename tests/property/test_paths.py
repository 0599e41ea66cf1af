# SPDX-License-Identifier: Apache-2.0
"""Laws of paths: no byte is lost, whatever the bytes are."""

from __future__ import annotations

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from mountcr import paths
from mountcr.paths import KPath

AWKWARD = st.lists(
    st.sampled_from([b"\\", b"x", b"0", b"4", b"1", b"5c", b"\xff", b" ", b"/", b"\n", b"#", b"a"]),
    max_size=12,
).map(b"".join)
"""Bytes of which escapes are made, and bytes that are escaped."""

RAW = st.binary(max_size=40) | AWKWARD
FIELD = RAW.map(lambda raw: raw.replace(b" ", b"").replace(b"\n", b""))


@given(RAW)
@example(b"\\x5c")
@example(b"\\134")
@example(b"\xed\xb3\xbf")
def test_bytes_survive(raw: bytes) -> None:
    """Bytes that are spelled and read back are the same bytes."""
    assert paths.decode(paths.encode(raw)) == raw


@given(FIELD)
@example(b"\\x5c5c")
@example(b"\\\\134")
def test_a_field_is_written_back_as_it_stood(field: bytes) -> None:
    """A field of a line, taken and given back, is the same field."""
    assert paths.to_line(paths.from_line(field)) == field


@given(RAW)
def test_the_spelling_stands_in_a_line_as_it_is(raw: bytes) -> None:
    """What is spelled from bytes needs no other spelling in a line, and fits into one field."""
    spelled = paths.encode(raw)
    line = paths.to_line(spelled)
    assert paths.from_line(line) == spelled
    assert not set(line) & set(b" \t\n")


@given(RAW)
def test_every_spelling_is_json(raw: bytes) -> None:
    """Any path, and any field of a line, goes to JSON and back."""
    for text in (paths.encode(raw), paths.from_line(raw)):
        assert msgspec.json.decode(msgspec.json.encode(text), type=str) == text


@given(RAW)
def test_different_bytes_are_spelled_differently(raw: bytes) -> None:
    """A spelling has one meaning: spelling it again changes nothing."""
    assert paths.encode(paths.decode(paths.encode(raw))) == paths.encode(raw)


COMPONENTS = st.lists(st.sampled_from(["a", "b", "ab", r"a\040b"]), max_size=4)


def _path(components: list[str]) -> KPath:
    return KPath("/" + "/".join(components))


@given(COMPONENTS, COMPONENTS, COMPONENTS)
def test_rebasing_keeps_the_tail(old: list[str], new: list[str], tail: list[str]) -> None:
    """Rebased there and back, a path is itself."""
    path = _path(old + tail)
    moved = paths.rebase(path, _path(old), _path(new))
    assert moved == _path(new + tail)
    assert paths.rebase(moved, _path(new), _path(old)) == path


@given(COMPONENTS, COMPONENTS)
def test_beneath_is_a_prefix_of_components(one: list[str], other: list[str]) -> None:
    """A path is beneath another exactly if its components begin with the other's."""
    assert paths.is_beneath(_path(one), _path(other)) == (one[: len(other)] == other)


@given(COMPONENTS)
def test_parent_and_name_make_the_path(components: list[str]) -> None:
    """The name joined to the parent is the path."""
    path = _path(components)
    assert paths.join(paths.parent(path), paths.name(path)) == path
