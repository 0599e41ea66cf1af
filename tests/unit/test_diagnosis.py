# SPDX-License-Identifier: Apache-2.0
"""What is concluded of a host from what was tried on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts import RSEQ, failing, passed, refused, tried
from mountcr.cli.doctor import status_of
from mountcr.hosts.diagnosis import diagnose
from mountcr.hosts.features import CRIU_FEATURES, FEATURES, PROGRAMS, Feature
from mountcr.hosts.records import Answer, CriuTrial, DoctorDocument, FuseReport, Privileges, Tried
from mountcr.model import Criu
from mountcr.render.doctor import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
EVERY: Final = {**FEATURES, **CRIU_FEATURES, **PROGRAMS}

UNPRIVILEGED: Final = Privileges(euid=1000)
CURTAILED: Final = Privileges(euid=0, effective=("CAP_SYS_RESOURCE",))
NO_CRIU: Final = Criu(problem="no CRIU that runs was found (tried PATH)")
VDSO: Final = "vdso: Unexpected rt vDSO area bounds"


def driver(found: DoctorDocument, name: str) -> tuple[Answer, Answer]:
    """Give the verdicts on a dump and a restore of a driver."""
    (report,) = (each for each in found.drivers if each.driver == name)
    return report.dump.verdict, report.restore.verdict


def test_a_host_on_which_all_works() -> None:
    """Every verdict is yes, without a word, and the exit status is 0."""
    found = diagnose(tried())
    assert (found.dump.verdict, found.restore.verdict) == (Answer.YES, Answer.YES)
    assert {driver(found, each.driver) for each in found.drivers} == {(Answer.YES, Answer.YES)}
    assert not found.dump.because
    assert all(check.works for check in found.checks)
    assert status_of(found) == 0


def test_a_kernel_that_hides_restartable_sequences() -> None:
    """Tasks without them are dumped, so it is partly, with the reason and the variable to set."""
    trials = (refused(RSEQ), passed(rseq=False))
    found = diagnose(tried(kernel="5.10.0-30", trials=trials))
    assert found.dump.verdict is Answer.PARTLY
    assert RSEQ.removeprefix("137 ") in found.dump.because
    assert "137" not in found.dump.because
    assert "GLIBC_TUNABLES=glibc.pthread.rseq=0" in found.dump.hint
    assert found.restore.verdict is Answer.PARTLY
    assert driver(found, "unionfs") == (Answer.PARTLY, Answer.PARTLY)
    (known,) = (each for each in found.criu.known if each.id == "rseq-unseen")
    assert known.seen
    assert status_of(found) == 0


def test_a_host_where_nothing_is_dumped() -> None:
    """Both are no, with CRIU's words and the cure that goes with them; the exit status is 6."""
    trials = tuple(
        refused(VDSO, root=root, rseq=rseq) for root in ("overlay", "vfs") for rseq in (True, False)
    )
    criu = Criu(command=("criu",), version="3.17.1", problem=VDSO)
    found = diagnose(tried(trials=trials, criu=criu))
    assert found.dump.verdict is found.restore.verdict is Answer.NO
    assert found.dump.because == VDSO
    assert "4.1" in found.dump.hint
    assert VDSO in found.restore.because
    assert driver(found, "vfs") == (Answer.NO, Answer.NO)
    assert status_of(found) == 6


def test_a_host_that_dumps_and_does_not_restore() -> None:
    """Each direction has its own verdict."""
    trial = CriuTrial(
        root="overlay", rseq=True, dump=passed().dump, restore=failing("Failed to move_mount")
    )
    found = diagnose(tried(trials=(trial,)))
    assert (found.dump.verdict, found.restore.verdict) == (Answer.YES, Answer.NO)
    assert found.restore.because == "Failed to move_mount"
    assert status_of(found) == 6


