# SPDX-License-Identifier: Apache-2.0
"""The demonstration, as somebody sees it who types one command."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from e2e.conftest import Place


@pytest.fixture(autouse=True)
def _temporary(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(place.directory("tmp")))


def is_clean(place: Place) -> bool:
    """Tell whether nothing is left of the demonstration."""
    place.wait(lambda: not place.processes())
    return os.listdir(place.top / "tmp") == [] and place.mounted() == [str(place.top)]


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_counter_goes_on(place: Place, driver: str) -> None:
    """The counter goes on, on the driver that was asked for, and nothing is left."""
    done = place.mountcr("demo", "--driver", driver)
    assert (done.status, done.err) == (0, "")
    last = done.out.splitlines()[-1]
    assert last.startswith("counter ")
    assert f"(restored on {driver})" in last
    assert "/etc/motd is 'from the middle', whiteout kept: True" in done.out
    assert is_clean(place)


def test_document(place: Place) -> None:
    """As JSON it says how far the counter was; the talk goes to standard error."""
    done = place.mountcr("demo", "--json")
    assert done.status == 0
    assert done.document["started"] <= done.document["dumped"] < done.document["restored"]
    assert done.document["driver"] == "overlay"
    assert "mountcr restore" in done.err
    assert is_clean(place)


def test_failure(place: Place) -> None:
    """A demonstration that fails cleans up too."""
    done = place.mountcr("demo", environment={"MOUNTCR_CRIU": "/nonexistent"})
    assert done.status == 6
    assert done.err.startswith("mountcr: ")
    assert is_clean(place)


def test_installed_command(place: Place) -> None:
    """The command that is installed is the module."""
    command = shutil.which("mountcr", path=os.path.dirname(sys.executable))
    if command is None:
        pytest.skip("mountcr is not installed beside this Python")
    assert place.mountcr("--version").out == place.run(command, "--version").out
