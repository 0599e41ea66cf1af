# SPDX-License-Identifier: Apache-2.0
"""Reading the state of an engine below its roots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.engines.reading import Reader, names_in
from mountcr.paths import encode

if TYPE_CHECKING:
    from pathlib import Path


def test_a_fresh_reader_has_the_roots_and_met_nothing(tmp_path: Path) -> None:
    """A fresh reader reads below the same roots; what either meets or tells is its own."""
    for name in ("root", "root-beside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("word\n")
    reader = Reader(encode(str(tmp_path / "root")))
    reader.tell("fact", "file")
    assert reader.text(f"{tmp_path}/root/gone") is None
    fresh = reader.fresh()
    assert (fresh.damages, fresh.told) == ([], [])
    assert fresh.text(f"{tmp_path}/root/file") == "word"
    assert fresh.text(f"{tmp_path}/root-beside/file") is None
    assert [each.what for each in reader.damages] == ["is missing"]
    assert "leads out of the root" in fresh.damages[0].what


def test_without_roots_nothing_is_read(tmp_path: Path) -> None:
    """A reader that was given no root reads no file."""
    (tmp_path / "file").write_text("word")
    assert Reader().text(f"{tmp_path}/file") is None


def test_names_are_in_order(tmp_path: Path) -> None:
    """The names in a directory are sorted; one that is not there has none."""
    for name in ("b", "a"):
        (tmp_path / name).touch()
    assert names_in(str(tmp_path)) == ["a", "b"]
    assert names_in(f"{tmp_path}/gone") == []
