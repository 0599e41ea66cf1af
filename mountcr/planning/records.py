# SPDX-License-Identifier: Apache-2.0
"""What a plan is: records that go to JSON, each choice with the fact that asked for it."""

from __future__ import annotations

from enum import StrEnum

from mountcr.criu.options import CriuOptions
from mountcr.criu.rewriting import Operation
from mountcr.model import Finding, InodeType, Record, Severity
from mountcr.paths import KPath
from mountcr.planning.choices import Choices
from mountcr.planning.network import NetworkPlan
from mountcr.planning.steps import Step
from mountcr.stack import Stack

__all__ = [
    "PLAN_SCHEMA",
    "ContainerSummary",
    "CriuPlan",
    "Engine",
    "External",
    "Inherited",
    "Plan",
    "Reason",
    "Rootfs",
    "Verdict",
]

PLAN_SCHEMA = "mountcr/plan/1"


class Verdict(StrEnum):
    """What will happen: all comes back, all but the losses, or CRIU refuses."""

    OK = "ok"
    LOSSES = "ok-with-losses"
    REFUSED = "refused"


class ContainerSummary(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    Which container the plan is for.

    `storage` is the storage driver of an engine that has one, and `rootfs` where it mounts.
    `start_time` is that of the pid, in clock ticks since boot.
    """

    id: str
    engine: str
    name: str = ""
    pid: int = 0
    start_time: int = 0
    storage: str = ""
    rootfs: KPath | None = None


class External(Record, frozen=True, kw_only=True, omit_defaults=False, gc=False):
    """
    A mount whose content comes from outside the container.

    `key` names it on both sides: `mnt[MOUNTPOINT]:KEY` at dump, `mnt[KEY]:SOURCE` at restore.
    `source` is a path in the host's mount namespace, None when no path leads there. `stack` is
    what an overlay is made of that is assembled again at `source` before. `requested` is what
    facts from elsewhere would have for a source, where nobody has allowed it.
    """

    mountpoint: KPath
    key: str
    source: KPath | None = None
    stack: Stack | None = None
    requested: KPath | None = None
    type: InodeType | None = None
    mode: int | None = None
    fstype: str
    because: str


class Inherited(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A descriptor whose other end or file lies outside: CRIU gets one from us instead.

    `fd` of task `pid` is the first that was seen of it. `number` is what CRIU gets it as, unique
    in a plan and the same as `fd` where it can be. `key` is CRIU's: `pipe:[INO]`, `file[MNT:INO]`
    or `tty[RDEV:DEV]`, numbers of the latter two in hexadecimal. `shown` is what /proc showed;
    `position` is that of a file, in bytes. `source` is where it is opened on the host, None for
    the path that was shown; `requested` is that of facts from elsewhere, where nobody has allowed
    it. Of a file that is only mapped `fd` is -1.
    """

    number: int
    fd: int
    pid: int
    key: str
    type: InodeType
    shown: KPath
    flags: int = 0
    position: int = 0
    source: KPath | None = None
    requested: KPath | None = None
    because: str


class Rootfs(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What the root file system will be made of, layers top first, and the steps that put it back.

    `origin` is what it was made of; they differ when it is converted. `imported` tells that the
    layers came in a bundle.
    """

    driver: str
    origin: Stack
    imported: bool = False
    layers: tuple[KPath, ...] = ()
    data: tuple[KPath, ...] = ()
    upper: KPath | None = None
    work: KPath | None = None
    options: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    provenance: tuple[str, ...] = ()


class Reason(Record, frozen=True, kw_only=True, omit_defaults=False, gc=False):
    """Why an option of CRIU is given."""

    option: str
    because: str


class Engine(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    Which of CRIU's restore engines makes the mounts: `v2`, or the older `v1`, compat mode.

    `representable` tells whether it can make the mount graph, as far as that is known. `losses` are
    sentences about what `other`, the other one, would not bring back, or not make at all.
    `asked_for` tells that the plan gives CRIU the option for it.
    """

    name: str
    because: str
    asked_for: bool = False
    representable: bool
    other: str
    losses: tuple[str, ...] = ()


class CriuPlan(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The two command lines, and the options behind them that a session sends to CRIU."""

    dump: tuple[str, ...]
    restore: tuple[str, ...]
    dump_options: CriuOptions
    restore_options: CriuOptions
    reasons: tuple[Reason, ...] = ()

    def dump_args(self) -> list[str]:
        """Give the command line of the dump."""
        return list(self.dump)

    def restore_args(self) -> list[str]:
        """Give the command line of the restore."""
        return list(self.restore)


class Plan(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What would be done and what would come of it; the hand-over to every other tool.

    `rewrites` are put right in the images when CRIU has dumped. `network` says how the network
    namespace comes back, None where CRIU sees to it.
    """

    schema: str = PLAN_SCHEMA
    verdict: Verdict
    container: ContainerSummary
    choices: Choices
    rootfs: Rootfs | None = None
    externals: tuple[External, ...] = ()
    inherited: tuple[Inherited, ...] = ()
    rewrites: tuple[Operation, ...] = ()
    network: NetworkPlan | None = None
    findings: tuple[Finding, ...] = ()
    engine: Engine | None = None
    criu: CriuPlan

    @property
    def refusals(self) -> tuple[Finding, ...]:
        """The findings for which CRIU would refuse and that the plan does not cure."""
        return tuple(
            each for each in self.findings if each.severity is Severity.REFUSAL and not each.cured
        )

    @property
    def losses(self) -> tuple[Finding, ...]:
        """What will not come back as it was."""
        return tuple(
            each for each in self.findings if each.severity is Severity.LOSS and not each.cured
        )
