# SPDX-License-Identifier: Apache-2.0
"""Documents of mountcr: whatever is in the file is read, or refused by an error that names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountcr import manifest
from mountcr.bundle import document as bundle
from mountcr.cli.inputs import read_facts
from mountcr.documents import DocumentKind, read_document
from mountcr.errors import DocumentError
from mountcr.paths import encode
from mountcr.rootfs import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KIND: Final = DocumentKind(
    "mountcr/thing/2",
    "thing",
    damaged="write it again",
    newer="read it with that one",
    other="name a thing",
    rule=" (rule: thing)",
)


class Thing(msgspec.Struct):
    """A document."""

    schema: str
    number: int = 0


def read(text: bytes) -> Thing:
    return read_document(text, Thing, KIND, "there")


def test_what_this_version_wrote_is_read() -> None:
    """Fields that are not known are passed over."""
    assert read(b'{"schema": "mountcr/thing/2", "number": 3, "more": []}').number == 3


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (b'{"schema": "mountcr/thing/2", "number": "3"}', r"damaged: .*`\$\.number`", KIND.damaged),
        (b'{"schema": "mountcr/thing/2", "x": ' + b"[" * 100_000, "damaged", KIND.damaged),
        (b'{"schema": "mountcr/thing/\xff"}', "damaged", KIND.damaged),
        (b'{"schema": "mountcr/thing/3"}', "of version 3, newer than mountcr/thing/2", KIND.newer),
        ('{"schema": "mountcr/thing/³"}'.encode(), "no thing of mountcr", KIND.other),
        (b'{"schema": "mountcr/other/3"}', "no thing of mountcr: .*'mountcr/other/3'", KIND.other),
        (
            b'{"schema": "' + b"x" * 10_000 + b'"}',
            "no thing of mountcr: schema 'x{40}'",
            KIND.other,
        ),
        (b"{}", "no thing of mountcr", KIND.other),
    ],
)
def test_an_error_says_which(text: bytes, message: str, hint: str) -> None:
    """Damaged, newer or another one: the place, what it is, the rule and what to do."""
    with pytest.raises(DocumentError, match=message) as caught:
        read(text)
    assert caught.value.message.startswith("there is ")
    assert caught.value.message.endswith(" (rule: thing)")
    assert caught.value.hint == hint


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(msgspec.json.encode))
def test_any_bytes_are_refused_in_one_line(text: bytes) -> None:
    """No other error, and nothing that moves a cursor."""
    with pytest.raises(DocumentError) as caught:
        read(text)
    assert caught.value.message.isprintable()


READERS: Final[dict[str, Callable[[Path], Any]]] = {
    manifest.MANIFEST: lambda path: manifest.read(encode(str(path.parent))),
    fingerprint.FINGERPRINT: lambda path: fingerprint.read(encode(str(path.parent))),
    "facts.json": lambda path: read_facts(str(path)),
    "web.tar": lambda path: bundle.parse(path.read_bytes(), path.name),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", [b"", b"\xff", b'{"schema": "\xff"}', b"[" * 100_000])
def test_every_reader_names_its_file(name: str, text: bytes, tmp_path: Path) -> None:
    """Whichever document is damaged, and however."""
    (tmp_path / name).write_bytes(text)
    with pytest.raises(DocumentError, match="is damaged") as caught:
        READERS[name](tmp_path / name)
    assert name in caught.value.message
    assert caught.value.hint
