# SPDX-License-Identifier: Apache-2.0
"""How far copying is: a bar on a terminal, nothing where standard error leads elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from mountcr.rootfs.batches import Progress

__all__ = ["shown_progress"]

_BETWEEN: Final = 0.1
"""Seconds between two pictures."""


class _Shown:
    """
    Files and bytes, drawn when there are more of them.

    No thread draws: one that is in the middle of it would keep others from forking.
    """

    def __init__(self, bar: Bar, what: str) -> None:
        self._bar = bar
        self._what = what
        self._task: TaskID | None = None
        self._files = 0
        self._drawn = 0.0

    def add(self, files: int, bytes: int) -> None:  # noqa: A002  # what it counts
        """Take notice of so many more files and bytes; the bar appears with the first."""
        if self._task is None:
            self._task = self._bar.add_task(self._what, total=None, files=0)
            self._bar.start()
        self._files += files
        self._bar.update(self._task, advance=bytes, files=self._files)
        if time.monotonic() - self._drawn >= _BETWEEN:
            self._bar.refresh()
            self._drawn = time.monotonic()


@contextlib.contextmanager
def shown_progress(what: str) -> Generator[Progress | None]:
    """
    Show on a terminal how far something is for a block; give None where nobody would see it.

    The bar is gone when the block ends. What is said on standard error meanwhile stays above it.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        FileSizeColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[files]} files"),
        FileSizeColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
    try:
        yield _Shown(bar, what)
    finally:
        bar.stop()
