# SPDX-License-Identifier: Apache-2.0
"""Claims about any archive of another tool: it is read, or refused in one line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from archives import CONTAINERD, PODMAN, copied, crio, unpacked
from mountcr.bundle.foreign import read_checkpoint, recognise
from mountcr.bundle.foreign.unpacked import container_path, plain_name
from mountcr.errors import DocumentError

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


def _fields(document: Json, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Give the way to every value in a document."""
    found = [prefix] if prefix else []
    pairs: list[tuple[str | int, Json]] = []
    if isinstance(document, dict):
        pairs = [*document.items()]
    elif isinstance(document, list):
        pairs = [*enumerate(document)]
    for name, value in pairs:
        found += _fields(value, (*prefix, name))
    return found


@given(st.data())
def test_one_value_that_is_another_one_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever stands in one field of an archive, it is read, or refused with a line."""
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory, "archive")
        kind = data.draw(st.sampled_from(["podman", "cri-o"]))
        if kind == "podman":
            copied(PODMAN, top)
        else:
            crio(top)
        names = ["config.dump", "spec.dump", "deleted.files", "checkpoint/descriptors.json"]
        file = top / data.draw(st.sampled_from(names))
        document = json.loads(file.read_bytes())
        where = data.draw(st.sampled_from(_fields(document)))
        inner = document
        for each in where[:-1]:
            inner = inner[each]
        inner[where[-1]] = data.draw(_VALUES)
        file.write_text(json.dumps(document))
        _read_or_refused(top)


@given(st.sampled_from(["config.dump", "spec.dump"]), st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(name: str, content: bytes) -> None:
    """Whatever bytes are in a member, the archive is read, or refused with a line."""
    with tempfile.TemporaryDirectory() as directory:
        top = copied(PODMAN, Path(directory, "archive"))
        (top / name).write_bytes(content)
        _read_or_refused(top)


@given(st.data())
def test_any_blob_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever an index of OCI says, the archive is read, or refused with a line."""
    with tempfile.TemporaryDirectory() as directory:
        top = copied(CONTAINERD, Path(directory, "archive"))
        document = json.loads((top / "index.json").read_bytes())
        where = data.draw(st.sampled_from(_fields(document)))
        inner = document
        for each in where[:-1]:
            inner = inner[each]
        inner[where[-1]] = data.draw(_VALUES)
        (top / "index.json").write_text(json.dumps(document))
        _read_or_refused(top)


def _read_or_refused(top: Path) -> None:
    refused: DocumentError | None = None
    try:
        if recognise(unpacked(top)):
            read_checkpoint(unpacked(top))
    except DocumentError as error:
        refused = error
    assert refused is None or (refused.hint and "\n" not in refused.message)


@given(st.text())
def test_a_path_of_a_container_stays_in_it(text: str) -> None:
    """A path is absolute and without `..`, or none."""
    found = container_path(text)
    assert found is None or (found.startswith("/") and ".." not in found.split("/"))


@given(st.text())
def test_a_plain_name_is_one_component(text: str) -> None:
    """A name that is taken is one component of a path, and none that begins with a dot or dash."""
    if plain_name(text):
        assert "/" not in text
        assert text[0].isalnum()
        assert text.isascii()
