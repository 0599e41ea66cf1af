# SPDX-License-Identifier: Apache-2.0
"""Huge pages of the host: Documentation/admin-guide/mm/hugetlbpage."""

from __future__ import annotations

import contextlib
import os
from typing import Final

__all__ = ["free_huge_pages"]

_POOLS: Final = "/sys/kernel/mm/hugepages"


def free_huge_pages(pools: str = _POOLS) -> int:
    """
    Give the bytes of huge pages, of all sizes, that somebody who asks now can have.

    These are the free ones that nobody has reserved, and those that may be made beyond the pool.
    0 where the kernel has none.
    """
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for name in os.listdir(pools):
            pool = f"{pools}/{name}"
            free = _number(pool, "free_hugepages") - _number(pool, "resv_hugepages")
            more = _number(pool, "nr_overcommit_hugepages") - _number(pool, "surplus_hugepages")
            size = int(name.removeprefix("hugepages-").removesuffix("kB")) << 10
            total += size * (max(free, 0) + max(more, 0))
    return total


def _number(pool: str, name: str) -> int:
    with open(f"{pool}/{name}", "rb") as file:
        return int(file.read())
