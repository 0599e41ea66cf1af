# SPDX-License-Identifier: Apache-2.0
"""Claims about `kernel-notes/`: every quirk has a note, and what a note names is there."""

from __future__ import annotations

import ast
import functools
import importlib
import operator
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import pytest

from mountcr.resolution.quirks import Quirk
from mountcr.rules.table import table

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
OTHERS: Final = {"README.md", "matrix.md"}
"""The table of the notes, and what was seen of them."""

NOTES: Final = sorted(
    each for each in (ROOT / "kernel-notes").glob("*.md") if each.name not in OTHERS
)
EVERY: Final = pytest.mark.parametrize("path", NOTES, ids=lambda each: each.stem)

PARAGRAPHS: Final = ("Symptom", "Cause", "Detected", "Undone", "Test")
LAYOUT: Final = re.compile(
    r"\+\+\+\n(?P<fields>.*?)\+\+\+\n\n# (?P<title>.+?)\n\n(?P<prose>.*)", re.DOTALL
)
RELEASE: Final = re.compile(r"([0-9]+(\.[0-9]+)+)?")
COMMIT: Final = re.compile(r'([0-9a-f]{12} \(".+"\)(, (?=[0-9a-f]{12} ))?)*')
MENTION: Final = re.compile(r"kernel-notes/([A-Za-z0-9_-]+\.md)")
ROW: Final = re.compile(r"\| (\[.*) \|")


class Fields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands between the two lines `+++`; none may be left out."""

    id: str
    kernels: str
    since: str
    until: str
    commit: str
    symptom: str
    rules: tuple[str, ...]
    tests: tuple[str, ...]


class Note(NamedTuple):
    """A note, taken apart."""

    fields: Fields
    title: str
    prose: str


def read(path: Path) -> Note:
    """Take a note apart."""
    found = LAYOUT.fullmatch(path.read_text(encoding="utf-8"))
    assert found, f"{path.name} has no fields and title at its top"
    fields = msgspec.convert(tomllib.loads(found["fields"]), Fields)
    return Note(fields, found["title"], found["prose"])


def named(dotted: str) -> object:
    """Give what `module:name` stands for."""
    module, _, name = dotted.partition(":")
    found: object = operator.attrgetter(name)(importlib.import_module(module))
    return found


@functools.cache
def functions_of(name: str) -> frozenset[str]:
    """Give the test functions that a file defines."""
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    return frozenset(
        each.name
        for each in tree.body
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
    )


def mentioned() -> Iterator[tuple[str, str]]:
    """Give every note that a file mentions by path, with that file."""
    places = ("mountcr", "drivers", "tests", "tools")
    files = [each for place in places for each in (ROOT / place).rglob("*") if each.is_file()]
    for path in (*files, *ROOT.glob("*.md"), *NOTES):
        if path.suffix in {".py", ".pyi", ".toml", ".txt", ".md", ".c", ""}:
            content = path.read_text(encoding="utf-8", errors="replace")
            yield from ((str(path.relative_to(ROOT)), each) for each in MENTION.findall(content))


@pytest.mark.parametrize("quirk", Quirk)
def test_every_quirk_has_a_note(quirk: Quirk) -> None:
    """What `mountcr files` names is explained."""
    assert f"{quirk}.md" in {each.name for each in NOTES}


@EVERY
def test_the_fields_of_a_note(path: Path) -> None:
    """All are there and no other; the id is the name of the file, releases and commits are such."""
    fields = read(path).fields
    assert fields.id == path.stem
    assert re.fullmatch(r"[^|\n]+\.", fields.kernels)
    assert RELEASE.fullmatch(fields.since)
    assert RELEASE.fullmatch(fields.until)
    assert COMMIT.fullmatch(fields.commit)


@EVERY
def test_the_symptom_of_a_note(path: Path) -> None:
    """The function that recognises a quirk can be called by the name that the note gives."""
    symptom = read(path).fields.symptom
    assert symptom.startswith("mountcr.")
    assert callable(named(symptom))


@EVERY
def test_the_rules_of_a_note(path: Path) -> None:
    """They are in the table."""
    assert set(read(path).fields.rules) <= table().keys()


def test_a_rule_of_some_kernels_has_a_note() -> None:
    """It says of the same releases that they have the quirk."""
    notes = [read(each).fields for each in NOTES]
    limited = {key: rule for key, rule in table().items() if rule.kernel_since or rule.kernel_until}
    assert limited
    for key, rule in limited.items():
        told = {(each.since, each.until) for each in notes if key in each.rules}
        assert told == {(rule.kernel_since, rule.kernel_until)}, key


@EVERY
def test_the_tests_of_a_note(path: Path) -> None:
    """Something pins the quirk: files of tests, and functions that are defined there."""
    tests = read(path).fields.tests
    assert tests
    for each in tests:
        name, _, function = each.partition("::")
        assert re.fullmatch(r"tests/.*/test_\w+\.py", name)
        assert functions_of(name), f"{name} has no test"
        assert not function or function in functions_of(name), each


@EVERY
def test_the_paragraphs_of_a_note(path: Path) -> None:
    """There are five, in their order, and each says something."""
    paragraphs = read(path).prose.rstrip("\n").split("\n\n")
    assert [each.partition(".**")[0] for each in paragraphs] == [f"**{each}" for each in PARAGRAPHS]
    assert all(each.partition(".** ")[2] for each in paragraphs)


def test_the_table_of_the_notes() -> None:
    """The README lists every note and no other, with its title and its kernels."""
    lines = (ROOT / "kernel-notes/README.md").read_text(encoding="utf-8").splitlines()
    rows = [found[1] for found in map(ROW.fullmatch, lines) if found]
    notes = [(each.name, read(each)) for each in NOTES]
    assert rows == [
        f"[{note.fields.id}]({name}) | {note.title} | {note.fields.kernels}" for name, note in notes
    ]


def test_a_note_that_is_mentioned_is_there() -> None:
    """No path of a note leads nowhere."""
    names = {each.name for each in NOTES} | OTHERS
    assert [each for each in mentioned() if each[1] not in names] == []
