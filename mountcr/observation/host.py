# SPDX-License-Identifier: Apache-2.0
"""The host as this process sees it: mounts, namespaces, kernel, CRIU."""

from __future__ import annotations

import os

from mountcr import mountinfo
from mountcr.criu import binary
from mountcr.model import Capabilities, Host
from mountcr.observation.tasks import cgroups, namespaces

__all__ = ["observe_host"]


def observe_host(*, probe: bool = False) -> Host:
    """
    Observe the host; with `probe`, ask the kernel and CRIU what they can do (about 0.1 s).

    Without it only the version of CRIU is asked for.
    """
    capabilities = Capabilities(kernel=os.uname().release)
    if probe:
        from mountcr.kernel import probes  # cffi is not needed to read a table

        capabilities = probes.probe()
    return Host(
        mounts=mountinfo.read(),
        namespaces=namespaces("thread-self"),
        cgroups=cgroups("thread-self"),
        capabilities=capabilities,
        criu=binary.probe() if probe else binary.identify(),
    )
