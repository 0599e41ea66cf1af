# SPDX-License-Identifier: Apache-2.0
"""What is read of recorded engines is what they and the kernel said, whole and from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from captures.__main__ import ENGINES, main
from captures.engines import claims, is_engine_capture

if TYPE_CHECKING:
    from pathlib import Path

CAPTURES = sorted(
    path for kind in ("docker", "podman") for path in (ENGINES / kind).iterdir() if path.is_dir()
)


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.name)
def test_every_fact_is_what_was_said(capture: Path) -> None:
    """Names, files, mounts and layers, though the root lies elsewhere and without its layers."""
    assert is_engine_capture(capture)
    found = claims(capture)
    assert len(found) >= 10
    assert [each for each in found if not each.right] == []


def test_a_fact_that_is_not_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table counts it, a line says both sides, and the status is 1."""
    import shutil

    copy = tmp_path / "docker-overlay2"
    shutil.copytree(ENGINES / "docker/docker-overlay2", copy)
    answer = copy / "inspect.json"
    answer.write_text(answer.read_text().replace('"Name": "/lab"', '"Name": "/other"'))
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "docker-overlay2: name is /lab, not /other" in printed
