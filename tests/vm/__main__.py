# SPDX-License-Identifier: Apache-2.0
"""
The kernel matrix: boots kernels, looks at them, holds what is seen against what is committed.

`python -m vm [KERNEL...] [--all] [--write] [--jobs N]`, as root. Without arguments the kernels of
every run. Prints each change, and ends with 1 if there is one, if something is wrong, or if a guest
did not finish; `--write` writes kernel-notes/matrix.json and matrix.md instead.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vm import machine
from vm.cells import Cell, Matrix, Seen
from vm.command import cache_directory, copy_sparsely, locked
from vm.errors import GuestError, VmError
from vm.kernels import DEFAULT, KERNELS, prepare
from vm.machine import Disks, Guest
from vm.matrix import changes, merged, promises, recorded
from vm.page import write_page
from vm.rootfs import CHECKOUT, pack_project, prepare_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from vm.kernels import Booted

__all__ = ["main"]

_NOTES: Final = CHECKOUT / "kernel-notes"
_JSON: Final = _NOTES / "matrix.json"
_PAGE: Final = _NOTES / "matrix.md"

_LOOK: Final = "doctor held trips overlay keep suite"
"""Everything; the suite is last, for it takes longest."""

_UPGRADED: Final = "6.1"
"""What is dumped there is restored on every newer one."""

_ENVIRONMENT: Final = (
    "export PYTHONPATH=/work/site:/work/tests HYPOTHESIS_STORAGE_DIRECTORY=/scratch/hypothesis "
    "MOUNTCR_REQUIRE=root,overlay,criu,unionfs,fuse-overlayfs,busybox,libmount"
)

_BAD: Final = (
    "FAILED", "failed", "wrong", "broken", "differs", "stands still", "dumped it all the same",
)  # fmt: skip
"""What begins the results of cells that no run may have, committed or not."""


def main(words: list[str]) -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="vm", description=(__doc__ or "").split("\n")[1])
    parser.add_argument("kernels", metavar="KERNEL", nargs="*", help=f"of {', '.join(KERNELS)}")
    parser.add_argument("--all", action="store_true", help="prereleases too")
    parser.add_argument("--write", action="store_true", help="write the matrix")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="guests at a time")
    parser.add_argument("--limit", type=float, default=1200, metavar="S", help="of one guest")
    given = parser.parse_args(words)
    names = given.kernels or (tuple(KERNELS) if given.all else DEFAULT)
    try:
        seen = _Run(given.limit, given.jobs).look(names)
    except (VmError, GuestError) as error:
        context = error.console if isinstance(error, GuestError) else ()
        sys.stderr.write("".join(f"  | {each}\n" for each in context))
        sys.stderr.write(f"kernels: {error.message}\n")
        return 1
    committed = _committed()
    matrix = merged(committed, [*recorded(_now()), *seen])
    if given.write:
        _JSON.write_bytes(msgspec.json.format(msgspec.json.encode(matrix), indent=1) + b"\n")
        _PAGE.write_text(write_page(matrix), encoding="utf-8")
    return _verdict(committed, matrix, seen, written=given.write)


def _committed() -> Matrix:
    if not _JSON.exists():
        return Matrix()
    return msgspec.json.decode(_JSON.read_bytes(), type=Matrix)


def _verdict(committed: Matrix, matrix: Matrix, seen: list[Seen], *, written: bool) -> int:
    """Say what is wrong and what changed, and close as pytest does, with numbers."""
    bad = [
        f"{kernel.kernel}: {cell.group}: {cell.subject}, {cell.check}: {cell.result}: {cell.detail}"
        for kernel in matrix.kernels
        for cell in kernel.cells
        if cell.result.startswith(_BAD)
    ]
    changed = [] if written else changes(committed, matrix)
    for line in (*bad, *changed):
        sys.stdout.write(f"{line}\n")
    if changed:
        sys.stdout.write("If that is meant: tox -e kernels -- --write, and commit both files.\n")
    cells = sum(len(each.cells) for each in seen)
    what = f"{cells} cells of {len(seen)} kernels"
    sys.stdout.write(f"{what}, {len(bad)} wrong, {len(changed)} changed\n")
    return 1 if bad or changed else 0


class _Run:
    """One run: guests of several kernels at a time, and the disks that they leave."""

    def __init__(self, limit: float, jobs: int) -> None:
        self._limit = limit
        self._jobs = jobs

    def look(self, names: tuple[str, ...] | list[str]) -> list[Seen]:
        """Boot each kernel as often as it takes; raises the first error when all have ended."""
        with locked(cache_directory()) as cache:
            root = prepare_root(cache)
            kernels = [prepare(name, cache) for name in names]
        with (
            tempfile.TemporaryDirectory(prefix="mountcr-vm-") as top,
            ThreadPoolExecutor(self._jobs) as pool,
        ):
            self._top = Path(top)
            self._disks = Disks(root.image, self._top / "project", self._top / "scratch")
            pack_project(root, self._disks.project)
            self._accelerator = machine.accelerator(kernels[0], self._disks, cache_directory())
            each = [pool.submit(self._look_at, kernel) for kernel in kernels]
            seen = [future.result() for future in each]
            old = next((kernel for kernel in kernels if kernel.name == _UPGRADED), None)
            newer = kernels[kernels.index(old) + 1 :] if old else []
            moves = [pool.submit(self._upgrade, old, new) for new in newer if old]
            cells = {new.name: future.result() for new, future in zip(newer, moves, strict=True)}
        return [
            msgspec.structs.replace(one, cells=(*one.cells, *cells.get(kernel.name, ())))
            for one, kernel in zip(seen, kernels, strict=True)
        ]

    def _look_at(self, kernel: Booted) -> Seen:
        """Look at a kernel in one boot, and restore in a second one what the first has dumped."""
        scratch = machine.make_scratch(self._top / f"{kernel.name}.disk")
        cells, versions = self._boot(kernel, scratch, _LOOK)
        if kernel.name == _UPGRADED:
            copy_sparsely(scratch, self._top / "upgraded")
        more, _ = self._boot(kernel, scratch, "return")
        scratch.unlink()
        return Seen(
            kernel=kernel.series,
            source="booted",
            release=kernel.release,
            package=kernel.package,
            date=_now(),
            versions=versions,
            cells=(*cells, *promises(cells), *more),
        )

    def _upgrade(self, old: Booted, new: Booted) -> list[Cell]:
        """Restore on a newer kernel what an older one has dumped."""
        scratch = self._top / f"{new.name}.upgraded"
        copy_sparsely(self._top / "upgraded", scratch)
        cells, _ = self._boot(new, scratch, f"upgrade:{old.series}")
        scratch.unlink()
        return cells

    def _boot(self, kernel: Booted, scratch: Path, parts: str) -> tuple[list[Cell], dict[str, str]]:
        disks = self._disks._replace(scratch=scratch)
        guest = Guest(limit=self._limit, memory=2048, accelerator=self._accelerator)
        command = f"{_ENVIRONMENT}; dmesg -n 1; python3 -m vm.inside {parts}"
        output = scratch.with_suffix(".out")
        say = _prefixed(kernel.name)
        result = machine.boot(kernel, disks, guest, command, output=output, say=say)
        if result.status:
            msg = f"{kernel.name}: the command ended with {result.status}"
            raise GuestError(msg, result.console[-40:])
        cells = msgspec.json.decode((output / "cells.json").read_bytes(), type=list[Cell])
        versions = msgspec.json.decode((output / "versions.json").read_bytes(), type=dict[str, str])
        shutil.rmtree(output)
        return cells, versions


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _prefixed(name: str) -> Callable[[str], None]:
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(f"{name:>5} {time.monotonic() - began:5.0f} s  {line}\n")
        sys.stdout.flush()

    return say


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
