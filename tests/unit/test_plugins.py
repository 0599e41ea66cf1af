# SPDX-License-Identifier: Apache-2.0
"""Plug-ins of other distributions are found, and a broken one disturbs nobody."""

from __future__ import annotations

import sys
from importlib import invalidate_caches
from typing import TYPE_CHECKING

import pytest

from mountcr.engines import Roots, engines, find
from mountcr.plugins import offered

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = """
from mountcr.model import Container

class Box:
    name = "box"

    def containers(self, roots):
        return [Container(id="b1", engine="box", name="web")]

    def damages(self):
        return []

    def describe(self, container, roots):
        return container

    def lookup(self, reference, roots):
        return None
"""


def _install(directory: Path, monkeypatch: pytest.MonkeyPatch, entries: str) -> None:
    """Install a distribution with a module `boxes` and entry points into a directory."""
    (directory / "boxes.py").write_text(ENGINE)
    metadata = directory / "boxes-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: boxes\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entries)
    monkeypatch.setattr(sys, "path", [str(directory), *sys.path])
    monkeypatch.delitem(sys.modules, "boxes", raising=False)
    invalidate_caches()


def test_an_engine_of_another_distribution_is_asked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine in the entry-point group answers like a built-in one."""
    _install(tmp_path, monkeypatch, "[mountcr.engines]\nbox = boxes:Box\n")
    assert next(engine.name for engine in engines()) == "box"
    assert find("web", roots=Roots()).engine == "box"
    assert find("box:b", roots=Roots()).id == "b1"


def test_a_plug_in_that_cannot_be_imported_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others keep working; a warning names the plug-in."""
    entries = "[mountcr.engines]\nbad = no_such_module_at_all:X\nbox = boxes:Box\n"
    _install(tmp_path, monkeypatch, entries)
    with pytest.warns(RuntimeWarning, match="bad = no_such_module_at_all:X cannot be loaded"):
        names = [name for name, _ in offered("mountcr.engines")]
    assert names == ["box"]


def test_a_built_in_engine_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a built-in engine means the built-in engine."""
    _install(tmp_path, monkeypatch, "[mountcr.engines]\nrunc = boxes:Box\n")
    assert "box" not in [engine.name for engine in engines()]


def test_nothing_offered_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another group of another distribution is not ours."""
    _install(tmp_path, monkeypatch, "[console_scripts]\nbox = boxes:Box\n")
    assert list(offered("mountcr.engines")) == []
