# SPDX-License-Identifier: Apache-2.0
"""A writable layer that an engine has in use is not lent out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.errors import RefusedError
from mountcr.operations.rebuild import plan_rebuild
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.procstat import read_stat
from mountcr.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path

    from mountcr.planning.records import Plan


def _plan(directory: Path, choices: Choices | None = None, **changes: object) -> Plan:
    """The plan for a container of Docker whose layers are there, which runs as this process."""
    upper, lower = (directory / each for each in ("upper", "lower"))
    for each in (upper, lower):
        each.mkdir(exist_ok=True)
    paths = [encode(str(each)) for each in (upper, lower)]
    stack = Stack(driver="overlay", lowers=(paths[1],), upper=paths[0], work=KPath("/w"))
    facts = builders.facts("")
    container = msgspec.structs.replace(
        facts.container, engine="docker", storage="overlay2", stack=stack, pid=os.getpid()
    )
    container = msgspec.structs.replace(container, **changes)
    facts = msgspec.structs.replace(facts, container=container, tasks=(), namespaces=())
    return make_plan(facts, choices)


def test_of_a_container_that_runs(tmp_path: Path) -> None:
    """The engine writes into the layer; the hint says what else can be done."""
    with pytest.raises(RefusedError, match=f"docker:web runs, pid {os.getpid()}") as raised:
        plan_rebuild(_plan(tmp_path), KPath("/at"))
    assert "--upper" in (raised.value.hint or "")


def test_of_a_container_that_is_still_mounted(tmp_path: Path) -> None:
    """Its process has ended, and its root is a mount of this host."""
    mounted = KPath("/proc")
    with pytest.raises(RefusedError, match="docker:web is still mounted at /proc"):
        plan_rebuild(_plan(tmp_path, pid=0, rootfs=mounted), KPath("/at"))


@pytest.mark.parametrize("choices", [Choices(readonly=True), Choices(upper=KPath("/nowhere/new"))])
def test_nothing_is_written_into_it(tmp_path: Path, choices: Choices) -> None:
    """To look at it, or to write into a layer of one's own, is allowed."""
    assert plan_rebuild(_plan(tmp_path, choices), KPath("/at")).steps


def test_another_process_with_its_pid_is_not_it(tmp_path: Path) -> None:
    """A pid that was given away since says nothing."""
    other = read_stat(os.getpid()).start_time + 1
    assert plan_rebuild(_plan(tmp_path, start_time=other), KPath("/at")).steps
