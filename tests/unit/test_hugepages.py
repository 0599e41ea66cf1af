# SPDX-License-Identifier: Apache-2.0
"""How many huge pages somebody can have who asks now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mountcr.observation.hugepages import free_huge_pages

if TYPE_CHECKING:
    from pathlib import Path

NAMES = (
    "free_hugepages", "resv_hugepages", "nr_overcommit_hugepages", "surplus_hugepages",
)  # fmt: skip
SIZE = 2 << 20


@pytest.mark.parametrize(
    ("numbers", "pages"),
    [
        ((0, 0, 0, 0), 0),
        ((3, 0, 0, 0), 3),
        ((3, 2, 0, 0), 1),
        ((0, 0, 4, 1), 3),
        ((2, 1, 4, 1), 4),
        ((0, 0, 0, 2), 0),
    ],
)
def test_free_and_possible_pages(tmp_path: Path, numbers: tuple[int, ...], pages: int) -> None:
    """What is reserved is somebody's; what may be made is there; sizes are added up."""
    pool(tmp_path, "hugepages-2048kB", numbers)
    assert free_huge_pages(str(tmp_path)) == pages * SIZE
    pool(tmp_path, "hugepages-1048576kB", (1, 0, 0, 0))
    assert free_huge_pages(str(tmp_path)) == pages * SIZE + (1 << 30)


def pool(at: Path, name: str, numbers: tuple[int, ...]) -> None:
    """Write a pool as sysfs has it."""
    (at / name).mkdir()
    for each, number in zip(NAMES, numbers, strict=True):
        (at / name / each).write_text(f"{number}\n")


def test_a_kernel_without_huge_pages(tmp_path: Path) -> None:
    """It has none."""
    assert free_huge_pages(str(tmp_path / "hugepages")) == 0
