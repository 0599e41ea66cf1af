# SPDX-License-Identifier: Apache-2.0
"""What people read of a plan says what its records say, in plain lines and on a terminal."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

import builders
from mountcr.criu.dialects import shell_line
from mountcr.criu.options import Kind
from mountcr.model import Finding, Severity
from mountcr.planning.planner import make_plan
from mountcr.planning.records import Engine, Plan, Verdict
from mountcr.render.outline import DEEPEST, Outline
from mountcr.render.plan import outline_plan, verdict_sentence

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


def test_an_outline_may_be_deep() -> None:
    """Five thousand levels are printed, what is too deep with its level and not further right."""
    top = Outline("top")
    line = top
    for number in range(1, 5001):
        line = line.add(f"line {number}")
    lines = top.plain().splitlines()
    assert len(lines) == 5001
    assert [each.rpartition("line ")[2] for each in lines[1:]] == [*map(str, range(1, 5001))]
    assert lines[DEEPEST].endswith(f"└─ line {DEEPEST}")
    assert lines[DEEPEST + 1].endswith(f"├─ [{DEEPEST + 1}] line {DEEPEST + 1}")
    assert max(map(len, lines)) < 4 * DEEPEST
    stream = io.StringIO()
    Console(file=stream, width=1000).print(top.tree())
    assert len(stream.getvalue().splitlines()) == 5001


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
    assert text.startswith(f"runc:web, pid {builders.ROOT_PID}: {verdict_sentence(plan)}\n")
    for external in plan.externals:
        assert f"{external.mountpoint} from {external.source}" in text
        assert external.key in text
    if plan.rootfs:
        for layer in plan.rootfs.layers:
            assert f"lower {layer}" in text
        for step in plan.rootfs.steps:
            assert step.describe() in text
    for finding in plan.findings:
        assert (finding.message in text) == (not finding.cured)
    assert shell_line(plan.criu.dump_args()) in text
    assert shell_line(plan.criu.restore_args()) in text


@pytest.mark.parametrize("name", NAMES)
def test_an_explained_plan_has_the_facts_behind_it(name: str) -> None:
    """Every choice with its reason, and what the plan cures."""
    plan = plan_of(name)
    lines = outline_plan(plan, explain=True).plain().splitlines()
    text = "\n".join(lines)
    for reason in plan.criu.reasons:
        assert f"{reason.option}: {reason.because}" in text
    for external in plan.externals:
        assert f"because {external.because}" in text
    for finding in plan.findings:
        assert f"{finding.rule} {finding.mount}: {finding.message}" in text
    assert ("├─ cured by this plan" in lines) == any(each.cured for each in plan.findings)


def finding(severity: Severity, *, cured: bool = False) -> Finding:
    """A finding whose message is its severity."""
    message = f"{'cured ' if cured else ''}{severity}"
    return Finding(
        rule="X1", severity=severity, mount="/m", message=message, cure="cure it", cured=cured
    )


def judged(verdict: Verdict, *findings: Finding) -> Plan:
    """A plan with nothing from outside, of which something else was found."""
    plan = make_plan(builders.facts("10 5 0:50 / / rw - tmpfs t rw"))
    return msgspec.structs.replace(plan, verdict=verdict, findings=findings)


REFUSAL, LOSS, NOTE = map(finding, (Severity.REFUSAL, Severity.LOSS, Severity.NOTE))
CURED = finding(Severity.REFUSAL, cured=True)


@pytest.mark.parametrize(
    ("plan", "dump", "restore"),
    [
        (judged(Verdict.OK, NOTE), "will dump", "will restore"),
        (
            judged(Verdict.OK, CURED),
            "will dump with these options",
            "will restore with these options",
        ),
        (
            judged(Verdict.LOSSES, LOSS),
            "will dump, and come back with 1 loss",
            "will restore, with 1 loss",
        ),
        (
            judged(Verdict.LOSSES, LOSS, CURED, LOSS),
            "will dump with these options, and come back with 2 losses",
            "will restore with these options, with 2 losses",
        ),
        (
            judged(Verdict.REFUSED, REFUSAL, LOSS),
            "refused: CRIU cannot dump this, for 1 reason",
            "refused: CRIU cannot restore this, for 1 reason",
        ),
    ],
)
def test_the_verdict_is_a_sentence(plan: Plan, dump: str, restore: str) -> None:
    """It says what CRIU will do, in which direction, with what, and how much is lost."""
    assert verdict_sentence(plan) == dump
    assert verdict_sentence(plan, Kind.RESTORE) == restore
    first = outline_plan(plan, purpose=Kind.RESTORE).plain().splitlines()[0]
    assert first.endswith(f": {restore}")


def test_the_order_of_a_plan() -> None:
    """Refusals first, what comes from outside, losses, notes; cured ones when it is explained."""
    plan = plan_of("docker-overlay2")
    found = (NOTE, CURED, LOSS, REFUSAL)
    plan = msgspec.structs.replace(plan, verdict=Verdict.REFUSED, findings=found)
    sections = [
        line.removeprefix("├─ ").removeprefix("└─ ")
        for line in outline_plan(plan, explain=True).plain().splitlines()
        if line.startswith(("├─ ", "└─ "))
    ]
    assert sections == [
        "refusals",
        "externals",
        "losses",
        "notes",
        "cured by this plan",
        "restore engine: v2, which can make these mounts",
        "root file system: overlay",
        "criu",
    ]


ENGINE = Engine(
    name="v2", because="the kernel has MOVE_MOUNT_SET_GROUP", representable=True, other="v1"
)


@pytest.mark.parametrize(
    ("engine", "explain", "lines"),
    [
        (ENGINE, False, ["restore engine: v2, which can make these mounts"]),
        (
            ENGINE,
            True,
            [
                "restore engine: v2, which can make these mounts",
                "because the kernel has MOVE_MOUNT_SET_GROUP",
            ],
        ),
        (
            msgspec.structs.replace(
                ENGINE, representable=False, losses=("the master of /a", "the peers of /b")
            ),
            False,
            [
                "restore engine: v2, which cannot make these mounts",
                "v1 would lose",
                "the master of /a",
                "the peers of /b",
            ],
        ),
    ],
)
def test_the_restore_engine(engine: Engine, *, explain: bool, lines: list[str]) -> None:
    """Which one, whether it can make the mounts, what the other would lose; explained, why."""
    plan = msgspec.structs.replace(judged(Verdict.OK), engine=engine)
    text = outline_plan(plan, explain=explain).plain()
    found = [line.lstrip("│├└─ ") for line in text.splitlines()]
    at = found.index(lines[0])
    assert found[at : at + len(lines)] == lines
    assert found[at + len(lines)].startswith("root file system")


def test_the_command_lines_of_a_plan_can_be_pasted() -> None:
    """A mountpoint with a space is quoted for the shell, not spelled as mountinfo does."""
    plan = make_plan(
        builders.facts(
            r"""
            10 5 0:50 / / rw - tmpfs t rw
            11 10 8:1 /srv/my\040data /my\040data rw - ext4 /dev/a rw
            """,
            "1 0 8:1 / / rw - ext4 /dev/a rw",
        )
    )
    text = outline_plan(plan).plain()
    assert " 'mnt[/my data]:" in text
    assert r"/my\040data from /srv/my\040data" in text


def test_a_plan_without_a_root_says_so() -> None:
    """What nobody knows is not left out."""
    plan = make_plan(builders.facts("10 5 0:50 / / rw - fuse.unknown u rw"))
    assert "root file system: unknown" in outline_plan(plan).plain()
