# SPDX-License-Identifier: Apache-2.0
"""The processor: what /proc/cpuinfo says of it."""

from __future__ import annotations

from typing import Final

from mountcr.criu.cpuinfo import INSTRUCTIONS
from mountcr.hosts.records import CpuReport

__all__ = ["read_cpuinfo"]

_FLAGS: Final = ("flags", "Features", "features")
"""What architectures call the list: x86, ARM, s390."""


def read_cpuinfo(text: str) -> CpuReport:
    """
    Parse /proc/cpuinfo as of its first processor; what it does not say stays empty.

    Of an x86 processor only the features are given that CRIU compares.
    """
    first = text.partition("\n\n")[0]
    said = {key.strip(): value.strip() for key, _, value in map(_pair, first.splitlines())}
    flags = set(next((said[each] for each in _FLAGS if each in said), "").split())
    if "flags" in said:
        flags &= INSTRUCTIONS
    return CpuReport(
        told_by="cpuinfo",
        vendor=said.get("vendor_id", said.get("CPU implementer", "")),
        family=_number(said.get("cpu family", "")),
        model=_number(said.get("model", "")),
        stepping=_number(said.get("stepping", "")),
        name=said.get("model name", ""),
        features=tuple(sorted(flags)),
    )


def _pair(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
