# SPDX-License-Identifier: Apache-2.0
"""A plan as an outline."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from mountcr.model import Severity
from mountcr.planning.records import Verdict
from mountcr.render.outline import Outline

if TYPE_CHECKING:
    from mountcr.model import Finding
    from mountcr.planning.records import Plan

__all__ = ["outline_plan"]

_VERDICT_STYLE: Final = {Verdict.OK: "green", Verdict.LOSSES: "yellow", Verdict.REFUSED: "red"}
_SEVERITY_STYLE: Final = {Severity.REFUSAL: "red", Severity.LOSS: "yellow", Severity.NOTE: ""}


def outline_plan(plan: Plan, *, explain: bool = False) -> Outline:
    """Give a plan in lines; with `explain`, the fact behind every choice and what is cured."""
    container = plan.container
    name = f" ({container.name})" if container.name and container.name != container.id else ""
    pid = f", pid {container.pid}" if container.pid else ", not running"
    top = Outline(
        f"{container.engine}:{container.id}{name}{pid}: {plan.verdict}",
        _VERDICT_STYLE[plan.verdict],
    )
    _rootfs(top, plan, explain=explain)
    _externals(top, plan, explain=explain)
    _descriptors(top, plan, explain=explain)
    _findings(top, plan, explain=explain)
    criu = top.add("criu")
    criu.add(shlex.join(plan.criu.dump))
    criu.add(shlex.join(plan.criu.restore))
    if explain:
        why = criu.add("because")
        why.extend(f"{reason.option}: {reason.because}" for reason in plan.criu.reasons)
    return top


def _rootfs(top: Outline, plan: Plan, *, explain: bool) -> None:
    if plan.rootfs is None:
        top.add("root file system: unknown", "red")
        return
    rootfs = top.add(f"root file system: {plan.rootfs.driver}")
    if plan.rootfs.upper:
        rootfs.add(f"upper {plan.rootfs.upper}")
    rootfs.extend(f"lower {layer}" for layer in plan.rootfs.layers)
    rootfs.extend(f"data  {layer}" for layer in plan.rootfs.data)
    if plan.rootfs.options:
        rootfs.add(f"options {','.join(plan.rootfs.options)}")
    steps = rootfs.add("put back by")
    for step in plan.rootfs.steps:
        line = steps.add(step.describe())
        if explain:
            line.add(f"because {step.because}")
    if explain:
        rootfs.extend(f"told by {each}" for each in plan.rootfs.provenance)


def _externals(top: Outline, plan: Plan, *, explain: bool) -> None:
    if not plan.externals:
        return
    externals = top.add("externals")
    for each in plan.externals:
        kind = f"{each.type}, {each.fstype}" if each.type else each.fstype
        line = externals.add(f"{each.mountpoint} from {each.source or 'nowhere'} ({kind})")
        if explain:
            line.add(f"because {each.because}")


def _descriptors(top: Outline, plan: Plan, *, explain: bool) -> None:
    if not plan.inherited:
        return
    descriptors = top.add("descriptors from outside")
    for each in plan.inherited:
        line = descriptors.add(f"{each.fd} of pid {each.pid}: {each.key} ({each.shown})")
        if explain:
            line.add(f"because {each.because}")


def _findings(top: Outline, plan: Plan, *, explain: bool) -> None:
    shown = [each for each in plan.findings if explain or not each.cured]
    if not shown:
        return
    findings = top.add("findings")
    for each in shown:
        line = findings.add(_line(each), "" if each.cured else _SEVERITY_STYLE[each.severity])
        if not each.cured:
            line.add(f"cure: {each.cure}")


def _line(finding: Finding) -> str:
    cured = ", cured by the plan" if finding.cured else ""
    return f"{finding.rule} {finding.severity}{cured}: {finding.mount}: {finding.message}"
