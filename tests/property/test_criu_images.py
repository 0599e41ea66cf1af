# SPDX-License-Identifier: Apache-2.0
"""Image files: reading and writing keep each byte, of fields that mountcr does not know too."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountcr.criu import images_pb2 as pb
from mountcr.criu.imagefile import FILES, GHOST_FILE, IMG_COMMON, MM, MOUNTS, PSTREE, Image, parse
from mountcr.criu.images import ImageSet
from mountcr.criu.rewriting import CgroupMap, NamedExternal, Operation, PathMap, rewrite
from mountcr.errors import ImageError
from mountcr.operations.images import ImagesResult, show_images
from mountcr.paths import KPath, encode
from mountcr.render.images import outline_images

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


# --- Whole images ---------------------------------------------------------------------------------

FIXTURES = Path(__file__).parent.parent / "fixtures/images"
WHOLE = {
    str(path.relative_to(FIXTURES)): path.read_bytes()
    for path in sorted(FIXTURES.glob("*/*"))
    if path.name != "README.md" and ".tar." not in path.name
}
KINDS = sorted(WHOLE)

LITTLE = 1 << 20
"""Bytes that reading an image of some kilobytes may take."""


@given(name=st.sampled_from(KINDS), damage=st.data())
@settings(max_examples=400)
def test_a_damaged_image_is_refused_or_valid(name: str, damage: st.DataObject) -> None:
    """
    However an image of any kind is damaged, it is an ImageError or is written as it was read.

    The error names the file and a byte of it, and no length that the file claims is allocated.
    """
    data = bytearray(WHOLE[name])
    for _ in range(damage.draw(st.integers(1, 3), label="times")):
        position = damage.draw(st.integers(0, len(data) - 1), label="position")
        match damage.draw(st.sampled_from(["cut", "flip", "length", "insert", "remove"])):
            case "cut":
                del data[position + 1 :]
            case "flip":
                data[position] ^= damage.draw(st.integers(1, 255))
            case "length":
                length = damage.draw(st.sampled_from([0, 1 << 10, 1 << 30, 0x7FFFFFFF, 0xFFFFFFFF]))
                data[position : position + 4] = length.to_bytes(4, "little")
            case "insert":
                data[position:position] = damage.draw(st.binary(min_size=1, max_size=9))
            case _:
                del data[position : position + damage.draw(st.integers(1, 9))]
        if not data:
            break
    tracemalloc.start()
    found = parsed(bytes(data), name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LITTLE
    if isinstance(found, ImageError):
        assert found.file == name
        assert name in found.message
        assert 0 <= found.offset <= len(data)
    else:
        assert found.to_bytes() == data


def parsed(data: bytes, name: str) -> Image | ImageError:
    try:
        return parse(data, name)
    except ImageError as error:
        return error


@given(name=st.sampled_from(KINDS), garbage=st.binary(max_size=200), kept=st.integers(0, 12))
def test_garbage_is_refused_or_valid(name: str, garbage: bytes, kept: int) -> None:
    """What comes behind some bytes of an image, if it is no entry, is an ImageError."""
    data = WHOLE[name][:kept] + garbage
    with contextlib.suppress(ImageError):
        assert parse(data, name).to_bytes() == data


@given(
    pieces=st.lists(st.tuples(st.binary(max_size=50), st.integers(0, 1 << 40)), max_size=5),
    cut=st.integers(0, 60),
)
def test_the_pieces_of_an_unlinked_file_survive(pieces: list[tuple[bytes, int]], cut: int) -> None:
    """The content of an unlinked file is kept byte by byte; a piece that is cut is an error."""
    head = file_of(
        GHOST_FILE, [pb.GhostFile(uid=1, gid=2, mode=3, chunks=True, size=4).SerializeToString()]
    )
    ends, data = [len(head)], head
    for content, offset in pieces:
        entry = pb.GhostChunk(length=len(content), offset=offset).SerializeToString()
        data += len(entry).to_bytes(4, "little") + entry + content
        ends.append(len(data))
    assert parse(data, "x").to_bytes() == data
    short = data[: max(len(head), len(data) - cut)]
    if len(short) in ends:
        assert parse(short, "x").to_bytes() == short
    else:
        with pytest.raises(ImageError, match="ends within the entry at byte"):
            parse(short, "x")


# --- Whole sets -----------------------------------------------------------------------------------

HELD = "held-files-criu-4.1.1"


@given(name=st.sampled_from([name for name in KINDS if name.startswith(HELD)]), damage=st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_set_is_shown_or_refused(name: str, damage: st.DataObject) -> None:
    """Whatever the messages of a set say, it is shown as text and JSON, or is an ImageError."""
    data = bytearray(WHOLE[name])
    for _ in range(damage.draw(st.integers(1, 4))):
        position = damage.draw(st.integers(8, len(data) - 1))
        data[position] = damage.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as top:
        directory = Path(top, "set")
        shutil.copytree(FIXTURES / HELD, directory)
        (directory / Path(name).name).write_bytes(data)
        with contextlib.suppress(ImageError):
            rewrite(ImageSet(encode(str(directory))), OPERATIONS)
        with contextlib.suppress(ImageError):
            found = show_images(encode(str(directory)))
            assert outline_images(found).plain().startswith(str(encode(top)))
            msgspec.json.decode(msgspec.json.encode(found), type=ImagesResult)


OPERATIONS: list[Operation] = [
    PathMap(because="a test", old=KPath("/tmp"), new=KPath("/t")),
    CgroupMap(because="a test", old=KPath("/web"), new=KPath("/w")),
    NamedExternal(because="a test", mountpoint=KPath("/data"), key="data"),
]
