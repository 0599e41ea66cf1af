# SPDX-License-Identifier: Apache-2.0
"""
The matrix: kernels that were booted and kernels that were recorded, merged, compared, written.

What changed of a committed cell is its result; details, dates and versions may be others.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import builders
from captures.judge import wrong_inside
from mountcr import __version__
from mountcr.observation.capture import is_capture, read_capture
from mountcr.resolution.files import resolve
from vm.cells import Cell, Matrix, Seen, quirk_cells
from vm.trips import BARE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["changes", "merged", "order", "promises", "recorded"]

_FILES: Final = "mountcr files tests/fixtures/kernels"
_BOOTED: Final = "deb-"
"""What begins the names of captures of kernels that are booted too."""

_OTHER_NAMES: Final[dict[str, str]] = {
    "overlay-multifs": "overlay, several file systems",
    "aufs-multifs": "aufs, several file systems",
    "unionfs-fuse": "unionfs",
}
"""Drivers as the rest of the matrix calls them."""


def recorded(date: str, fixtures: Path = builders.KERNELS) -> Iterator[Seen]:
    """
    Give what recorded kernels, which nobody boots here, showed of files, resolved by this mountcr.

    `date` is today's, which the cells are of.
    """
    captures: dict[str, dict[str, Path]] = {}
    for path in sorted(fixtures.iterdir()):
        if not is_capture(str(path)) or path.name.startswith(_BOOTED):
            continue
        driver: str = json.loads((path / "manifest.json").read_bytes())["driver"]
        kernel = path.name.removesuffix(f"-{driver}")
        captures.setdefault(kernel, {})[_OTHER_NAMES.get(driver, driver)] = path
    for kernel, drivers in captures.items():
        yield _recorded(kernel, drivers, date)


def _recorded(kernel: str, drivers: dict[str, Path], date: str) -> Seen:
    cells: list[Cell] = []
    for driver, path in drivers.items():
        wrong = list(wrong_inside(path))
        command = f"{_FILES}/{path.name}"
        cells.append(
            Cell(
                group="files",
                subject=driver,
                check="found",
                result="wrong" if wrong else "right",
                detail="; ".join(wrong),
                command=command,
            )
        )
        files = [*resolve(read_capture(str(path)))]
        if (path / "hostproc").is_dir():
            files += resolve(read_capture(str(path), outside=True))
        cells += quirk_cells(driver, files, command)
    uname = (next(iter(drivers.values())) / "outside/uname").read_text(encoding="ascii").split()
    return Seen(
        kernel=kernel,
        source="recorded",
        release=uname[2],
        package="tests/fixtures/kernels/README.md",
        date=date,
        versions={"mountcr": __version__},
        cells=tuple(cells),
    )


def merged(committed: Matrix, seen: Iterable[Seen]) -> Matrix:
    """Put kernels that were looked at again in the place of what is committed of them."""
    kernels = {each.kernel: each for each in committed.kernels}
    for each in seen:
        kernels[each.kernel] = each
    return Matrix(kernels=tuple(sorted(kernels.values(), key=order)))


def order(seen: Seen) -> tuple[list[int], str]:
    """Sort by release."""
    numbers = [int(each) for each in seen.release.split("-")[0].split(".") if each.isdigit()]
    return numbers, seen.kernel


def changes(committed: Matrix, seen: Matrix) -> list[str]:
    """
    Say what of the committed cells is another now, or is there no more, and which are new.

    A kernel that is not committed changes nothing; of one that was not looked at `seen` has what is
    committed.
    """
    found: list[str] = []
    now = {each.kernel: _results(each) for each in seen.kernels}
    for kernel in committed.kernels:
        was, is_now = _results(kernel), now.get(kernel.kernel, {})
        for key in (*was, *(each for each in is_now if each not in was)):
            before, after = was.get(key, "not there"), is_now.get(key, "not there")
            if before != after:
                found.append(f"{kernel.kernel}: {', '.join(key)}: {before}, now {after}")
    return found


def promises(cells: Iterable[Cell]) -> Iterator[Cell]:
    """
    Say of each driver whether the round trips kept what `mountcr doctor` promised.

    What it promises has to work, what works in part without restartable sequences only, and what
    it denies must not.
    """
    found = {(each.group, each.subject, each.check): each for each in cells}
    for (group, driver, direction), cell in found.items():
        if group != "doctor" or direction not in {"dump", "restore"}:
            continue
        works = _works(found, driver, direction)
        if works is None:
            continue
        yield Cell(
            group="doctor",
            subject=driver,
            check=f"{direction} kept",
            result="kept" if works == cell.result else f"broken: {works}",
            command=f"{cell.command}; the round trips",
        )


def _works(found: Mapping[tuple[str, str, str], Cell], driver: str, direction: str) -> str | None:
    """Say as doctor does what the round trips have shown: yes, partly or no; None if nothing."""
    subjects = [driver, f"{driver}, {BARE}"]
    before = "plan"
    if direction == "restore":
        subjects.append(f"overlay to {driver}")
        before = "rebuild"
    tried = [each for each in subjects if ("round trip", each, before) in found]
    worked = [each for each in tried if _is_ok(found.get(("round trip", each, direction)))]
    if not tried:
        return None
    if driver in worked:
        return "yes"
    return "partly" if worked else "no"


def _is_ok(cell: Cell | None) -> bool:
    return cell is not None and cell.result == "ok"


def _results(seen: Seen) -> dict[tuple[str, str, str], str]:
    return {(each.group, each.subject, each.check): each.result for each in seen.cells}
