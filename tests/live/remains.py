# SPDX-License-Identifier: Apache-2.0
"""What an engine takes away when its container dies, and when."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from live.engine import CGROUP
from live.ground import runs

if TYPE_CHECKING:
    from live.engine import Running

__all__ = ["Remains", "Watch"]

_INTERVAL = 0.02
_QUIET = 2.0
"""Seconds without a change after which an engine is taken to have done what it does."""


@dataclass
class Remains:
    """For each part of a container what became of it, in words, one for each change."""

    before: dict[str, str]
    changes: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    state: dict[str, str] = field(default_factory=dict[str, str])

    def look(self, running: Running, moment: str) -> bool:
        """Compare with how it was; tell whether anything changed."""
        now = _look(running)
        changed = {part: state for part, state in now.items() if state != self.state[part]}
        for part, state in changed.items():
            self.changes.setdefault(part, []).append(f"{state} {moment}")
        self.state = now
        return bool(changed)

    def lines(self) -> list[str]:
        """Give a line for the parts of which the same became."""
        alike: dict[str, list[str]] = {}
        for part, state in self.before.items():
            story = ", then ".join((state, *self.changes.get(part, ())))
            end = "" if part in self.changes else " to the end"
            alike.setdefault(f"{story}{end}", []).append(part)
        return [f"{_names(parts)}: {story}" for story, parts in alike.items()]


def _names(parts: list[str]) -> str:
    """Give parts as a list, and of control groups only how many there are."""
    groups = [part for part in parts if part.startswith(CGROUP)]
    others = [part for part in parts if part not in groups]
    return ", ".join((*others, *([f"{len(groups)} cgroups"] if groups else ())))


class Watch:
    """A thread that watches the parts of a container from before its death until they rest."""

    def __init__(self, running: Running) -> None:
        self._running = running
        before = _look(running)
        self.remains = Remains(before, state=before)
        self._death = 0.0
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def rest(self) -> Remains:
        """Wait until nothing changes any more, since it is known that the container is dead."""
        self._told.set()
        self._thread.join()
        return self.remains

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._told.is_set() or time.monotonic() - last < _QUIET:
            now = time.monotonic()
            if not self._death and not runs(self._running.pid):
                self._death = last = now
            after = f"{now - self._death:.2f} s after its death" if self._death else "while it ran"
            if self.remains.look(self._running, after):
                last = now
            time.sleep(_INTERVAL)


def _look(running: Running) -> dict[str, str]:
    table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    mounted = {line.split(" ")[4] for line in table.splitlines()}
    found = {
        part: _state(path, mounted=str(path) in mounted) for part, path in running.parts.items()
    }
    if running.keeper:
        found["keeper"] = "runs" if runs(running.keeper) else "ended"
    return found


def _state(path: Path, *, mounted: bool) -> str:
    if mounted:
        return "mounted"
    if not path.is_dir():
        return "gone"
    is_empty = not any(path.iterdir())
    return "empty" if is_empty else "there"
