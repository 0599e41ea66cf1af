# SPDX-License-Identifier: Apache-2.0
"""A mount that was asked to come from elsewhere is compared without what it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import builders
from mountcr.graph.diff import diff_namespaces
from mountcr.graph.rebound import without_sources
from mountcr.paths import KPath

if TYPE_CHECKING:
    from mountcr.graph.diff import Difference

BEFORE = """
    10 5 0:50 / / rw - overlay o rw
    11 10 8:1 /vol /data rw - ext4 d rw
    12 10 8:1 /vol/sub /sub rw - ext4 d rw
    13 10 8:1 /other /other rw - ext4 d rw
"""
NESTED = """
    20 15 0:50 / / rw - overlay o rw
    21 20 8:1 /vol/sub /mine rw - ext4 d rw
"""
AFTER = BEFORE.replace("8:1 /vol /data rw - ext4 d rw", "0:9 /x /data rw - tmpfs t rw,size=4k")
WHOLE = AFTER.replace("8:1 /vol/sub /sub rw - ext4 d rw", "0:9 /x/sub /sub rw - tmpfs t rw,size=4k")
MINE = NESTED.replace("8:1 /vol/sub /mine rw - ext4 d rw", "0:9 /x/sub /mine rw - tmpfs t rw")


def found(after: str, nested: str, *chosen: str) -> list[Difference]:
    """What differs when the sources at some mountpoints were chosen."""
    tables = [
        [builders.table(each) for each in pair] for pair in ((BEFORE, NESTED), (after, nested))
    ]
    return diff_namespaces(*without_sources(tables[0], tables[1], list(map(KPath, chosen))))


def test_another_file_system_is_no_difference_where_it_was_chosen() -> None:
    """Type, source and options are those of the chosen source, in every namespace."""
    assert found(WHOLE, MINE, "/data") == []
    assert found(WHOLE, MINE) != []
    assert found(WHOLE, MINE, "/other") != []


def test_what_is_still_where_it_was_is_compared_as_it_is() -> None:
    """A mount of the old superblock may have a source of its own, which was not chosen."""
    assert found(AFTER, NESTED, "/data") == []
    other = AFTER.replace("8:1 /vol/sub /sub", "0:60 /vol/sub /sub")
    assert {each.path for each in found(other, NESTED, "/data")} == {
        "/sub",
        "/other",
        "/mine",
    }


def test_what_it_shows_still_counts() -> None:
    """Another part of the chosen source than of the old one is a difference."""
    (each,) = found(WHOLE, MINE.replace("/x/sub", "/x/bus"), "/data")
    assert (each.path, each.what, each.before, each.after) == ("/mine", "root", "sub", "bus")


def test_options_of_the_mount_still_count() -> None:
    """They are the container's, whatever is mounted."""
    (each,) = found(WHOLE.replace("/data rw", "/data ro"), MINE, "/data")
    assert (each.path, each.what) == ("/data", "options")


def test_a_namespace_may_be_missing() -> None:
    """Tables that have no counterpart stay as they are."""
    one = builders.table(BEFORE)
    assert without_sources([one], [one, one], [KPath("/data")])[1][1] == one
    assert without_sources([one], [], [KPath("/data")]) == ([one], [])
