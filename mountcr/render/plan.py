# SPDX-License-Identifier: Apache-2.0
"""A plan as an outline: the verdict, why, what is given from outside, what is lost, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.criu.dialects import shell_line
from mountcr.criu.options import Kind
from mountcr.model import Severity
from mountcr.planning.records import Verdict
from mountcr.render.findings import add_findings
from mountcr.render.outline import Outline
from mountcr.render.text import count, printable

if TYPE_CHECKING:
    from mountcr.model import Finding
    from mountcr.planning.records import Engine, Plan

__all__ = ["outline_plan", "verdict_sentence"]

_VERDICT_STYLE: Final = {Verdict.OK: "green", Verdict.LOSSES: "yellow", Verdict.REFUSED: "red"}


def outline_plan(plan: Plan, *, explain: bool = False, purpose: Kind = Kind.DUMP) -> Outline:
    """
    Give a plan in lines, the verdict first.

    `purpose` is what the verdict speaks of. With `explain`, the fact behind every choice, and what
    is cured.
    """
    container = plan.container
    name = f" ({container.name})" if container.name and container.name != container.id else ""
    pid = f", pid {container.pid}" if container.pid else ", not running"
    what = f"{container.engine}:{container.id}{name}{pid}"
    top = Outline(
        printable(f"{what}: {verdict_sentence(plan, purpose)}"), _VERDICT_STYLE[plan.verdict]
    )
    add_findings(top, "refusals", plan.refusals, "red")
    _externals(top, plan, explain=explain)
    add_findings(top, "losses", plan.losses, "yellow")
    add_findings(top, "notes", _open(plan, Severity.NOTE))
    if explain:
        add_findings(top, "cured by this plan", (each for each in plan.findings if each.cured))
    if plan.engine:
        _engine(top, plan.engine, explain=explain)
    _rootfs(top, plan, explain=explain)
    _descriptors(top, plan, explain=explain)
    _rewrites(top, plan, explain=explain)
    _network(top, plan, explain=explain)
    _criu(top, plan, explain=explain)
    return top


def verdict_sentence(plan: Plan, purpose: Kind = Kind.DUMP) -> str:
    """
    Say what CRIU will do: refused, will dump, with which options, with how many losses.

    It takes options when something comes from outside, or when without them CRIU would refuse.
    """
    if plan.verdict is Verdict.REFUSED:
        return f"refused: CRIU cannot {purpose} this, for {count(len(plan.refusals), 'reason')}"
    sentence = f"will {purpose}"
    outside = plan.externals or plan.inherited or plan.network
    if outside or any(each.cured for each in plan.findings):
        sentence += " with these options"
    if plan.verdict is Verdict.LOSSES:
        losses = count(len(plan.losses), "loss", "losses")
        sentence += f", and come back with {losses}" if purpose is Kind.DUMP else f", with {losses}"
    return sentence


def _open(plan: Plan, severity: Severity) -> tuple[Finding, ...]:
    return tuple(each for each in plan.findings if each.severity is severity and not each.cured)


def _externals(top: Outline, plan: Plan, *, explain: bool) -> None:
    if not plan.externals:
        return
    externals = top.add("externals")
    for each in plan.externals:
        kind = f"{each.type}, {each.fstype}" if each.type else each.fstype
        named = f", named {each.key}" if each.key != each.mountpoint else ""
        source = each.source or "nowhere"
        line = externals.add(printable(f"{each.mountpoint} from {source} ({kind}){named}"))
        if explain:
            line.add(printable(f"because {each.because}"))


def _engine(top: Outline, engine: Engine, *, explain: bool) -> None:
    can = "can" if engine.representable else "cannot"
    section = top.add(
        f"restore engine: {engine.name}, which {can} make these mounts",
        "" if engine.representable else "red",
    )
    if explain:
        section.add(printable(f"because {engine.because}"))
    if engine.losses:
        other = section.add(f"{engine.other} would lose")
        other.extend(map(printable, engine.losses))


def _rootfs(top: Outline, plan: Plan, *, explain: bool) -> None:
    if plan.rootfs is None:
        top.add("root file system: unknown", "red")
        return
    rootfs = top.add(f"root file system: {plan.rootfs.driver}")
    if plan.rootfs.upper:
        rootfs.add(printable(f"upper {plan.rootfs.upper}"))
    rootfs.extend(printable(f"lower {layer}") for layer in plan.rootfs.layers)
    rootfs.extend(printable(f"data  {layer}") for layer in plan.rootfs.data)
    if plan.rootfs.options:
        rootfs.add(printable(f"options {','.join(plan.rootfs.options)}"))
    steps = rootfs.add("put back by")
    for step in plan.rootfs.steps:
        line = steps.add(printable(step.describe()))
        if explain:
            line.add(printable(f"because {step.because}"))
    if explain:
        rootfs.extend(printable(f"told by {each}") for each in plan.rootfs.provenance)


def _descriptors(top: Outline, plan: Plan, *, explain: bool) -> None:
    if not plan.inherited:
        return
    descriptors = top.add("descriptors from outside")
    for each in plan.inherited:
        line = descriptors.add(printable(f"{each.fd} of pid {each.pid}: {each.key} ({each.shown})"))
        if explain:
            line.add(printable(f"because {each.because}"))


def _rewrites(top: Outline, plan: Plan, *, explain: bool) -> None:
    if not plan.rewrites:
        return
    section = top.add("put right in the images, after the dump")
    for each in plan.rewrites:
        line = section.add(printable(each.describe()))
        if explain:
            line.add(printable(f"because {each.because}"))


def _network(top: Outline, plan: Plan, *, explain: bool) -> None:
    if plan.network is None:
        return
    section = top.add("network namespace, put back by")
    if explain:
        section.add(printable(f"because {plan.network.because}"))
    for step in (*plan.network.making, *plan.network.connecting):
        line = section.add(printable(step.describe()))
        if explain:
            line.add(printable(f"because {step.because}"))


def _criu(top: Outline, plan: Plan, *, explain: bool) -> None:
    """Give the two command lines, fit for a shell."""
    criu = top.add("criu")
    criu.add(shell_line(plan.criu.dump))
    criu.add(shell_line(plan.criu.restore))
    if explain:
        why = criu.add("because")
        why.extend(printable(f"{each.option}: {each.because}") for each in plan.criu.reasons)
