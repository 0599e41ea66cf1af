# SPDX-License-Identifier: Apache-2.0
"""Which boot of the host this is."""

from __future__ import annotations

from typing import Final

__all__ = ["boot_id"]

_FILE: Final = "/proc/sys/kernel/random/boot_id"


def boot_id() -> str:
    """Give what names the time since the last boot: a random UUID, see random(4)."""
    with open(_FILE, encoding="ascii") as file:
        return file.read().strip()
