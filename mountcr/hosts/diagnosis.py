# SPDX-License-Identifier: Apache-2.0
"""From what was tried on a host to what it can do; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.criu.binary import HINT
from mountcr.hosts.features import CRIU_FEATURES, FEATURES, PROGRAMS
from mountcr.hosts.known import explained, known_pairs, sign, table
from mountcr.hosts.records import (
    Ability,
    Answer,
    Check,
    CriuReport,
    DoctorDocument,
    DriverReport,
    KnownProblem,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mountcr.hosts.features import Feature
    from mountcr.hosts.records import Attempt, CriuTrial, Privileges, Tried

__all__ = ["diagnose", "may_mount"]

_CAPABILITY: Final = "CAP_SYS_ADMIN"
_FUSE_DRIVERS: Final = ("unionfs", "fuse-overlayfs")
_ROOT: Final = "run as root, in the user namespace of the host"


def diagnose(tried: Tried) -> DoctorDocument:
    """Conclude what a host can do; what was done wins over what is known of its versions."""
    dump, restore = _dump(tried, tried.trials), _restore(tried, tried.trials)
    known = tuple(_known(tried, dump, restore))
    return DoctorDocument(
        mountcr=tried.mountcr,
        kernel=tried.kernel,
        machine=tried.machine,
        libc=tried.libc,
        dump=dump,
        restore=restore,
        drivers=tuple(_driver(tried, name, dump, restore) for name in tried.drivers),
        checks=tuple(_checks(tried)),
        criu=CriuReport(
            version=tried.criu.version,
            command=tried.criu.command,
            problem=tried.criu.problem,
            features=tried.criu_features,
            known=known,
        ),
        overlay=tried.overlay,
        cgroups=tried.cgroups,
        cpu=tried.cpu,
        fuse=tried.fuse,
        libmount=tried.libmount,
        privileges=tried.privileges,
    )


# --- The host as a whole --------------------------------------------------------------------------


def _dump(tried: Tried, trials: tuple[CriuTrial, ...]) -> Ability:
    """Say whether CRIU dumps here, by what it made of the trials."""
    return _prevented(tried) or _untried(tried, trials) or _judged(tried, trials, "dump")


def _restore(tried: Tried, trials: tuple[CriuTrial, ...]) -> Ability:
    """Say whether CRIU restores here, which can be tried only where it dumps."""
    found = _prevented(tried) or _untried(tried, trials)
    if found:
        return found
    if not any(each.restore for each in trials):
        dump = _judged(tried, trials, "dump")
        because = f"nothing could be dumped to try it with: {dump.because}"
        return msgspec.structs.replace(dump, because=because)
    return _judged(tried, trials, "restore")


def _prevented(tried: Tried) -> Ability | None:
    """Say what keeps CRIU from even being tried."""
    if not tried.criu.command:
        none = Ability(verdict=Answer.NO, because=tried.criu.problem, hint=HINT)
        return _unprivileged(tried) or none
    return _unprivileged(tried)


def _unprivileged(tried: Tried) -> Ability | None:
    """Say which privilege is missing; without it nothing is mounted and CRIU does nothing."""
    if may_mount(tried.privileges):
        return None
    missing = "root" if tried.privileges.euid != 0 else _CAPABILITY
    return Ability(verdict=Answer.NO, because=f"it needs {missing}", hint=_ROOT)


def may_mount(privileges: Privileges) -> bool:
    """Tell whether a process has the privileges that mountcr wants for anything but a look."""
    return privileges.euid == 0 and _CAPABILITY in privileges.effective


def _untried(tried: Tried, trials: tuple[CriuTrial, ...]) -> Ability | None:
    """Go by CRIU's own check where there was no container to try it with."""
    if any(each.dump for each in trials):
        return None
    why = trials[-1].failed if trials else "nothing was tried"
    if tried.criu.problem:
        return Ability(
            verdict=Answer.NO, because=tried.criu.problem, hint=_cure(tried, tried.criu.problem)
        )
    return Ability(verdict=Answer.YES, because=f"says `criu check`, which alone was asked: {why}")


def _judged(tried: Tried, trials: tuple[CriuTrial, ...], what: str) -> Ability:
    """Judge the dumps or the restores of the trials that there were."""
    working = [each for each in trials if (attempt := _attempt(each, what)) and attempt.works]
    if any(each.rseq for each in working):
        return Ability(verdict=Answer.YES)
    said = next(_failures(trials, what), "nothing else was tried")
    if working:
        because = f"only tasks without restartable sequences: {said}"
        return Ability(verdict=Answer.PARTLY, because=because, hint=_cure(tried, said))
    return Ability(verdict=Answer.NO, because=said, hint=_cure(tried, said))


