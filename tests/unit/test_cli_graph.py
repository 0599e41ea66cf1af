# SPDX-License-Identifier: Apache-2.0
"""`mountcr graph` on a file of facts: its forms, the file it writes, and how it ends."""

from __future__ import annotations

import json
import os
import stat
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.cli import main

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = {
    "tree": "1 mount namespace(s)\n",
    "json": '{\n  "schema": "mountcr/graph/1"',
    "dot": "digraph mounts {\n",
    "html": "<!DOCTYPE html>\n",
}


@pytest.fixture
def facts(tmp_path: Path) -> str:
    """A file with the facts of a recorded container."""
    found = builders.facts(
        builders.recorded("docker26-overlay2"), builders.recorded("docker26-overlay2.host")
    )
    path = tmp_path / "facts.json"
    path.write_bytes(msgspec.json.encode(found))
    return str(path)


def printed(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the command; give its exit status and what it printed."""
    status = main(["graph", *words])
    out, err = capfd.readouterr()
    return status, out, err


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_goes_to_a_file_too(
    facts: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    """What is printed is what is written, and nothing else is left in the directory."""
    status, out, err = printed(capfd, facts, "--format", form)
    assert (status, err) == (0, "")
    assert out.startswith(FORMATS[form])
    directory = tmp_path / "there"
    directory.mkdir()
    file = directory / "graph"
    assert printed(capfd, facts, "--format", form, "-o", str(file)) == (0, "", "")
    assert file.read_text() == out
    assert os.listdir(directory) == ["graph"]


def test_the_tree_is_the_default_and_marks_externals(
    facts: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Externals have the names that the plan gives them."""
    _, tree, _ = printed(capfd, facts)
    assert main(["plan", facts, "--json"]) == 0
    externals = json.loads(capfd.readouterr().out)["externals"]
    assert externals
    for each in externals:
        assert f" external {each['key']}" in tree


def test_the_document_is_as_its_schema_says(facts: str, capfd: pytest.CaptureFixture[str]) -> None:
    """`--json` and `--format json` are one, with the keys that `mountcr schema graph` names."""
    _, out, _ = printed(capfd, facts, "--json")
    assert printed(capfd, facts, "--format", "json")[1] == out
    document = json.loads(out)
    assert main(["schema", "graph"]) == 0
    kinds = json.loads(capfd.readouterr().out)["$defs"]
    assert set(document) == set(kinds["GraphDocument"]["properties"])
    for name, records in (("NodeRecord", document["mounts"]), ("EdgeRecord", document["edges"])):
        assert all(set(each) == set(kinds[name]["properties"]) for each in records)


@pytest.mark.requires("dot")
def test_a_picture(facts: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Graphviz draws it, and it stands in the page."""
    status, out, err = printed(capfd, facts, "--format", "svg")
    assert (status, err) == (0, "")
    assert out.startswith("<?xml")
    assert out.rstrip().endswith("</svg>")
    _, page, _ = printed(capfd, facts, "--format", "html")
    assert 'class="graph"' in page
    assert 'class="own"' not in page


def test_without_graphviz(
    facts: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no file in SVG, which is said in a line, but a page all the same."""
    monkeypatch.setenv("PATH", str(tmp_path))
    output = tmp_path / "picture.svg"
    status, out, err = printed(capfd, facts, "--format", "svg", "-o", str(output))
    assert (status, out, output.exists()) == (6, "", False)
    message, hint = err.splitlines()
    assert message == "mountcr: there is no program `dot` to draw it"
    assert hint.startswith("  hint: install Graphviz")
    status, page, err = printed(capfd, facts, "--format", "html")
    assert (status, err) == (0, "")
    assert 'class="own"' in page


def test_two_forms_at_once(facts: str, capfd: pytest.CaptureFixture[str]) -> None:
    """`--json` is a form, so it goes with no other."""
    status, out, err = printed(capfd, facts, "--json", "--format", "dot")
    assert (status, out) == (2, "")
    assert "--json and --format dot exclude each other" in err


def test_a_file_is_replaced_whole(
    facts: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Who has the old file open goes on reading it; a link is followed; the umask decides."""
    file, link = tmp_path / "graph.dot", tmp_path / "link"
    file.write_text("old")
    link.symlink_to(file)
    before = os.umask(0o027)
    try:
        with file.open() as reader:
            assert printed(capfd, facts, "--format", "dot", "-o", str(link))[0] == 0
            assert reader.read() == "old"
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert file.read_text().startswith("digraph")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_file_that_cannot_be_written(
    facts: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error names the file, and nothing is left."""
    for path in (tmp_path / "nowhere/graph.dot", tmp_path):
        status, out, err = printed(capfd, facts, "--format", "dot", "-o", str(path))
        assert (status, out) == (1, "")
        assert err.startswith(f"mountcr: {path}: ")
    assert os.listdir(tmp_path) == ["facts.json"]


def test_a_pipe_is_written_into(
    facts: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is no regular file stays what it is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()), daemon=True)
    reader.start()
    assert printed(capfd, facts, "--format", "dot", "-o", str(pipe))[0] == 0
    reader.join(10)
    assert found[0].startswith("digraph")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
