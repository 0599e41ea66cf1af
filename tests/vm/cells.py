# SPDX-License-Identifier: Apache-2.0
"""The cells of the matrix, and what they were seen with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.record import Record
from mountcr.resolution.quirks import Quirk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountcr.resolution.files import ResolvedFile

__all__ = ["SCHEMA", "Cell", "Matrix", "Seen", "quirk_cells"]

SCHEMA: Final = "mountcr/matrix/1"


class Cell(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    One thing on one kernel.

    `group` is the table, `subject` the row (a feature, a driver, a quirk), `check` what of it was
    tried. `result` is a word or a few, the same whenever the same is seen; `detail` is what else
    was said, which may be another in each run. `command` is what was run.
    """

    group: str
    subject: str
    check: str
    result: str
    detail: str = ""
    command: str = ""


class Seen(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A kernel with its cells, and by what and when it was looked at.

    `source` is `booted` or `recorded`, `release` as uname(1) says it, `package` where it came from.
    `versions` are those of programs, `date` is that of the run, ISO 8601.
    """

    kernel: str
    source: str
    release: str
    package: str
    date: str
    versions: dict[str, str] = {}
    cells: tuple[Cell, ...] = ()


class Matrix(Record, frozen=True, kw_only=True, omit_defaults=False):
    """All kernels, oldest first."""

    schema: str = SCHEMA
    kernels: tuple[Seen, ...] = ()


def quirk_cells(driver: str, files: Iterable[ResolvedFile], command: str) -> Iterator[Cell]:
    """Give for each quirk whether one of the files of a process on a driver shows it."""
    seen = {quirk for each in files for quirk in each.quirks}
    for quirk in Quirk:
        result = "seen" if quirk in seen else "no"
        yield Cell(group="quirk", subject=quirk, check=driver, result=result, command=command)
