# SPDX-License-Identifier: Apache-2.0
"""What this process may do, as /proc tells."""

from __future__ import annotations

import os
from typing import Final

from mountcr.hosts.records import Privileges

__all__ = ["read_privileges"]

_CAPABILITIES: Final = {
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_CHECKPOINT_RESTORE": 40,
}
"""Those that CRIU asks for, by their bits (include/uapi/linux/capability.h)."""

_INITIAL: Final = ["0", "0", "4294967295"]
"""The only line of uid_map in the user namespace of the host, user_namespaces(7)."""


def read_privileges() -> Privileges:
    """Read what the calling thread may do."""
    said: dict[str, str] = {}
    with open("/proc/thread-self/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            said[key] = value.strip()
    return Privileges(
        euid=os.geteuid(),
        effective=_names(said.get("CapEff", "0")),
        bounding=_names(said.get("CapBnd", "0")),
        user_namespace=_in_user_namespace(),
    )


def _names(mask: str) -> tuple[str, ...]:
    bits = int(mask, 16)
    return tuple(name for name, bit in _CAPABILITIES.items() if bits >> bit & 1)


def _in_user_namespace() -> bool:
    """Tell whether ids are mapped; a kernel without user namespaces has no such file."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return False
    return [line.split() for line in lines] != [_INITIAL]