def test_an_overlay_of_which_criu_makes_nothing() -> None:
    """A trial that fails on overlay and not on a plain directory says no of overlay only."""
    said = "Can't lookup mount=23 for fd=-3 path=/bin/sleep"
    trials = (
        refused(said),
        refused(said, rseq=False),
        passed(root="vfs"),
    )
    found = diagnose(tried(trials=trials))
    assert found.dump.verdict is Answer.YES
    assert driver(found, "overlay") == (Answer.NO, Answer.NO)
    assert driver(found, "vfs") == (Answer.YES, Answer.YES)


def test_no_program_for_a_trial() -> None:
    """CRIU's own check is gone by, and that it is."""
    trial = CriuTrial(root="vfs", rseq=True, failed="there is no program called sleep")
    found = diagnose(tried(trials=(trial,)))
    assert found.dump.verdict is Answer.YES
    assert "criu check" in found.dump.because
    problem = Criu(command=("criu",), version="4.1.1", problem="it does not start")
    found = diagnose(tried(trials=(trial,), criu=problem))
    assert found.dump.verdict is Answer.NO
    assert found.dump.because == "it does not start"


@pytest.mark.parametrize("privileges", [UNPRIVILEGED, CURTAILED])
def test_without_privilege(privileges: Privileges) -> None:
    """What is missing is said once, for everything, and the exit status is 7."""
    attempt = failing("a mount namespace of one's own needs CAP_SYS_ADMIN", "run as root")
    drivers = dict.fromkeys(("overlay", "vfs", "unionfs"), attempt)
    found = diagnose(tried(privileges=privileges, trials=(), drivers=drivers))
    missing = "root" if privileges.euid else "CAP_SYS_ADMIN"
    reasons = {found.dump.because, found.restore.because}
    reasons |= {each.dump.because for each in found.drivers}
    reasons |= {each.restore.because for each in found.drivers}
    assert reasons == {f"it needs {missing}"}
    assert status_of(found) == 7


def test_no_criu() -> None:
    """That is why, with how to get one; layers can be assembled all the same."""
    found = diagnose(tried(criu=NO_CRIU, criu_features={}, trials=()))
    assert found.dump.because == NO_CRIU.problem
    assert "tools/provision" in found.dump.hint
    assert driver(found, "vfs") == (Answer.NO, Answer.NO)
    assert all(each.assembled for each in found.drivers)
    assert status_of(found) == 6


def test_a_driver_that_cannot_be_mounted() -> None:
    """Its restore is no with the reason and the way out; the others are as the host is."""
    attempt = failing("aufs: this kernel has no AUFS", "rebuild it on another driver")
    found = diagnose(tried(drivers={**tried().drivers, "aufs": attempt}))
    assert driver(found, "aufs") == (Answer.NO, Answer.NO)
    assert driver(found, "overlay") == (Answer.YES, Answer.YES)
    (report,) = (each for each in found.drivers if each.driver == "aufs")
    assert (report.assembled, report.restore.hint) == (False, attempt.hint)


def test_a_fuse_union_that_mountcr_cannot_mount() -> None:
    """A container of it can run here, and be dumped, as long as there are program and device."""
    drivers = {**tried().drivers, "unionfs": failing("it would keep its mount")}
    assert driver(diagnose(tried(drivers=drivers)), "unionfs") == (Answer.YES, Answer.NO)
    bare = tried(drivers=drivers, fuse=FuseReport(device=False))
    assert driver(diagnose(bare), "unionfs") == (Answer.NO, Answer.NO)


def test_what_is_known_and_did_not_happen() -> None:
    """The trial wins, and the document says that it went against what is known."""
    found = diagnose(tried(criu=Criu(command=("criu",), version="3.19")))
    (known,) = (each for each in found.criu.known if each.id == "vdso-bounds")
    assert (known.seen, known.contradicted) == (False, True)
    assert found.dump.verdict is Answer.YES


def test_a_user_namespace() -> None:
    """What CRIU fails on there is for want of reach, and that is the hint."""
    inside = Privileges(euid=0, effective=("CAP_SYS_ADMIN",), user_namespace=True)
    found = diagnose(tried(privileges=inside, trials=(refused("Operation not permitted"),)))
    assert "in the user namespace of the host" in found.dump.hint


