# SPDX-License-Identifier: Apache-2.0
"""Hosts for tests that conclude from what was tried: one on which all works, to be changed."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mountcr.hosts.features import CRIU_FEATURES, FEATURES, PROGRAMS
from mountcr.hosts.records import (
    Attempt,
    CgroupReport,
    CpuReport,
    CriuTrial,
    FuseReport,
    LibmountReport,
    OverlayReport,
    Privileges,
    Tried,
)
from mountcr.model import Criu

__all__ = ["GOOD", "RSEQ", "failing", "passed", "refused", "tried"]

GOOD: Final = Attempt(works=True)
RSEQ: Final = "137 has rseq but kernel lacks get_rseq_conf feature"
"""What CRIU 4.1.1 says of a task of glibc 2.36 on Linux 5.10."""

_OPTIONS: Final = [name.removeprefix("overlay ") for name in FEATURES if name[:8] == "overlay "]
_ALL: Final = ("CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_CHECKPOINT_RESTORE")


def passed(*, root: str = "overlay", rseq: bool = True) -> CriuTrial:
    """Give a trial in which everything went well."""
    return CriuTrial(root=root, rseq=rseq, dump=GOOD, restore=GOOD)


def refused(said: str, *, root: str = "overlay", rseq: bool = True) -> CriuTrial:
    """Give a trial in which the dump failed."""
    return CriuTrial(root=root, rseq=rseq, dump=failing(said))


def failing(said: str, hint: str = "") -> Attempt:
    """Give an attempt that failed."""
    return Attempt(works=False, said=said, hint=hint)


def tried(**changes: Any) -> Tried:
    """Give what was tried on a host on which all works, but for some fields."""
    host = Tried(
        mountcr="0",
        kernel="6.18.1",
        machine="x86_64",
        libc="2.36",
        features={name: True for name in FEATURES if name.removeprefix("overlay ") not in _OPTIONS},
        privileges=Privileges(euid=0, effective=_ALL, bounding=_ALL),
        criu=Criu(command=("/opt/criu",), version="4.1.1"),
        criu_features=dict.fromkeys(CRIU_FEATURES, True),
        drivers=dict.fromkeys(("overlay", "vfs", "aufs", "unionfs", "fuse-overlayfs"), GOOD),
        trials=(passed(),),
        overlay=OverlayReport(
            parameters={"index": "N", "metacopy": "N", "redirect_dir": "N", "xino_auto": "N"},
            options=dict.fromkeys(_OPTIONS, True),
        ),
        cgroups=CgroupReport(layout="v2", v2=("cpu", "memory")),
        cpu=CpuReport(told_by="criu", vendor="GenuineIntel", features=("avx2", "fpu", "sse2")),
        fuse=FuseReport(
            device=True,
            servers={"unionfs": "/usr/bin/unionfs", "fuse-overlayfs": "/usr/bin/fuse-overlayfs"},
        ),
        libmount=LibmountReport(version="2.41.0"),
        programs={name: f"/usr/bin/{name}" for name in PROGRAMS},
    )
    return msgspec.structs.replace(host, **changes)
