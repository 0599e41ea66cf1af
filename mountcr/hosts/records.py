# SPDX-License-Identifier: Apache-2.0
"""What `mountcr doctor` says of a host, and what it was told by those that tried."""

from __future__ import annotations

from enum import StrEnum

from mountcr.model import Criu
from mountcr.record import Record

__all__ = [
    "DOCTOR_SCHEMA",
    "Ability",
    "Answer",
    "Attempt",
    "CgroupReport",
    "Check",
    "CpuReport",
    "CriuReport",
    "CriuTrial",
    "DoctorDocument",
    "DriverReport",
    "FuseReport",
    "KnownProblem",
    "LibmountReport",
    "OverlayReport",
    "Privileges",
    "Tried",
]

DOCTOR_SCHEMA = "mountcr/doctor/1"


class Answer(StrEnum):
    """Whether something can be done: always, never, or in some cases, which are told."""

    YES = "yes"
    NO = "no"
    PARTLY = "partly"


class Ability(Record, frozen=True, kw_only=True, omit_defaults=False):
    """What can be done, what keeps it from being done, and what helps."""

    verdict: Answer
    because: str = ""
    hint: str = ""


class Check(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    One thing that was tried. What is `needed` and not there keeps mountcr from its work.

    `note` is the path of the file in the repository that explains it, empty if there is none.
    """

    name: str
    works: bool
    detail: str = ""
    needed: bool = False
    hint: str = ""
    note: str = ""


class DriverReport(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A storage driver: whether a root of it was `assembled` here, and what that is good for.

    `dump` is about a container whose root is on it, `restore` about one that comes back on it.
    """

    driver: str
    assembled: bool
    dump: Ability
    restore: Ability


class KnownProblem(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A pair of CRIU and kernel that is known not to get along, and that this host has.

    `affects` is `dump`, `restore` or `both`. `seen` tells that CRIU failed with its words; else
    only versions say so, and `contradicted` that it worked all the same.
    """

    id: str
    sentence: str
    cure: str
    source: str
    affects: str
    seen: bool = False
    contradicted: bool = False


class CriuReport(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The CRIU of a host; `problem` is the first line of its complaint, empty if there is none."""

    version: str = ""
    command: tuple[str, ...] = ()
    problem: str = ""
    features: dict[str, bool] = {}
    known: tuple[KnownProblem, ...] = ()


class OverlayReport(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The parameters of the overlay module, and which options the kernel took."""

    parameters: dict[str, str] = {}
    options: dict[str, bool] = {}


class CgroupReport(Record, frozen=True, kw_only=True, omit_defaults=False):
    """`layout` is v1, v2, hybrid or none; `controllers` are those of each version."""

    layout: str = "none"
    v1: tuple[str, ...] = ()
    v2: tuple[str, ...] = ()


class CpuReport(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    The processor, as CRIU sees it or, where `told_by` is `cpuinfo`, as /proc/cpuinfo does.

    `features` are those whose absence CRIU notices (`criu cpuinfo check --cpu-cap=ins`), by the
    names of /proc/cpuinfo. On other machines than x86 they are all that /proc/cpuinfo names.
    """

    told_by: str = ""
    vendor: str = ""
    family: int = 0
    model: int = 0
    stepping: int = 0
    name: str = ""
    features: tuple[str, ...] = ()


class FuseReport(Record, frozen=True, kw_only=True, omit_defaults=False):
    """Whether /dev/fuse can be opened, and the servers of unions by the name of their driver."""

    device: bool = False
    servers: dict[str, str] = {}


class LibmountReport(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The version of the libmount that was loaded, or why none was."""

    version: str = ""
    problem: str = ""


class Privileges(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What this process may do: the capabilities that matter here, capabilities(7).

    `user_namespace` tells of one below that of the host, where they reach less far.
    """

    euid: int = 0
    effective: tuple[str, ...] = ()
    bounding: tuple[str, ...] = ()
    user_namespace: bool = False


class DoctorDocument(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    All that was tried on a host, and what it means.

    `dump` and `restore` tell whether that can work here at all, for any container.
    """

    schema: str = DOCTOR_SCHEMA
    mountcr: str = ""
    kernel: str
    machine: str = ""
    libc: str = ""
    dump: Ability
    restore: Ability
    drivers: tuple[DriverReport, ...] = ()
    checks: tuple[Check, ...]
    criu: CriuReport = CriuReport()
    overlay: OverlayReport = OverlayReport()
    cgroups: CgroupReport = CgroupReport()
    cpu: CpuReport = CpuReport()
    fuse: FuseReport = FuseReport()
    libmount: LibmountReport = LibmountReport()
    privileges: Privileges = Privileges()


# --- What those that tried tell -------------------------------------------------------------------


class Attempt(Record, frozen=True, kw_only=True):
    """Whether something worked; if not, what was said, and what helps."""

    works: bool
    said: str = ""
    hint: str = ""


class CriuTrial(Record, frozen=True, kw_only=True):
    """
    A small container that was dumped and restored; None where it did not come to that.

    `root` is the storage driver that it was on. Without `rseq` its task was one for which glibc had
    registered no restartable sequences. `failed` is why there was no container to begin with.
    """

    root: str
    rseq: bool

    dump: Attempt | None = None
    restore: Attempt | None = None
    failed: str = ""

    @property
    def done(self) -> bool:
        """Whether it was dumped and came back."""
        return bool(self.dump and self.dump.works and self.restore and self.restore.works)


class Tried(Record, frozen=True, kw_only=True):
    """
    All that was tried on a host, before anybody concludes anything.

    `features` are calls and file systems by name, `programs` paths by name, empty where there is
    none. `trials` are the containers that were tried until one came back.
    """

    mountcr: str
    kernel: str
    machine: str
    libc: str
    features: dict[str, bool]
    privileges: Privileges
    criu: Criu
    criu_features: dict[str, bool]
    drivers: dict[str, Attempt]
    trials: tuple[CriuTrial, ...]
    overlay: OverlayReport
    cgroups: CgroupReport
    cpu: CpuReport
    fuse: FuseReport
    libmount: LibmountReport
    programs: dict[str, str]
