# SPDX-License-Identifier: Apache-2.0
"""The host as this process sees it: mounts, namespaces, kernel, CRIU."""

from __future__ import annotations

import os

from mountcr import mountinfo
from mountcr.boot import boot_id
from mountcr.criu import binary
from mountcr.kernel.overlay import module_parameters
from mountcr.kernel.probes import probe_aufs, probe_criu_engine, probe_fuse
from mountcr.kernel.rseq import probe_rseq
from mountcr.model import Capabilities, Criu, Host
from mountcr.observation.aufs import with_branches_of_all
from mountcr.observation.fuse import with_servers_of_all
from mountcr.observation.hugepages import free_huge_pages
from mountcr.observation.layers import with_layers_of_all
from mountcr.observation.tasks import cgroups, namespaces
from mountcr.programs import which

__all__ = ["observe_host"]


def observe_host(*, criu: Criu | None = None) -> Host:
    """
    Observe the host; CRIU is asked for its version, unless it is known already.

    What kernel and CRIU can do is not probed, which takes 0.1 s: `mountcr doctor` does. Only what
    CRIU's choice of its restore engine depends on is, what the drivers of AUFS and of FUSE unions
    need, and what tasks may depend on: that takes a millisecond or two. The programs that CRIU
    starts to copy a tmpfs are looked for.
    """
    copying = {name: which(name) is not None for name in ("tar", "gzip")}
    return Host(
        mounts=with_layers_of_all(with_branches_of_all(with_servers_of_all(mountinfo.read()))),
        namespaces=namespaces("thread-self"),
        cgroups=cgroups("thread-self"),
        capabilities=Capabilities(
            kernel=os.uname().release,
            features={
                **copying,
                **probe_criu_engine(),
                **probe_aufs(),
                **probe_fuse(),
                **probe_rseq(),
                "vsyscall": _has_vsyscall(),
                "criu cache": os.path.exists(binary.CACHE),
            },
        ),
        criu=criu or binary.identify(),
        overlay=module_parameters(),
        boot=boot_id(),
        huge=free_huge_pages(),
    )


def _has_vsyscall() -> bool:
    """Tell whether 64-bit tasks of x86 have the page, which vsyscall=none takes away."""
    with open("/proc/self/maps", "rb") as file:
        return b"[vsyscall]" in file.read()
