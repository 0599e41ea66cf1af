# SPDX-License-Identifier: Apache-2.0
"""
Everything that `mountcr doctor` tries on a host; `mountcr.hosts.diagnosis` says what it means.

Each thing is done for real, in mount namespaces that end with the attempt, and CRIU is asked
meanwhile. Nothing is left: no mount, no process, no directory.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from mountcr import __version__, libmount, mountinfo
from mountcr.criu import binary
from mountcr.criu.cpuinfo import parse_cpuinfo
from mountcr.errors import CapabilityError, MountcrError
from mountcr.hosts.diagnosis import diagnose
from mountcr.hosts.features import CRIU_FEATURES, PROGRAMS
from mountcr.hosts.records import (
    Attempt,
    CgroupReport,
    CriuTrial,
    FuseReport,
    LibmountReport,
    OverlayReport,
    Tried,
)
from mountcr.kernel.overlay import module_parameters
from mountcr.kernel.overlay_options import probe_overlay_options
from mountcr.kernel.probes import probe
from mountcr.kernel.scratch import SCRATCH, in_scratch
from mountcr.observation.cpu import read_cpuinfo
from mountcr.observation.privileges import read_privileges
from mountcr.observation.tasks import cgroups
from mountcr.operations.criu_trial import try_criu
from mountcr.operations.driver_trials import DRIVERS, try_driver
from mountcr.paths import decode
from mountcr.planning.cgroups import layout
from mountcr.programs import find_program
from mountcr.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.hosts.records import CpuReport, DoctorDocument

__all__ = ["examine", "tried"]

_SERVERS = {"unionfs": ("unionfs", "unionfs-fuse"), "fuse-overlayfs": ("fuse-overlayfs",)}


def examine() -> DoctorDocument:
    """Try everything and conclude; what needs root counts as not working without it."""
    return diagnose(tried())


def tried() -> Tried:
    """Try everything on this host."""
    privileges = read_privileges()
    criu = binary.identify()
    with binary.examining(criu, tuple(CRIU_FEATURES)) as answers:
        mounted = _mounted(criu.command)
        trials = tuple(_trials(criu.command, mounted))
        features = probe().features | {"overlay": mounted.drivers["overlay"].works}
        examined = answers()
    return Tried(
        mountcr=__version__,
        kernel=os.uname().release,
        machine=os.uname().machine,
        libc=_libc(),
        features=features,
        privileges=privileges,
        criu=examined.criu,
        criu_features=examined.features,
        drivers=mounted.drivers,
        trials=trials,
        overlay=OverlayReport(parameters=module_parameters(), options=mounted.options),
        cgroups=_cgroups(),
        cpu=_cpu(mounted.cpuinfo),
        fuse=_fuse(features["fuse"]),
        libmount=_libmount(),
        programs={name: find_program(name) or "" for name in PROGRAMS},
    )


class _Mounted(Record, frozen=True, kw_only=True):
    """What came of the attempts that mount, or why there could be none."""

    drivers: dict[str, Attempt]
    options: dict[str, bool] = {}
    cpuinfo: bytes = b""
    failed: str = ""


def _mounted(command: Sequence[str]) -> _Mounted:
    try:
        return in_scratch(lambda: _mount(command))
    except MountcrError as error:
        attempt = Attempt(works=False, said=error.message, hint=error.hint or "")
    except OSError as error:
        attempt = Attempt(works=False, said=f"{error.filename}: {error.strerror}")
    return _Mounted(drivers=dict.fromkeys(DRIVERS, attempt), failed=attempt.said)


def _mount(command: Sequence[str]) -> _Mounted:
    return _Mounted(
        drivers={name: try_driver(name, SCRATCH) for name in DRIVERS},
        options=probe_overlay_options(decode(SCRATCH)),
        cpuinfo=_dump_cpuinfo(command),
    )


def _dump_cpuinfo(command: Sequence[str]) -> bytes:
    """Have CRIU write what it sees of the processor; empty where it cannot."""
    if not command:
        return b""
    status, _ = binary.ask([*command, "cpuinfo", "dump", "--images-dir", SCRATCH])
    if status != 0:
        return b""
    with open(f"{SCRATCH}/cpuinfo.img", "rb") as file:
        return file.read()


def _trials(command: Sequence[str], mounted: _Mounted) -> Iterator[CriuTrial]:
    """Try what containers are like first, then with less and less of it, until one comes back."""
    if mounted.failed:
        yield CriuTrial(root="vfs", rseq=True, failed=mounted.failed)
    if mounted.failed or not command:
        return
    roots = ("overlay", "vfs") if mounted.drivers["overlay"].works else ("vfs",)
    for root, rseq in itertools.product(roots, (True, False)):
        trial = try_criu(command, root=root, rseq=rseq)
        yield trial
        if trial.done:
            return


def _cpu(image: bytes) -> CpuReport:
    if image:
        report = parse_cpuinfo(image, "cpuinfo.img")
        if report.told_by:
            return report
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        return read_cpuinfo(file.read())


def _cgroups() -> CgroupReport:
    mounts = mountinfo.read()
    versions = {1: set[str](), 2: set[str]()}
    for member in cgroups("thread-self"):
        if member.hierarchy:
            versions[1] |= set(member.controllers.split(","))
    for mount in mounts:
        if mount.fstype == "cgroup2":
            path = os.path.join(decode(mount.mountpoint), b"cgroup.controllers")
            if os.path.exists(path):
                with open(path, encoding="ascii") as file:
                    versions[2] |= set(file.read().split())
    v1, v2 = (tuple(sorted(versions[each])) for each in (1, 2))
    return CgroupReport(layout=layout(mounts), v1=v1, v2=v2)


def _fuse(device: bool) -> FuseReport:
    found = {
        driver: path
        for driver, names in _SERVERS.items()
        if (path := next(filter(None, map(find_program, names)), ""))
    }
    return FuseReport(device=device, servers=found)


def _libmount() -> LibmountReport:
    try:
        return LibmountReport(version=libmount.version())
    except CapabilityError as error:
        return LibmountReport(problem=error.message)


def _libc() -> str:
    """Give the release of glibc, empty with another libc: confstr(3)."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (OSError, ValueError):
        return ""
    return version if name == "glibc" else ""
