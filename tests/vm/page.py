# SPDX-License-Identifier: Apache-2.0
"""The matrix as a page: kernels are columns, and each group of cells is a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from vm.cells import Cell, Matrix, Seen

    Rows: TypeAlias = dict[tuple[str, str], dict[str, list[Cell]]]

__all__ = ["write_page"]

_TITLES: Final = {
    "tests": (
        "The privileged tests",
        "`pytest -m privileged`, without those that are not about kernels.",
    ),
    "doctor": (
        "What `mountcr doctor` promises",
        (
            "For each storage driver whether a container on it can be dumped and restored. Each "
            "answer was held against the round trips: what it promises works, what it denies fails."
        ),
    ),
    "round trip": (
        "Round trips",
        (
            "A container that counts is planned, dumped, its root taken apart, rebuilt, compared, "
            "restored, and counts on. `ok` is all of that; where the plan refuses, `criu` is what "
            "CRIU says to the same container."
        ),
    ),
    "overlay": (
        "Variants of overlay",
        (
            "The same on overlays with these options or layers; without restartable sequences, so "
            "that it is about the overlay on every kernel."
        ),
    ),
    "move": (
        "Reboots and upgrades",
        (
            "A container is dumped, the machine switched off, another kernel booted from the same "
            "disk, and the container restored."
        ),
    ),
    "feature": ("Features", "What `mountcr doctor` finds by trying."),
    "files": (
        "Files",
        "Whether `mountcr files` says of each open and mapped file what it really is.",
    ),
    "quirk": (
        "Quirks",
        "Which of the quirks of these notes files in a container of each driver show.",
    ),
}

_HEADS: Final = {"doctor": "driver", "round trip": "driver", "quirk": "quirk", "files": "driver"}

_INTRODUCTION: Final = (
    "# What kernels do\n\n"
    "Each cell was seen on that kernel, or in what was recorded of it: `tox -e kernels -- --write` "
    "boots the kernels, runs mountcr and CRIU in them, and writes this page and `matrix.json`, "
    "which has the command, the versions and the date of each cell.\n"
    "CI boots them again, and fails if a cell is another one than here.\n"
    "`recorded` kernels have no package to boot; what is said of them comes from the files in "
    "`tests/fixtures/kernels`.\n"
    "An empty cell is one that was not tried.\n"
)


def write_page(matrix: Matrix) -> str:
    """Give the page in Markdown."""
    parts = [_INTRODUCTION, _kernels(matrix)]
    for group, (title, text) in _TITLES.items():
        kernels = [each for each in matrix.kernels if any(c.group == group for c in each.cells)]
        if kernels:
            parts.append(f"## {title}\n\n{text}\n\n{_table(group, kernels)}")
    return "\n".join(parts)


def _kernels(matrix: Matrix) -> str:
    rows = [
        "| kernel | seen | release | from | with | on |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in matrix.kernels:
        versions = ", ".join(f"{name} {version}" for name, version in each.versions.items())
        row = (each.kernel, each.source, each.release, each.package, versions, each.date[:10])
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows) + "\n"


def _table(group: str, kernels: list[Seen]) -> str:
    names = [each.kernel for each in kernels]
    head = [_HEADS.get(group, ""), *(["driver"] if group == "quirk" else []), *names]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    rows = _rows(group, kernels)
    for row in sorted(_seen(rows)) if group == "quirk" else rows:
        cells = [_word(rows[row][name]) if name in rows[row] else "" for name in names]
        first = [f"[{row[0]}]({row[0]}.md)", row[1]] if group == "quirk" else [row[0]]
        lines.append(f"| {' | '.join([*first, *cells])} |")
    return "\n".join(lines) + "\n"


def _rows(group: str, kernels: list[Seen]) -> Rows:
    """Give what was seen of each subject by kernel; of a quirk, with each driver."""
    rows: Rows = {}
    for kernel in kernels:
        for cell in kernel.cells:
            if cell.group == group:
                row = (cell.subject, cell.check if group == "quirk" else "")
                rows.setdefault(row, {}).setdefault(kernel.kernel, []).append(cell)
    return rows


def _seen(rows: Rows) -> Iterator[tuple[str, str]]:
    """Leave out what no kernel shows of quirks, whose table is long else."""
    for row, kernels in rows.items():
        if any(each.result != "no" for cells in kernels.values() for each in cells):
            yield row


def _word(cells: list[Cell]) -> str:
    """Say what came of several checks: one word if it is the same, else each that is not `ok`."""
    told = [each for each in cells if not each.check.endswith("kept") or each.result != "kept"]
    results = {each.result for each in told}
    if len(results) == 1:
        return results.pop().replace("|", "\\|")
    words = (f"{each.check} {each.result}" for each in told if each.result != "ok")
    return ", ".join(words).replace("|", "\\|")