def _failures(trials: tuple[CriuTrial, ...], what: str) -> Iterator[str]:
    """Give what kept a dump, or a restore with the dump before it, from working."""
    for trial in trials:
        for each in (trial.dump, trial.restore if what == "restore" else None):
            if each and not each.works:
                yield sign(each.said)  # without a pid, which is another one each time
        if trial.failed:
            yield trial.failed


def _attempt(trial: CriuTrial, what: str) -> Attempt | None:
    return trial.dump if what == "dump" else trial.restore


def _cure(tried: Tried, message: str) -> str:
    """Say what helps against something CRIU said."""
    otherwise = _ROOT if tried.privileges.user_namespace else HINT
    return next((each.cure for each in explained(message).values()), otherwise)


# --- Known pairs ----------------------------------------------------------------------------------


def _known(tried: Tried, dump: Ability, restore: Ability) -> Iterator[KnownProblem]:
    """Give the known pairs that this host has, by its versions or by what CRIU said."""
    said = [tried.criu.problem]
    for trial in tried.trials:
        said += [each.said for each in (trial.dump, trial.restore) if each]
    seen = {name for message in said if message for name in explained(message)}
    by_versions = known_pairs(tried.criu.version, tried.kernel, tried.libc)
    works = {"dump": dump, "restore": restore}
    for name, each in table().items():
        if name not in seen and name not in by_versions:
            continue
        affected = [works[what] for what in works if each.affects in {what, "both"}]
        contradicted = not each.limited and all(it.verdict is Answer.YES for it in affected)
        yield KnownProblem(
            id=name,
            sentence=each.sentence,
            cure=each.cure,
            source=each.source,
            affects=each.affects,
            seen=name in seen,
            contradicted=contradicted and name not in seen,
        )


# --- Drivers --------------------------------------------------------------------------------------


def _driver(tried: Tried, name: str, dump: Ability, restore: Ability) -> DriverReport:
    attempt = tried.drivers[name]
    own = tuple(each for each in tried.trials if each.root == name)
    if any(each.dump for each in own):
        dump, restore = _dump(tried, own), _restore(tried, own)
    return DriverReport(
        driver=name,
        assembled=attempt.works,
        dump=dump if _can_run(tried, name) else _denied(tried, attempt),
        restore=restore if attempt.works else _denied(tried, attempt),
    )


def _can_run(tried: Tried, name: str) -> bool:
    """Tell whether a container can have its root on a driver, whoever mounted it."""
    if name in _FUSE_DRIVERS:
        return tried.fuse.device and name in tried.fuse.servers
    return tried.drivers[name].works


def _denied(tried: Tried, attempt: Attempt) -> Ability:
    """Say why a driver cannot be used, unless nothing can."""
    denied = Ability(verdict=Answer.NO, because=attempt.said, hint=attempt.hint)
    return _unprivileged(tried) or denied


# --- Features -------------------------------------------------------------------------------------


def _checks(tried: Tried) -> Iterator[Check]:
    root = tried.privileges.euid == 0
    hint = "" if root else "dump, restore, rebuild and demo need root"
    yield Check(name="root", works=root, needed=True, hint=hint)
    criu = tried.criu
    words = (criu.version, *criu.command, criu.problem)
    yield Check(
        name="criu",
        works=not criu.problem,
        detail=" ".join(filter(None, words)),
        needed=True,
        hint=_cure(tried, criu.problem) if criu.problem else "",
    )
    yield from _features(tried.criu_features, CRIU_FEATURES, prefix="criu ")
    libmount = tried.libmount
    yield Check(
        name="libmount", works=not libmount.problem, detail=libmount.version or libmount.problem
    )
    options = {f"overlay {name}": works for name, works in tried.overlay.options.items()}
    yield from _features({**tried.features, **options}, FEATURES)
    yield Check(name="cgroup layout", works=True, detail=tried.cgroups.layout)
    for name, feature in PROGRAMS.items():
        path = tried.programs.get(name, "")
        hint = "" if path else feature.hint
        yield Check(name=name, works=bool(path), detail=path, hint=hint, note=feature.path)


def _features(
    found: Mapping[str, bool], known: Mapping[str, Feature], *, prefix: str = ""
) -> Iterator[Check]:
    """Give the checks of features, in the order of their table."""
    for name, feature in known.items():
        if name in found:
            yield Check(
                name=f"{prefix}{name}",
                works=found[name],
                needed=feature.needed,
                hint="" if found[name] else feature.hint,
                note=feature.path,
            )
