# SPDX-License-Identifier: Apache-2.0
"""Records are plain, frozen, and the same after a trip through JSON."""

from __future__ import annotations

import msgspec
import pytest

import builders
from mountcr.model import Facts, FileKind, InodeType, OpenFile, PathStat
from mountcr.paths import KPath
from mountcr.stack import Stack

FILE = OpenFile(
    kind=FileKind.FD,
    shown=KPath(r"/data/\xff\040(deleted)"),
    fd=3,
    mnt_id=12,
    flags=0o100002,
    position=17,
    stat=PathStat(dev="8:1", ino=2**63, mode=0o100644, nlink=1, size=2**62, type=InodeType.FILE),
)


@pytest.mark.parametrize("name", ["docker-overlay2", "runc-vfs", "podman-fuse"])
def test_facts_go_to_json_and_back(name: str) -> None:
    """A facts file holds all that was observed."""
    facts = builders.facts(
        builders.recorded(name), builders.recorded(f"{name}.host"), files=(FILE,)
    )
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts


def test_facts_say_their_schema() -> None:
    """The first thing in a facts file is what it is, also where it is the default."""
    text = msgspec.json.encode(builders.facts("1 0 0:1 / / rw - tmpfs t rw"))
    assert text.startswith(b'{"schema":"mountcr/facts/1"')


def test_records_cannot_be_changed() -> None:
    """What was observed stays what was observed."""
    with pytest.raises(AttributeError):
        setattr(FILE, "fd", 4)  # noqa: B010 - the type checkers know better


def test_the_directories_of_a_stack_are_top_first() -> None:
    """The writable layer is on top of the others; data-only layers and work are none of them."""
    stack = Stack(
        driver="overlay",
        lowers=(KPath("/b"), KPath("/a")),
        data=(KPath("/d"),),
        upper=KPath("/u"),
        work=KPath("/w"),
    )
    assert stack.directories == ("/u", "/b", "/a")
    assert Stack(driver="overlay", lowers=(KPath("/b"),)).directories == ("/b",)
