# SPDX-License-Identifier: Apache-2.0
"""Claims about the kernel matrix: what is committed of it, and how a run is held against that."""

from __future__ import annotations

import datetime
from typing import Final

import msgspec
import pytest

from mountcr.resolution.quirks import Quirk
from vm.archive import by_number
from vm.cells import SCHEMA, Cell, Matrix, Seen
from vm.kernels import DEFAULT, Booted
from vm.matrix import changes, merged, order, promises, recorded
from vm.page import write_page
from vm.rootfs import CHECKOUT

NOTES: Final = CHECKOUT / "kernel-notes"


def committed() -> Matrix:
    """The matrix of the repository."""
    return msgspec.json.decode((NOTES / "matrix.json").read_bytes(), type=Matrix, strict=True)


def cell(result: str, subject: str = "overlay", detail: str = "") -> Cell:
    """A cell of a round trip."""
    return Cell(group="round trip", subject=subject, check="dump", result=result, detail=detail)


def seen(kernel: str, *cells: Cell) -> Seen:
    """A kernel that was booted."""
    return Seen(
        kernel=kernel,
        source="booted",
        release=f"{kernel}.1-cloud",
        package="",
        date="",
        cells=cells,
    )


def test_every_cell_has_its_command_versions_and_date() -> None:
    """Nothing in the matrix comes from nowhere."""
    matrix = committed()
    assert matrix.schema == SCHEMA
    for kernel in matrix.kernels:
        assert kernel.source in {"booted", "recorded"}
        assert datetime.datetime.fromisoformat(kernel.date).tzinfo
        assert kernel.release
        assert kernel.versions["mountcr"]
        assert kernel.source == "recorded" or {"criu", "python"} <= kernel.versions.keys()
        assert kernel.cells
        assert all(each.command for each in kernel.cells)


def test_the_recorded_kernels_are_as_they_are_read_now() -> None:
    """What the matrix says of kernels that nobody boots is what their captures say."""
    rows = [each for each in committed().kernels if each.source == "recorded"]
    now = {each.kernel: each.cells for each in recorded("today")}
    assert {each.kernel: each.cells for each in rows} == now


def test_every_kernel_of_each_run_is_there() -> None:
    """Each has a row; the newest is whichever Debian had."""
    rows = {each.kernel for each in committed().kernels if each.source == "booted"}
    assert set(DEFAULT) - {"newest"} <= rows
    assert any(each.startswith("7.") for each in rows)


def test_nothing_is_wrong_in_the_matrix() -> None:
    """No file that is not found to be what it is is committed, and no test that fails."""
    cells = [each for kernel in committed().kernels for each in kernel.cells]
    assert {each.result for each in cells if each.group == "files"} == {"right"}
    assert {each.result for each in cells if each.group == "tests"} == {"passed"}
    assert {each.subject for each in cells if each.group == "quirk"} == set(Quirk)


def test_the_page_is_the_matrix() -> None:
    """matrix.md is what matrix.json gives."""
    assert (NOTES / "matrix.md").read_text(encoding="utf-8") == write_page(committed())


def test_the_kernels_stand_in_their_order() -> None:
    """By release, numbers by value."""
    rows = committed().kernels
    assert list(rows) == sorted(rows, key=order)
    assert order(seen("6.12")) > order(seen("6.1"))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (seen("6.1", cell("ok", detail="of today")), []),
        (seen("6.1", cell("failed")), ["6.1: round trip, overlay, dump: ok, now failed"]),
        (seen("6.1"), ["6.1: round trip, overlay, dump: ok, now not there"]),
        (
            seen("6.1", cell("ok"), cell("ok", "vfs")),
            ["6.1: round trip, vfs, dump: not there, now ok"],
        ),
    ],
)
def test_a_change_is_said(now: Seen, said: list[str]) -> None:
    """A result, a cell that is gone, a new one; not what else was said."""
    before = Matrix(kernels=(seen("6.1", cell("ok")), seen("5.10", cell("ok"))))
    assert changes(before, merged(before, [now])) == said


def test_a_new_kernel_changes_nothing() -> None:
    """What Debian releases between two commits does not fail them."""
    before = Matrix(kernels=(seen("6.1", cell("ok")),))
    after = merged(before, [seen("7.4", cell("failed"))])
    assert changes(before, after) == []
    assert [each.kernel for each in after.kernels] == ["6.1", "7.4"]


