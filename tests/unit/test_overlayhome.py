# SPDX-License-Identifier: Apache-2.0
"""A directory of layers: what short names, their files and the lists of lowers say."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import builders
from mountcr.observation.layers import with_layers
from mountcr.overlayhome import ShortNames, layer_of, more_diffs, recorded_lowers, short_name

if TYPE_CHECKING:
    from pathlib import Path


def layer(home: Path, identity: str, name: str) -> Path:
    """Make a layer whose file has a short name, and no link."""
    (home / identity / "diff").mkdir(parents=True)
    (home / identity / "link").write_text(f"{name}\n")
    return home / identity


@pytest.mark.parametrize(
    ("word", "name"),
    [("l/ABC", "ABC"), ("ABC", ""), ("l/", ""), ("l/..", ""), ("l/A/B", ""), ("/l/A", "")],
)
def test_short_names_are_below_one_directory(word: str, name: str) -> None:
    """A short name is `l/` with one component, and nothing else is."""
    assert short_name(word) == name


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("../12ab/diff", "12ab"),
        ("../12ab/diff/", "12ab"),
        ("/12ab/diff", ""),
        ("../../diff", ""),
        ("../12ab/merged", ""),
        ("../a/b/diff", ""),
        ("", ""),
    ],
)
def test_links_lead_to_a_layer_beside_them(target: str, found: str) -> None:
    """A link of a short name is `../<id>/diff`; what has another text leads to no layer."""
    assert layer_of(target) == found


def test_a_link_is_read_and_not_followed(tmp_path: Path) -> None:
    """The text of a link is given, whether there is a layer or not."""
    (tmp_path / "l").mkdir()
    (tmp_path / "l/ABC").symlink_to("../gone/diff")
    assert ShortNames(str(tmp_path)).target("ABC") == "../gone/diff"
    with pytest.raises(FileNotFoundError):
        ShortNames(str(tmp_path)).target("DEF")


def test_a_name_is_the_first_layers_that_has_it(tmp_path: Path) -> None:
    """Of two layers with one short name in their files, the first by its id has it."""
    layer(tmp_path, "b", "ABC")
    layer(tmp_path, "a", "ABC")
    layer(tmp_path, "c", "")
    names = ShortNames(str(tmp_path))
    assert names.repaired("ABC") == "a"
    assert names.repaired("") == names.repaired("DEF") == ""


def test_the_files_are_read_once_and_only_when_a_link_is_lost(tmp_path: Path) -> None:
    """The file of each layer is read by the first name that is lost."""
    layer(tmp_path, "a", "ABC")
    (tmp_path / "l").mkdir()
    (tmp_path / "l/ABC").symlink_to("../a/diff")
    read: list[str] = []

    def word(file: str) -> str:
        read.append(file)
        return "ABC" if "/a/" in file else ""

    names = ShortNames(str(tmp_path), word)
    assert layer_of(names.target("ABC")) == "a"
    assert read == []
    assert names.repaired("ABC") == "a"
    assert names.repaired("DEF") == ""
    assert read == [f"{tmp_path}/{each}/link" for each in ("a", "l")]


def test_what_is_no_file_of_a_name_names_nothing(tmp_path: Path) -> None:
    """Neither a pipe, a directory nor a link does, nor anything below a home that is gone."""
    (tmp_path / "directory/link").mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/link")
    (tmp_path / "secret").write_text("ABC")
    (tmp_path / "away").mkdir()
    (tmp_path / "away/link").symlink_to(tmp_path / "secret")
    assert ShortNames(str(tmp_path)).repaired("ABC") == ""
    assert ShortNames(f"{tmp_path}/gone").repaired("ABC") == ""


def test_ids_count_before_short_names() -> None:
    """`lower-layers` is read, and `lower` only where that tells nothing."""
    files = {"/h/a/lower-layers": "c:d", "/h/a/lower": "l/C:l/D", "/h/b/lower": ""}
    assert recorded_lowers("/h/a", files.get) == ("/h/a/lower-layers", "c:d", False)
    assert recorded_lowers("/h/b", files.get) == ("/h/b/lower", "", True)
    assert recorded_lowers("/h/c", files.get) == ("/h/c/lower", None, True)


def test_more_directories_are_counted_from_one(tmp_path: Path) -> None:
    """`diff1` and `diff2` are of the layer, and `diff4` without `diff3` is not."""
    for each in ("diff", "diff1", "diff2", "diff4"):
        (tmp_path / each).mkdir()
    assert more_diffs(str(tmp_path)) == [f"{tmp_path}/diff1", f"{tmp_path}/diff2"]
    assert more_diffs(str(tmp_path), lambda path: path.endswith("1")) == [f"{tmp_path}/diff1"]


def test_a_name_is_looked_for_beside_places_that_are_gone(tmp_path: Path) -> None:
    """An upper whose directory is not on the host does not keep a mountpoint from telling."""
    (tmp_path / "l").mkdir()
    layer(tmp_path, "a", "ABC")
    own = layer(tmp_path, "own", "OWN")
    (own / "merged").mkdir()
    mount = builders.mount(
        "1 0 0:50 / / rw - overlay overlay rw,lowerdir=l/ABC,upperdir=own/diff,workdir=own/diff"
    )
    gone = builders.mount(f"1 0 0:50 / {tmp_path}/gone/away/merged rw - overlay overlay rw")
    there = builders.mount(f"1 0 0:50 / {own}/merged rw - overlay overlay rw")
    found = with_layers(mount, near=[gone.mountpoint, there.mountpoint]).layers
    assert found
    assert found.lowers == (f"{tmp_path}/a/diff",)


def test_numbers_count_every_directory_of_a_layer(tmp_path: Path) -> None:
    """A layer that is named beside an upper has its `diff1` too; what is no layer has nothing."""
    layer(tmp_path, "a", "ABC")
    (tmp_path / "a/diff1").mkdir()
    own = layer(tmp_path, "own", "OWN")
    (own / "lower").write_text("l/ABC")
    mount = builders.mount(
        f"1 0 0:50 / / rw - overlay overlay rw,lowerdir=3:4,upperdir={own}/diff,workdir={own}/work"
    )
    found = with_layers(mount).layers
    assert found
    assert found.lowers == (f"{tmp_path}/a/diff", f"{tmp_path}/a/diff1")
    (own / "lower").write_text("l/OTHER:l/ABC")
    (tmp_path / "l/OTHER").mkdir(parents=True)
    assert with_layers(mount) is mount


def test_observing_does_not_load_the_engines() -> None:
    """Mount tables are observed without the package of engines, which takes time to start."""
    program = "import sys, mountcr.observation.layers; print('mountcr.engines' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout == b"False\n"
