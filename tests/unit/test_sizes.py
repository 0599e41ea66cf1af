# SPDX-License-Identifier: Apache-2.0
"""The size of a layer is what it takes on disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mountcr.observation.sizes import size_of
from mountcr.paths import encode

if TYPE_CHECKING:
    from pathlib import Path


def test_blocks_are_counted_and_links_once(tmp_path: Path) -> None:
    """A sparse file takes what it takes, and a second name of a file nothing."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    (tmp_path / "loop").symlink_to(".")
    before = size_of(encode(str(tmp_path)))
    assert 100_000 <= before < 200_000
    (tmp_path / "second").hardlink_to(tmp_path / "below" / "file")
    assert size_of(encode(str(tmp_path))) == before


def test_a_layer_that_is_gone_has_no_size(tmp_path: Path) -> None:
    """Nobody is told 0 for what could not be looked at."""
    assert size_of(encode(str(tmp_path / "gone"))) == -1
