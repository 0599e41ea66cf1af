# SPDX-License-Identifier: Apache-2.0
"""Image files: reading and writing keep each byte, of fields that mountcr does not know too."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from mountcr.criu import images_pb2 as pb
from mountcr.criu.imagefile import FILES, IMG_COMMON, MM, MOUNTS, PSTREE, parse
from mountcr.errors import ImageError

if TYPE_CHECKING:
    from google.protobuf.message import Message


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


IDS = st.integers(0, 0xFFFFFFFF)
TEXTS = st.binary(max_size=12)
MESSAGES: st.SearchStrategy[tuple[int, Message]] = st.one_of(
    st.builds(pb.PstreeEntry, pid=IDS, ppid=IDS, pgid=IDS, sid=IDS, threads=st.lists(IDS)).map(
        lambda message: (PSTREE, message)
    ),
    st.builds(
        pb.FileEntry,
        type=st.just(1),
        id=IDS,
        reg=st.builds(
            pb.RegularFile,
            id=IDS,
            flags=IDS,
            pos=st.integers(0, 1 << 63),
            name=TEXTS,
            mnt_id=st.integers(-1, 1 << 30),
        ),
    ).map(lambda message: (FILES, message)),
    st.builds(
        pb.MountEntry,
        fstype=st.integers(0, 30),
        mnt_id=IDS,
        root_dev=IDS,
        parent_mnt_id=IDS,
        flags=IDS,
        root=TEXTS,
        mountpoint=TEXTS,
        source=TEXTS,
        options=TEXTS,
        ext_key=TEXTS,
    ).map(lambda message: (MOUNTS, message)),
    st.builds(pb.MmEntry, exe_file_id=IDS).map(lambda message: (MM, message)),
)
# Numbers that no message of ours has; they come first, as no canonical encoder would put them.
UNKNOWN = st.lists(st.tuples(st.integers(40, 500), TEXTS), max_size=3)


def file_of(magic: int, payloads: list[bytes]) -> bytes:
    words = [IMG_COMMON, magic]
    data = b"".join(word.to_bytes(4, "little") for word in words)
    return data + b"".join(len(raw).to_bytes(4, "little") + raw for raw in payloads)


@given(entry=MESSAGES, unknown=UNKNOWN, count=st.integers(0, 3))
def test_write_after_read_is_the_identity(
    entry: tuple[int, Message], unknown: list[tuple[int, bytes]], count: int
) -> None:
    """What is read and not changed is written byte by byte as it was, in its order."""
    magic, message = entry
    raw = b"".join(field(*item) for item in unknown) + message.SerializeToString()
    data = file_of(magic, [raw] * count)
    image = parse(data, "x")
    assert len(image.entries) == count
    assert image.to_bytes() == data


@given(entry=MESSAGES, unknown=UNKNOWN)
def test_unknown_fields_survive_a_change(
    entry: tuple[int, Message], unknown: list[tuple[int, bytes]]
) -> None:
    """A message that is changed keeps the fields that mountcr does not know."""
    magic, message = entry
    raw = b"".join(field(*item) for item in unknown) + message.SerializeToString()
    image = parse(file_of(magic, [raw]), "x")
    changed = image.entries[0].message
    name = {PSTREE: "sid", FILES: "id", MOUNTS: "mnt_id", MM: "exe_file_id"}[magic]
    value = getattr(changed, name) ^ 1
    setattr(changed, name, value)
    again = parse(image.to_bytes(), "x").entries[0]
    assert getattr(again.message, name) == value
    for item in unknown:
        assert field(*item) in again.raw


@given(entry=MESSAGES, damage=st.data())
def test_damage_never_escapes(entry: tuple[int, Message], damage: st.DataObject) -> None:
    """Any change of any byte gives an image or an ImageError, nothing else."""
    magic, message = entry
    data = bytearray(file_of(magic, [message.SerializeToString()] * 2))
    position = damage.draw(st.integers(0, len(data) - 1))
    data[position] = damage.draw(st.integers(0, 255))
    kept = bytes(data)
    with contextlib.suppress(ImageError):
        kept = parse(bytes(data), "x").to_bytes()
    assert kept == bytes(data)