def trip(subject: str, check: str, result: str) -> Cell:
    """A step of a round trip."""
    return Cell(group="round trip", subject=subject, check=check, result=result)


def promise(direction: str, answer: str) -> Cell:
    """What doctor says of overlay."""
    return Cell(group="doctor", subject="overlay", check=direction, result=answer)


STEPS: Final = ("plan", "dump", "rebuild", "restore")
WORKS: Final = tuple(trip("overlay", step, "ok") for step in STEPS)
BARELY: Final = (
    trip("overlay", "plan", "refused: W8"),
    *(trip("overlay, without rseq", step, "ok") for step in STEPS),
)
FAILS: Final = (trip("overlay", "plan", "ok"), trip("overlay", "dump", "failed: status 1"))


@pytest.mark.parametrize("direction", ["dump", "restore"])
@pytest.mark.parametrize(
    ("trips", "shown"), [(WORKS, "yes"), (BARELY, "partly")], ids=["all", "some"]
)
@pytest.mark.parametrize("answer", ["yes", "partly", "no"])
def test_a_promise_is_held_against_what_worked(
    direction: str, trips: tuple[Cell, ...], shown: str, answer: str
) -> None:
    """Doctor is right when it says of a driver what the round trips have shown."""
    (kept,) = promises([promise(direction, answer), *trips])
    assert kept.result == ("kept" if answer == shown else f"broken: {shown}")


def test_what_is_denied_has_to_fail() -> None:
    """A dump that fails keeps a no; of the restore nothing is known then."""
    cells = [promise("dump", "no"), promise("restore", "no"), *FAILS]
    assert [(each.check, each.result) for each in promises(cells)] == [("dump kept", "kept")]


def test_a_driver_that_no_trip_was_on_has_promised_nothing() -> None:
    """AUFS is where nothing else is."""
    assert list(promises([promise("dump", "yes")])) == []


def rows(page: str) -> dict[str, str]:
    """Give the rows of a page by their first column."""
    lines = [line.strip("| ") for line in page.splitlines() if line.startswith("| ")]
    return {line.partition(" | ")[0]: line.partition(" | ")[2] for line in lines}


def test_the_page_says_what_is_not_ok() -> None:
    """One word where all steps went the same way, else each that did not; kernels are columns."""
    worse = seen("5.10", *BARELY, *(trip("vfs", step, "ok") for step in STEPS))
    better = seen("6.1", *WORKS, trip("vfs", "plan", "ok"), trip("vfs", "dump", "failed"))
    page = rows(write_page(Matrix(kernels=(worse, better))))
    assert page["overlay"] == "refused: W8 | ok"
    assert page["overlay, without rseq"] == "ok"
    assert page["vfs"] == "ok | dump failed"


def test_the_page_has_the_quirks_that_some_kernel_shows() -> None:
    """Each is linked to its note; one that no kernel shows is in the JSON alone."""
    cells = [
        Cell(group="quirk", subject="mapping-inode", check="overlay", result=result)
        for result in ("seen", "no")
    ]
    hidden = Cell(group="quirk", subject="name-removed", check="vfs", result="no")
    both = (seen("5.10", cells[0], hidden), seen("6.12", cells[1], hidden))
    page = rows(write_page(Matrix(kernels=both)))
    assert page["[mapping-inode](mapping-inode.md)"] == "overlay | seen | no"
    assert not any("name-removed" in each for each in page)


def test_the_newest_package_of_a_kernel() -> None:
    """Versions are in names, and are compared as numbers."""
    names = ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64"]
    assert max(names, key=by_number) == names[1]


@pytest.mark.parametrize(
    ("release", "series"),
    [
        ("6.12.117+deb13-cloud-amd64", "6.12"),
        ("7.3-cloud-amd64", "7.3"),
        ("5.10.0-32-amd64", "5.10"),
    ],
)
def test_the_series_of_a_release(release: str, series: str) -> None:
    """A row of the matrix has the first two numbers, whatever follows them."""
    booted = Booted("newest", release, "", NOTES, NOTES)
    assert booted.series == series
