# SPDX-License-Identifier: Apache-2.0
"""What people read says what the records say, in plain lines and on a terminal."""

from __future__ import annotations

import io
import json
import shlex
from typing import TYPE_CHECKING

import msgspec
import pytest
from rich.console import Console

import builders
from mountcr.graph import MountGraph
from mountcr.planning.planner import make_plan
from mountcr.render.graph import document, outline_graph
from mountcr.render.outline import Outline
from mountcr.render.plan import outline_plan

if TYPE_CHECKING:
    from mountcr.planning.records import Plan

NAMES = ["docker-overlay2", "podman-fuse", "runc-vfs"]


def plan_of(name: str) -> Plan:
    """The plan of a recorded container."""
    return make_plan(builders.facts(builders.recorded(name), builders.recorded(f"{name}.host")))


def test_an_outline_in_plain_text() -> None:
    """Lines stand below what they belong to, and one knows which is the last."""
    top = Outline("top")
    first = top.add("first")
    first.add("deep").add("deeper")
    first.extend(["other"])
    top.add("last").add("below")
    assert top.plain().splitlines() == [
        "top",
        "├─ first",
        "│  ├─ deep",
        "│  │  └─ deeper",
        "│  └─ other",
        "└─ last",
        "   └─ below",
    ]
    assert top.plain().endswith("\n")


def test_an_outline_on_a_terminal_has_the_same_words() -> None:
    """Nothing in the text is taken for markup."""
    top = Outline("top [red]x[/]", "green")
    top.add("[/data] mnt[/etc/hosts]:x")
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, width=80).print(top.tree())
    assert "[red]x[/]" in stream.getvalue()
    assert "[/data] mnt[/etc/hosts]:x" in stream.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_an_outline_of_a_plan_says_everything(name: str) -> None:
    """Verdict, layers, externals with sources, open findings, and both command lines."""
    plan = plan_of(name)
    text = outline_plan(plan).plain()
    assert text.startswith(f"runc:web, pid {builders.ROOT_PID}: {plan.verdict}\n")
    for external in plan.externals:
        assert f"{external.mountpoint} from {external.source}" in text
    if plan.rootfs:
        for layer in plan.rootfs.layers:
            assert f"lower {layer}" in text
        for step in plan.rootfs.steps:
            assert step.describe() in text
    for finding in plan.findings:
        assert (finding.message in text) == (not finding.cured)
    assert shlex.join(plan.criu.dump_args()) in text
    assert shlex.join(plan.criu.restore_args()) in text


@pytest.mark.parametrize("name", NAMES)
def test_an_explained_plan_has_the_facts_behind_it(name: str) -> None:
    """Every choice with its reason, and what the plan cures."""
    plan = plan_of(name)
    text = outline_plan(plan, explain=True).plain()
    for reason in plan.criu.reasons:
        assert f"{reason.option}: {reason.because}" in text
    for external in plan.externals:
        assert f"because {external.because}" in text
    for finding in plan.findings:
        assert finding.message in text
        assert not finding.cured or "cured by the plan" in text


def test_a_plan_without_a_root_says_so() -> None:
    """What nobody knows is not left out."""
    plan = make_plan(builders.facts("10 5 0:50 / / rw - fuse.unknown u rw"))
    assert "root file system: unknown" in outline_plan(plan).plain()


def test_the_document_of_a_graph() -> None:
    """Mounts, relations and groups name each other by namespace and id."""
    graph = MountGraph([builders.namespace(builders.recorded("kernel-deb-6.12-overlay"))])
    found = json.loads(msgspec.json.encode(document(graph)))
    nodes = {each["node"] for each in found["mounts"]}
    assert found["schema"] == "mountcr/graph/1"
    assert len(nodes) == len(graph.tree.mounts)
    assert {"kind", "from", "to"} == set(found["edges"][0])
    assert {each[end] for each in found["edges"] for end in ("from", "to")} <= nodes
    assert {node for members in found["groups"].values() for node in members} <= nodes
    hidden = [each["mountpoint"] for each in found["mounts"] if each["hidden"]]
    assert hidden == ["/slave"]


def test_an_outline_of_a_graph() -> None:
    """The tree of the mounts, with what is bound, what propagates and what is hidden."""
    graph = MountGraph([builders.namespace(builders.recorded("kernel-deb-6.12-overlay"))])
    lines = outline_graph(graph).plain().splitlines()
    assert lines[0] == "1 mount namespace(s)"
    assert f"mnt:[{builders.CONTAINER_NS}], pid {builders.ROOT_PID}" in lines[1]
    assert len(lines) == len(graph.tree.mounts) + 2
    (hidden,) = (line for line in lines if line.endswith(" hidden"))
    assert "/slave ext4 [/vol/slave] rw,relatime shared:4" in hidden
    below = lines[lines.index(hidden) + 1]
    assert "master:4" in below
    assert below.index("/slave") > hidden.index("/slave")
