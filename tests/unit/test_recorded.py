# SPDX-License-Identifier: Apache-2.0
"""Mount table and record: they agree, one tells what the other cannot, or both are named."""

from __future__ import annotations

import msgspec
import pytest

from mountcr.paths import KPath
from mountcr.planning.recorded import disagreement, settled
from mountcr.stack import Stack

RECORDED = Stack(
    driver="overlay",
    lowers=(KPath("/d/b/diff"), KPath("/d/a/diff")),
    upper=KPath("/d/c/diff"),
    work=KPath("/d/c/work"),
    provenance=("layers: /d/c/lower",),
)
TOLD = msgspec.structs.replace(RECORDED, options=("index=off",), provenance=("mountinfo",))


def test_what_both_say_has_the_provenance_of_both() -> None:
    """Options come from the mount, and whoever told is named."""
    stack = settled(TOLD, RECORDED)
    assert stack == msgspec.structs.replace(TOLD, provenance=("mountinfo", "layers: /d/c/lower"))


@pytest.mark.parametrize("told", [None, TOLD])
@pytest.mark.parametrize("recorded", [None, RECORDED])
def test_one_is_enough(told: Stack | None, recorded: Stack | None) -> None:
    """Where only one knows the stack, that one tells it."""
    if told is None or recorded is None:
        assert settled(told, recorded) == (told or recorded)


def test_relative_layers_are_those_of_the_record() -> None:
    """Layers relative to a directory that nobody knows are no disagreement."""
    told = msgspec.structs.replace(TOLD, lowers=(KPath("l/B"), KPath("l/A")))
    assert not disagreement(told, RECORDED)
    stack = settled(told, RECORDED)
    assert stack
    assert (stack.lowers, stack.options) == (RECORDED.lowers, ("index=off",))


def test_short_names_are_as_many_layers() -> None:
    """The command line of a FUSE server has the links; the record has where they lead."""
    told = msgspec.structs.replace(TOLD, lowers=(KPath("/d/l/B"), KPath("/d/l/A")))
    assert not disagreement(told, RECORDED)
    stack = settled(told, RECORDED)
    assert stack
    assert stack.lowers == RECORDED.lowers


@pytest.mark.parametrize(
    ("change", "sides"),
    [
        ({"driver": "aufs"}, ("a root on aufs", "a root on overlay")),
        ({"upper": KPath("/x")}, ("upper /x", "upper /d/c/diff")),
        ({"lowers": (KPath("/d/b/diff"),)}, ("1 lower layers", "2 lower layers")),
        (
            {"lowers": (KPath("/d/b/diff"), KPath("/d/z/diff"))},
            ("lower 2 /d/z/diff", "lower 2 /d/a/diff"),
        ),
    ],
)
def test_a_disagreement_names_both_sides(change: dict[str, object], sides: tuple[str, str]) -> None:
    """The finding has what each says, and the mount table is believed."""
    told = msgspec.structs.replace(TOLD, **change)
    said = disagreement(told, RECORDED)
    assert said == f"the mount table says {sides[0]}, the engine's record {sides[1]}"
    assert settled(told, RECORDED) == told
