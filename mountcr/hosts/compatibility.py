# SPDX-License-Identifier: Apache-2.0
"""
What a container that is dumped on one host can lose or fail on on another one; pure.

Only what the other host has worse counts: between a host and itself there is nothing. What is not
known of a host, because a manifest says nothing of it, is not guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.hosts.known import known_pairs, table
from mountcr.hosts.records import Answer
from mountcr.model import Finding, Severity
from mountcr.overlayopts import default_options
from mountcr.planning.records import Verdict
from mountcr.record import Record
from mountcr.rules.versions import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mountcr.hosts.profile import Profile

__all__ = ["COMPAT_SCHEMA", "RULES", "CompatDocument", "HostSummary", "compare", "findings"]

COMPAT_SCHEMA = "mountcr/compat/1"


class HostSummary(Record, frozen=True, kw_only=True, omit_defaults=False):
    """Which host is meant: the document that told of it, its kernel and its CRIU."""

    file: str
    document: str
    kernel: str
    criu: str


class CompatDocument(
    Record,
    frozen=True,
    kw_only=True,
    omit_defaults=False,
    rename={"source": "from", "target": "to"},
):
    """What comes of moving a container from one host to another one."""

    schema: str = COMPAT_SCHEMA
    verdict: Verdict
    source: HostSummary
    target: HostSummary
    findings: tuple[Finding, ...]


class CompatRule(NamedTuple):
    """One rule: how bad it is if nothing else is said, what it means and what helps."""

    severity: Severity
    sentence: str
    cure: str = ""


RULES: Final = {
    "H1": CompatRule(Severity.REFUSAL, "restores do not work there as they do here"),
    "H2": CompatRule(
        Severity.REFUSAL,
        "the storage driver cannot be mounted there",
        "have the root converted: restore with --driver {drivers}",
    ),
    "H3": CompatRule(
        Severity.REFUSAL,
        "the kernel there does not know the option, and would show the layers otherwise",
        "have the root converted: restore with --driver vfs, or use a newer kernel there",
    ),
    "H4": CompatRule(
        Severity.NOTE,
        "mountcr gives the option by value, an engine that mounts the layers there does not",
        "set the parameter of the module overlay there, or restore with mountcr",
    ),
    "H5": CompatRule(Severity.REFUSAL, "CRIU and kernel there are known not to get along"),
    "H6": CompatRule(
        Severity.LOSS,
        "an older CRIU may not know what a newer one wrote, and leave it out or stop",
        "install the CRIU there that is here: tools/provision",
    ),
    "H7": CompatRule(
        Severity.NOTE,
        "mappings are shown by other inodes there, see kernel-notes/mapping-inode.md",
        "let mountcr look at files, which undoes it; CRIU without root does not",
    ),
    "H8": CompatRule(
        Severity.LOSS,
        "control groups have no place there that is like theirs",
        "leave them out: dump with --manage-cgroups-mode ignore",
    ),
    "H9": CompatRule(
        Severity.LOSS,
        "the processor there lacks it, and a program that found it at its start ends by SIGILL",
        "start programs with the features that both have: GLIBC_TUNABLES=glibc.cpu.hwcaps=…",
    ),
    "H10": CompatRule(
        Severity.LOSS,
        "the kernel there cannot do it, so a container that uses it does not come back",
        "use a kernel there that has it",
    ),
    "H11": CompatRule(
        Severity.NOTE,
        "CRIU restores mounts there with its older engine, which passes on propagation otherwise",
        "compare what `mountcr plan` says of its engine there",
    ),
}
"""Every rule by its id, in the order in which findings come."""


def compare(source: Profile, target: Profile, *, files: tuple[str, str]) -> CompatDocument:
    """Compare two hosts, which two files told of."""
    found = findings(source, target)
    severities = {each.severity for each in found}
    verdict = Verdict.LOSSES if Severity.LOSS in severities else Verdict.OK
    return CompatDocument(
        verdict=Verdict.REFUSED if Severity.REFUSAL in severities else verdict,
        source=_summary(source, files[0]),
        target=_summary(target, files[1]),
        findings=found,
    )


def _summary(host: Profile, file: str) -> HostSummary:
    return HostSummary(file=file, document=host.document, kernel=host.kernel, criu=host.criu)


def findings(source: Profile, target: Profile) -> tuple[Finding, ...]:
    """Give what a container of one host meets on the other one, by the order of the rules."""
    return tuple(
        Finding(
            rule=identity,
            severity=found.severity or RULES[identity].severity,
            mount=found.where,
            message=f"{found.detail}: {found.sentence or RULES[identity].sentence}",
            cure=found.cure or RULES[identity].cure,
        )
        for identity, predicate in _PREDICATES.items()
        for found in predicate(source, target)
    )


class _Found(NamedTuple):
    """What a predicate found; what is empty is said by the rule."""

    where: str
    detail: str
    severity: Severity | None = None
    sentence: str = ""
    cure: str = ""


# --- Restores and drivers -------------------------------------------------------------------------

_RANK: Final = {Answer.YES: 2, Answer.PARTLY: 1, Answer.NO: 0}


def _restores(source: Profile, target: Profile) -> Iterator[_Found]:
    """H1."""
    if target.restore is None or target.restore is Answer.YES:
        return
    if source.restore is None or _RANK[target.restore] < _RANK[source.restore]:
        severity = Severity.REFUSAL if target.restore is Answer.NO else Severity.LOSS
        yield _Found("criu", target.because, severity, cure=target.hint)


def _drivers(source: Profile, target: Profile) -> Iterator[_Found]:
    """H2: the driver of the container; of a host each that it has, which containers may be on."""
    needs = source.needs
    others = [name for name, answer in target.drivers.items() if answer is not Answer.NO]
    cure = RULES["H2"].cure.format(drivers=" or ".join(others)) if others else "none works there"
    for name, answer in target.drivers.items():
        here = source.drivers.get(name, Answer.NO if needs is None else Answer.YES)
        wanted = needs is None or name == needs.driver
        if answer is Answer.NO and here is not Answer.NO and wanted:
            severity = Severity.REFUSAL if needs else Severity.NOTE
            detail = f"doctor says there: {target.reasons.get(name, 'no')}"
            yield _Found(f"driver {name}", detail, severity, cure=cure)


# --- Options of overlay ---------------------------------------------------------------------------

_OFF: Final = frozenset({"off", "nofollow", "N"})
"""Values that a kernel which does not know an option has by nature."""

_SHAPING: Final = ("metacopy", "redirect_dir", "index", "nfs_export", "xino")
"""Options that have a parameter of the module for a default."""


def _options(source: Profile, target: Profile) -> Iterator[_Found]:
    """H3: options that the container has, or that it has by default of its host."""
    used = default_options(source.parameters)
    if source.needs:
        if source.needs.driver != "overlay" and not source.needs.options:
            return
        used |= source.needs.options
    for name, value in used.items():
        if value in _OFF or (name == "redirect_dir" and value == "follow"):
            continue
        if target.features.get(f"overlay {name}") is False and _had(source, f"overlay {name}"):
            severity = Severity.REFUSAL if source.needs else Severity.LOSS
            yield _Found(f"overlay {name}", f"{name}={value} here", severity)


def _had(source: Profile, feature: str) -> bool:
    """Tell whether a host has a feature; one that was not asked has what its container uses."""
    return source.features.get(feature, True)


def _defaults(source: Profile, target: Profile) -> Iterator[_Found]:
    """H4."""
    here, there = default_options(source.parameters), default_options(target.parameters)
    explicit = source.needs.options if source.needs else {}
    for name in _SHAPING:
        if name in here and name in there and here[name] != there[name] and name not in explicit:
            yield _Found(f"overlay {name}", f"{name}={here[name]} here, {there[name]} there")


# --- CRIU -----------------------------------------------------------------------------------------


def _known(host: Profile) -> set[str]:
    """Give the pairs that a host has; by its versions where nobody tried it."""
    return set(known_pairs(host.criu, host.kernel) if host.known is None else host.known)


def _pairs(source: Profile, target: Profile) -> Iterator[_Found]:
    """H5: pairs that a restore meets, and that were not there already where it was dumped."""
    for name in sorted(_known(target) - _known(source)):
        known = table()[name]
        if known.affects != "dump":
            severity = Severity.NOTE if known.limited else Severity.REFUSAL
            what = f"CRIU {target.criu} on Linux {target.kernel}"
            sentence = f"{known.sentence} ({known.source})"
            yield _Found(f"criu {name}", what, severity, sentence, known.cure)


def _older(source: Profile, target: Profile) -> Iterator[_Found]:
    """H6."""
    here, there = parse(source.criu), parse(target.criu)
    if here and there and there < here:
        yield _Found("criu", f"CRIU {source.criu} here, {target.criu} there")


# --- The kernel -----------------------------------------------------------------------------------


def _lost(source: Profile, target: Profile, name: str) -> bool:
    """Tell whether one host has a feature and the other one not; unknown is neither."""
    return bool(source.features.get(name)) and target.features.get(name) is False


def _mappings(source: Profile, target: Profile) -> Iterator[_Found]:
    """H7."""
    if _lost(source, target, "criu overlayfs_maps"):
        yield _Found("maps", "overlayfs_maps")


def _cgroups(source: Profile, target: Profile) -> Iterator[_Found]:
    """H8: a refusal where CRIU would bring back groups of a hierarchy that is not there."""
    here, there, needs = source.cgroups, target.cgroups, source.needs
    if here is None or there is None or (needs and not needs.cgroups):
        return
    if here.layout not in {there.layout, "none"}:
        contained = here.layout in {"v1", "v2"} and there.layout == "hybrid"
        worse = Severity.REFUSAL if needs else Severity.LOSS
        severity = Severity.NOTE if contained else worse
        yield _Found("cgroups", f"{here.layout} here, {there.layout} there", severity)
    for version, ours, theirs in ((1, here.v1, there.v1), (2, here.v2, there.v2)):
        missing = sorted(set(ours) - set(theirs))
        if missing and theirs:
            yield _Found(f"cgroups v{version}", f"no {', '.join(missing)} there")


_FPU: Final = frozenset({"fpu", "fxsr", "xsave"})
"""What CRIU checks of the processor if it is told so, `--cpu-cap=fpu` (criu/arch/x86/cpu.c)."""


def _cpu(source: Profile, target: Profile) -> Iterator[_Found]:
    """H9: another architecture and the state of the FPU refuse, single instructions may be used."""
    if source.machine and target.machine and source.machine != target.machine:
        detail = f"{source.machine} here, {target.machine} there"
        sentence = "a program is of one architecture"
        cure = "restore on a host of the same architecture"
        yield _Found("machine", detail, Severity.REFUSAL, sentence, cure)
        return
    if source.cpu is None or target.cpu is None:
        return
    missing = set(source.cpu.features) - set(target.cpu.features)
    if state := sorted(missing & _FPU):
        sentence = "the state of the FPU that CRIU restores has no place there"
        cure = "restore on a processor that has it"
        yield _Found("cpu state", ", ".join(state), Severity.REFUSAL, sentence, cure)
    if others := sorted(missing - _FPU):
        yield _Found("cpu", ", ".join(others))


_USED: Final = {
    "time namespaces": "criu timens",
    "user namespaces": "criu userns",
    "cgroup namespaces": "criu cgroupns",
}
"""Features that only some containers use, and what CRIU calls them."""

_RESTORING: Final = (*_USED, "criu external_net_ns", "criu seccomp_filters", "criu aio_remap")
_ENGINE: Final = ("move_mount set group", "openat2")


def _features(source: Profile, target: Profile) -> Iterator[_Found]:
    """H10: what the container uses; of a host what some container can use."""
    for name in _RESTORING:
        both = {name, _USED.get(name, name)}
        if source.needs is None:
            if any(_lost(source, target, each) for each in both):
                yield _Found(name, f"no {name} there")
        elif name in source.needs.features and any(
            target.features.get(each) is False and _had(source, each) for each in both
        ):
            yield _Found(name, f"the container has {name}", Severity.REFUSAL)


def _engine(source: Profile, target: Profile) -> Iterator[_Found]:
    """H11."""
    for name in _ENGINE:
        if _lost(source, target, name):
            yield _Found(name, f"no {name} there")


_PREDICATES: Final[dict[str, Callable[[Profile, Profile], Iterator[_Found]]]] = {
    "H1": _restores,
    "H2": _drivers,
    "H3": _options,
    "H4": _defaults,
    "H5": _pairs,
    "H6": _older,
    "H7": _mappings,
    "H8": _cgroups,
    "H9": _cpu,
    "H10": _features,
    "H11": _engine,
}