# --- Checks ---------------------------------------------------------------------------------------


def test_the_names_of_the_checks() -> None:
    """They are the same on every host, whatever works there."""
    nothing = tried(
        features=dict.fromkeys(tried().features, False),
        criu_features=dict.fromkeys(CRIU_FEATURES, False),
    )
    names = [each.name for each in diagnose(tried()).checks]
    assert names == [each.name for each in diagnose(nothing).checks]
    assert len(names) == len(set(names))
    assert {"root", "criu", "libmount", "overlay", "openat2", "cgroup layout"} <= set(names)
    assert {"overlay metacopy", "overlay layers by descriptor", "criu get_rseq_conf"} <= set(names)


def test_a_hint_is_for_what_is_missing() -> None:
    """What works needs none."""
    assert not [each for each in diagnose(tried()).checks if each.hint]
    lacking = tried(features={**tried().features, "openat2": False})
    (check,) = (each for each in diagnose(lacking).checks if each.name == "openat2")
    assert "Linux 5.6" in check.hint


@pytest.mark.parametrize("feature", EVERY.values(), ids=EVERY)
def test_the_note_of_a_feature_is_there(feature: Feature) -> None:
    """Its path, if it has one, is that of a file."""
    assert not feature.path or (ROOT / feature.path).is_file()


# --- Any host -------------------------------------------------------------------------------------

ATTEMPTS: Final = st.sampled_from([None, failing(RSEQ), failing("it failed"), passed().dump])


@st.composite
def hosts(draw: st.DrawFn) -> Tried:
    """Give what may have been tried, whatever came of it."""

    def trial(root: str, rseq: bool) -> CriuTrial:
        dump = draw(ATTEMPTS)
        restore = draw(ATTEMPTS.filter(bool)) if dump and dump.works else None
        return CriuTrial(
            root=root, rseq=rseq, dump=dump, restore=restore, failed="" if dump else "nothing began"
        )

    kinds = (("overlay", True), ("overlay", False), ("vfs", True), ("vfs", False))
    count = draw(st.integers(0, len(kinds)))
    attempts = st.sampled_from([passed().dump, failing("it failed")])
    return tried(
        trials=tuple(trial(*each) for each in kinds[:count]),
        drivers={name: draw(attempts) for name in tried().drivers},
        privileges=draw(st.sampled_from([tried().privileges, UNPRIVILEGED, CURTAILED])),
        criu=draw(st.sampled_from([tried().criu, NO_CRIU])),
    )


def abilities(found: DoctorDocument) -> Iterator[tuple[Answer, str]]:
    """Give every verdict of a document with its reason."""
    for each in (found.dump, found.restore):
        yield each.verdict, each.because
    for driver_ in found.drivers:
        yield driver_.dump.verdict, driver_.dump.because
        yield driver_.restore.verdict, driver_.restore.because


@given(hosts())
def test_a_verdict_that_is_not_yes_has_a_reason(host: Tried) -> None:
    """Whatever was tried."""
    for verdict, because in abilities(diagnose(host)):
        assert verdict is Answer.YES or because


@given(hosts())
def test_a_restore_is_promised_only_on_what_was_assembled(host: Tried) -> None:
    """And only where some container came back, or none could be tried."""
    found = diagnose(host)
    for each in found.drivers:
        if each.restore.verdict is not Answer.NO:
            assert each.assembled
    if found.restore.verdict is not Answer.NO:
        attempts = [each.restore for each in host.trials if each.restore]
        assert any(each.works for each in attempts) or not any(each.dump for each in host.trials)


@given(hosts())
def test_a_document_goes_to_json_and_back(host: Tried) -> None:
    """And has a text, with a line for each driver."""
    found = diagnose(host)
    assert msgspec.json.decode(msgspec.json.encode(found), type=DoctorDocument) == found
    lines = text_of(found).splitlines()
    assert {each.split()[0] for each in lines if each} >= {each.driver for each in found.drivers}
