# SPDX-License-Identifier: Apache-2.0
"""A mount table that is no tree is refused with its line, from Python and from the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.cli import main
from mountcr.errors import PlanError
from mountcr.graph import MountGraph
from mountcr.model import FileKind, OpenFile
from mountcr.mountinfo import parse_table
from mountcr.paths import KPath
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    from pathlib import Path

ROOT = "10 1 0:1 / / rw - tmpfs t rw"
CHILD = "11 10 0:2 / /a rw - tmpfs t rw"

BROKEN = {
    "missing parent": (f"{ROOT}\n{CHILD}\n12 99 0:3 / /b rw - tmpfs t rw", "line 3", "99"),
    "two roots": (f"{ROOT}\n{CHILD}\n12 2 0:3 / / rw - tmpfs t rw", "line 3", "line 1 is a root"),
    "no root": (f"{CHILD}\n10 11 0:3 / /b rw - tmpfs t rw", "", "no root"),
    "cycle": (
        f"{ROOT}\n12 13 0:3 / /b rw - tmpfs t rw\n13 12 0:4 / /b/c rw - tmpfs t rw",
        "line 2",
        "its own ancestor",
    ),
    "twice": (f"{ROOT}\n{CHILD}\n{CHILD}", "line 3", "another line has this id"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_no_tree(name: str) -> None:
    """A parent that is not there, a cycle, two roots, none, and an id that comes twice."""
    table, line, what = BROKEN[name]
    with pytest.raises(PlanError) as caught:
        MountGraph([builders.namespace(table)])
    assert line in caught.value.message
    assert what in caught.value.message
    assert f"mnt:[{builders.CONTAINER_NS}]" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("command", ["plan", "graph"])
def test_the_command_line_says_it_in_one_line(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 4, a line and a hint, and nothing on standard output."""
    file = tmp_path / "facts.json"
    file.write_bytes(msgspec.json.encode(builders.facts(BROKEN[name][0])))
    assert main([command, str(file)]) == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    message, hint = printed.err.splitlines()
    assert message.startswith("mountcr: ")
    assert BROKEN[name][2] in message
    assert hint.startswith("  hint: ")


def test_a_nested_table_is_checked_too() -> None:
    """The message says which namespace the line is in."""
    nested = builders.namespace(BROKEN["cycle"][0], identity=77, pid=101)
    with pytest.raises(PlanError, match=r"line 2 of the mount table of mnt:\[77\]"):
        make_plan(builders.facts(ROOT, nested=(nested,)))


def test_a_table_that_is_cut() -> None:
    """Every cut in the middle of a line is noticed, whatever is left of it."""
    text = f"{ROOT}\n{CHILD}\n".encode()
    for end in range(len(ROOT) + 2, len(text)):
        with pytest.raises(PlanError, match=r"^line 2: "):
            parse_table(text[:end])


def test_a_chroot_is_no_broken_table() -> None:
    """A root task that sees a part of its mounts only is refused by a rule, T3, and by no other."""
    root = OpenFile(kind=FileKind.ROOT, shown=KPath("/srv/jail"))
    plan = make_plan(builders.facts("12 99 0:3 / /proc rw - proc proc rw", files=(root,)))
    assert [(each.rule, each.mount) for each in plan.refusals] == [("T3", "/srv/jail")]


def test_mounts_over_the_root_are_no_second_root() -> None:
    """What lies at `/` on the root has a parent."""
    graph = MountGraph([builders.namespace(f"{ROOT}\n12 10 0:3 / / rw - tmpfs t rw")])
    assert graph.root is not None
    assert graph.root.id == 10


def test_a_root_that_is_its_own_parent() -> None:
    """The rootfs of the kernel has itself for a parent."""
    graph = MountGraph([builders.namespace("1 1 0:2 / / rw - rootfs rootfs rw")])
    assert graph.root is not None
