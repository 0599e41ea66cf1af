# SPDX-License-Identifier: Apache-2.0
"""Whatever is written in an OCI image layout, reading it ends with its members or with an error."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountcr.bundle.annotations import BUNDLE_DIGEST
from mountcr.bundle.layout import Image, write_layout
from mountcr.bundle.reader import opened_members
from mountcr.compression import Compression, Level
from mountcr.errors import MountcrError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.bundle.writer import Sink
    from mountcr.compression import Output

CONTENT = b"content"

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["sha256:../../x", "/etc/passwd", f"sha256:{'0' * 64}", "a\0b", "\ud800"]),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=5,
)


def put(content: bytes, file: Output) -> None:
    file.write(content)


def members(sink: Sink) -> None:
    sink.add("manifest.json", len(CONTENT), partial(put, CONTENT))


@pytest.fixture(scope="module")
def layout() -> Iterator[Path]:
    """A layout, of which only index.json is changed, and blobs are added."""
    with tempfile.TemporaryDirectory() as top:
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        image = Image("web", "2020-01-01T00:00:00Z", "amd64", {BUNDLE_DIGEST: "0"})
        try:
            write_layout(fd, Level(Compression.NONE), image, members)
        finally:
            os.close(fd)
        yield Path(top)


def inner(value: Any) -> dict[Any, Any]:
    """Give what is in a value, by key or number."""
    is_mapping, is_list = isinstance(value, dict), isinstance(value, list)
    found: Any = value if is_mapping else enumerate(value) if is_list else ()
    return dict(found)


def places(value: Any, *above: Any) -> list[tuple[Any, ...]]:
    """Give the way to each value in a document, the document itself first."""
    ways: list[tuple[Any, ...]] = [above]
    for key, each in inner(value).items():
        ways += places(each, *above, key)
    return ways


def changed(document: Any, way: tuple[Any, ...], value: Any) -> Any:
    """Give a document in which one value is another one."""
    if not way:
        return value
    copy = inner(document)
    copy = {**copy, way[0]: changed(copy[way[0]], way[1:], value)}
    return list(copy.values()) if isinstance(document, list) else copy


def read(layout: Path) -> str:
    """Read it: what it gives is what was put in; the error, if it is one of ours."""
    try:
        with opened_members(str(layout)) as (_, found):
            for member, content in found:
                assert (member.name, bytes(content.some())) == ("manifest.json", CONTENT)
    except MountcrError as error:
        return error.message
    return ""


def is_shown(message: str) -> bool:
    """Tell whether an error is one line, and not a long one."""
    return "\n" not in message and len(message) < 1000


@given(data=st.data())
def test_any_value_may_be_another_one(layout: Path, data: st.DataObject) -> None:
    """In the index, or in a manifest with the right digest: no traceback, no other file."""
    original = (layout / "index.json").read_bytes()
    index = json.loads(original)
    descriptor = index["manifests"][0]
    manifest = json.loads((layout / "blobs/sha256" / descriptor["digest"][7:]).read_bytes())
    of_manifest = data.draw(st.booleans())
    document = manifest if of_manifest else index
    way = data.draw(st.sampled_from(places(document)))
    text = json.dumps(changed(document, way, data.draw(VALUES))).encode()
    if of_manifest:
        digest = hashlib.sha256(text).hexdigest()
        (layout / "blobs/sha256" / digest).write_bytes(text)
        descriptor.update(digest=f"sha256:{digest}", size=len(text))
        text = json.dumps(index).encode()
    try:
        (layout / "index.json").write_bytes(text)
        assert is_shown(read(layout))
    finally:
        (layout / "index.json").write_bytes(original)


@given(text=st.binary(max_size=200))
def test_any_bytes_may_be_an_index(layout: Path, text: bytes) -> None:
    """They are an index, or an error that names it."""
    original = (layout / "index.json").read_bytes()
    try:
        (layout / "index.json").write_bytes(text)
        assert is_shown(read(layout))
    finally:
        (layout / "index.json").write_bytes(original)
