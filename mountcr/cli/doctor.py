# SPDX-License-Identifier: Apache-2.0
"""`mountcr doctor`: what works on this host, found by trying it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mountcr import libmount, mountinfo
from mountcr.cli.output import print_document
from mountcr.criu import binary
from mountcr.errors import CapabilityError
from mountcr.kernel import probes
from mountcr.model import Record
from mountcr.planning.cgroups import layout
from mountcr.programs import find_program

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["Check", "DoctorDocument", "examine", "run"]

_FEATURES: Final = ("move_mount_set_group", "openat2", "overlayfs_maps", "mem_dirty_track")
_PROGRAMS: Final = {
    "runc": "containers of runc, --via runtime",
    "crun": "containers of crun, --via runtime",
    "fuse-overlayfs": "root file systems of fuse-overlayfs",
    "unionfs": "root file systems of unionfs-fuse",
    "busybox": "mountcr demo",
}


class Check(Record, frozen=True, kw_only=True, omit_defaults=False):
    """One thing that was tried. What is `needed` and not there keeps mountcr from its work."""

    name: str
    works: bool
    detail: str = ""
    needed: bool = False
    hint: str = ""


class DoctorDocument(Record, frozen=True, kw_only=True, omit_defaults=False):
    """All that was tried."""

    schema: str = "mountcr/doctor/1"
    kernel: str
    checks: tuple[Check, ...]


def examine() -> DoctorDocument:
    """Try everything; what needs root counts as not working without it."""
    capabilities = probes.probe()
    checks = [
        _privilege(),
        _criu(),
        *_criu_features(),
        _libmount(),
        *(
            Check(name=name, works=works, needed=name == "overlay")
            for name, works in capabilities.features.items()
        ),
        Check(name="cgroup layout", works=True, detail=layout(mountinfo.read())),
        *_programs(),
    ]
    return DoctorDocument(kernel=capabilities.kernel, checks=tuple(checks))


def _privilege() -> Check:
    root = os.geteuid() == 0
    hint = "" if root else "dump, restore, rebuild and demo need root"
    return Check(name="root", works=root, needed=True, hint=hint)


def _criu() -> Check:
    criu = binary.probe()
    detail = " ".join(each for each in (criu.version, *criu.command, criu.problem) if each)
    hint = binary.HINT if criu.problem else ""
    return Check(name="criu", works=not criu.problem, detail=detail, needed=True, hint=hint)


def _criu_features() -> Iterator[Check]:
    command = binary.locate()
    for feature in _FEATURES if command else ():
        yield Check(name=f"criu {feature}", works=binary.has_feature(command, feature))


def _libmount() -> Check:
    try:
        return Check(name="libmount", works=True, detail=libmount.version())
    except CapabilityError as error:
        return Check(name="libmount", works=False, detail=error.message, hint=error.hint or "")


def _programs() -> Iterator[Check]:
    for name, use in _PROGRAMS.items():
        found = find_program(name)
        hint = "" if found else f"for {use}: tools/provision"
        yield Check(name=name, works=found is not None, detail=found or "", hint=hint)


def run(arguments: argparse.Namespace) -> int:
    """Print what was tried; 6 when something is missing without which nothing can be restored."""
    found = examine()
    if arguments.json:
        print_document(found)
    else:
        print(f"Linux {found.kernel}")
        width = max(len(check.name) for check in found.checks)
        for check in found.checks:
            mark = "yes" if check.works else "NO" if check.needed else "no"
            print(f"{mark:>3}  {check.name:<{width}}  {check.detail}".rstrip())
            if check.hint:
                print(f"     {'':<{width}}  hint: {check.hint}")
    return 6 if any(check.needed and not check.works for check in found.checks) else 0
