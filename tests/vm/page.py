# SPDX-License-Identifier: Apache-2.0
"""The matrix as a page: kernels are columns, and each group of cells is a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vm.cells import Cell, Matrix, Seen

__all__ = ["write_page"]

_TITLES: Final = {
    "tests": (
        "The privileged tests",
        "`pytest -m privileged`, without those that are not about kernels.",
    ),
    "doctor": (
        "What `mountcr doctor` promises",
        "For each storage driver whether a container on it can be dumped and restored.",
    ),
    "round trip": (
        "Round trips",
        (
            "A container that counts is planned, dumped, its root taken apart, rebuilt, compared, "
            "restored, and counts on. Where the plan refuses, `criu` is what CRIU says to that."
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
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for kernel in kernels:
        for cell in kernel.cells:
            if cell.group == group:
                rows.setdefault((cell.subject, cell.check), {})[kernel.kernel] = _word(cell)
    names = [each.kernel for each in kernels]
    lines = [
        f"| {' | '.join(['', '', *names])} |",
        f"| {' | '.join(['---'] * (len(names) + 2))} |",
    ]
    for row in sorted(_shown(rows)) if group == "quirk" else rows:
        subject, check = row
        cells = [rows[row].get(name, "") for name in names]
        lines.append(f"| {' | '.join([_linked(group, subject), check, *cells])} |")
    return "\n".join(lines) + "\n"


def _shown(rows: dict[tuple[str, str], dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Leave out what no kernel shows of quirks, whose table is long else."""
    for row, cells in rows.items():
        if any(each != "no" for each in cells.values()):
            yield row


def _linked(group: str, subject: str) -> str:
    return f"[{subject}]({subject}.md)" if group == "quirk" else subject


def _word(cell: Cell) -> str:
    return cell.result.replace("|", "\\|")
