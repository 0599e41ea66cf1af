# SPDX-License-Identifier: Apache-2.0
"""The work of a plan grows with the number of mounts, counted in calls and not in seconds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import pytest

import builders
from mountcr.graph import MountGraph
from mountcr.graph.diff import diff
from mountcr.planning.planner import make_plan
from mountcr.render.dot import dot
from mountcr.render.graph import document, outline_graph
from mountcr.render.plan import outline_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from mountcr.model import Facts

FEW: Final = 40
TIMES: Final = 5

KINDS: Final = (
    "/srv/{0} /mnt/{0} rw - ext4 /dev/sda rw",
    "/srv/same /mnt/{0} rw - ext4 /dev/sda rw",
    "/ /mnt/{0} rw shared:{0} - ext4 /dev/sda rw",
    "/sub /mnt/{0} rw shared:7 - ext4 /dev/sda rw",
    "/sub /mnt/{0} rw master:7 - ext4 /dev/sda rw",
    "/sub /mnt/{0} ro master:9 - ext4 /dev/sda rw",
    "/gone//deleted /mnt/{0} rw - ext4 /dev/sda rw",
    "/ /mnt/same rw - ext4 /dev/sda rw",
)
"""From the root on, what comes behind the id, the parent and the device of a line."""


def calls(work: Callable[[], object]) -> int:
    """Count the calls that are made, of functions in Python and in C."""
    made = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal made
        made += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return made


def many(kind: str, count: int) -> Facts:
    """Give the facts of a container with so many mounts of a kind."""
    lines = ["1 0 0:1 / / rw - overlay overlay rw"]
    lines += [f"{number} 1 8:1 {kind.format(number)}" for number in range(10, 10 + count)]
    host = "1 0 8:1 / / rw shared:9 - ext4 /dev/sda rw\n"
    return builders.facts(builders.parse(("\n".join(lines) + "\n").encode()), host)


def works(facts: Facts) -> dict[str, Callable[[], object]]:
    """Give what must not grow faster than the mounts do."""
    plan, graph = make_plan(facts), MountGraph(facts.namespaces)
    mounts = facts.namespaces[0].mounts
    return {
        "plan": lambda: make_plan(facts),
        "edges": lambda: list(graph.edges()),
        "order": graph.build_order,
        "diff": lambda: diff(mounts, mounts),
        "plan as lines": lambda: outline_plan(plan, explain=True).plain(),
        "graph as lines": lambda: outline_graph(graph).plain(),
        "document": lambda: document(graph),
        "dot": lambda: dot(graph),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_work_grows_with_the_mounts(kind: str) -> None:
    """Five times the mounts take at most five times the calls, of whatever kind they are."""
    few, more = works(many(kind, FEW)), works(many(kind, FEW * TIMES))
    for name, work in more.items():
        for each in (work, few[name]):
            each()  # what is imported or kept by the first call
        assert calls(work) <= TIMES * 1.1 * calls(few[name]), name
