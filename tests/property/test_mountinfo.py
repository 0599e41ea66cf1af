# SPDX-License-Identifier: Apache-2.0
"""Laws of mountinfo: what is parsed is written back, whatever a path, source or option holds."""

from __future__ import annotations

import contextlib

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mountcr import paths
from mountcr.errors import PlanError
from mountcr.model import Mount
from mountcr.mountinfo import format_line, format_table, parse_line, parse_table

AWKWARD = st.lists(
    st.sampled_from(
        [b"\\040", b"\\134", b"\\", b"x5c", b"\xff", b",", b":", b"#", b"-", b"a", b"="]
    ),
    max_size=10,
).map(b"".join)
RAW = st.binary(max_size=30) | AWKWARD
FIELD = RAW.map(lambda raw: raw.translate(None, b" \n"))
"""Bytes of one field: the kernel escapes blanks and newlines."""

NUMBER = st.integers(0, 2**31 - 1)
OPTIONAL = st.one_of(
    st.builds("shared:{}".format, NUMBER),
    st.builds("master:{}".format, NUMBER),
    st.builds("propagate_from:{}".format, NUMBER),
    st.just("unbindable"),
    st.just("news:x"),
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """Lines with any bytes in the fields that the kernel does not choose."""
    fields = [
        b"%d" % draw(NUMBER),
        b"%d" % draw(NUMBER),
        b"%d:%d" % (draw(NUMBER), draw(NUMBER)),
        b"/" + draw(FIELD),
        b"/" + draw(FIELD),
        b"rw," + draw(FIELD),
        *(each.encode() for each in draw(st.lists(OPTIONAL, max_size=4))),
        b"-",
        b"x" + draw(FIELD),
    ]
    if draw(st.booleans()):
        fields.append(draw(FIELD))
    return b" ".join([*fields, b"rw" + draw(FIELD)])


@given(lines())
def test_a_line_is_written_back_byte_by_byte(line: bytes) -> None:
    """Format after parse is the identity."""
    assert format_line(parse_line(line)) == line


@given(st.lists(lines(), max_size=4))
def test_a_table_is_written_back_byte_by_byte(table: list[bytes]) -> None:
    """So it is for tables."""
    text = b"".join(line + b"\n" for line in table)
    assert format_table(parse_table(text)) == text


@given(lines())
def test_a_mount_goes_to_json_and_back(line: bytes) -> None:
    """No byte of a line is lost on the way through a facts file."""
    mount = parse_line(line)
    copy = msgspec.json.decode(msgspec.json.encode(mount), type=Mount)
    assert format_line(copy) == line


@given(RAW)
def test_a_mountpoint_means_the_bytes_that_were_mounted_on(raw: bytes) -> None:
    """Escaped as the kernel does it, a mountpoint is read as the bytes it is."""
    shown = b"/" + raw
    for byte in b"\\ \t\n":  # the backslash first: it begins the escapes of the others
        shown = shown.replace(bytes([byte]), b"\\%03o" % byte)
    mount = parse_line(b"1 0 0:1 / " + shown + b" rw - tmpfs t rw")
    assert paths.decode(mount.mountpoint) == b"/" + raw
    assert mount.mountpoint == paths.encode(b"/" + raw)


@given(st.binary(max_size=80))
def test_other_bytes_are_refused_by_one_error(line: bytes) -> None:
    """Nothing but PlanError comes out of bytes that are no line."""
    with contextlib.suppress(PlanError):
        parse_line(line)
