# SPDX-License-Identifier: Apache-2.0
"""
Every fault and many kills, as root, in a mount namespace of its own.

    PYTHONPATH=tests python -P -m mishaps --kills 200 --every-call [--seed N] [--only NAME]

`--kills N` kills N times at random moments, spread over the operations; `--every-call` lets each
call of each operation fail in each way, and kills at each. It prints a line for each operation
and for each claim that did not hold, and ends with 1 if there is one.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mishaps.ground import OPERATIONS, BrokenError, Ground, faults_of
from mountcr.kernel import mounts, syscalls
from mountcr.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class _Tally:
    """The claims that did not hold."""

    def __init__(self) -> None:
        self.broken = 0

    def hold(self, claim: Callable[[], int]) -> int | None:
        """Give what a claim gives, None if it did not hold."""
        try:
            return claim()
        except BrokenError as error:
            self.broken += 1
            _say(f"  {error}")
        return None


def _every_call(ground: Ground, name: str, tally: _Tally) -> None:
    statuses: Counter[int | None] = Counter()
    began = time.monotonic()
    for fault in faults_of(ground.calls(name)):
        statuses[tally.hold(partial(ground.suffer, name, fault))] += 1
    told = ", ".join(f"{status}: {count}" for status, count in statuses.most_common())
    seconds = time.monotonic() - began
    _say(f"{name}: {statuses.total()} faults, by exit status {told} ({seconds:.0f} s)")


def _kills(ground: Ground, name: str, times: int, choice: random.Random, tally: _Tally) -> None:
    whole = ground.seconds(name)
    done = 0
    for _ in range(times):
        done += bool(tally.hold(partial(ground.kill, name, choice.uniform(0, whole))))
    _say(f"{name}: killed {times - done} times within {whole:.3f} s, {done} were done before")


def _names(only: Sequence[str] | None) -> list[str]:
    """Give the operations whose programs are here."""
    return [
        name
        for name in only or OPERATIONS
        if not OPERATIONS[name].needs or any(map(shutil.which, OPERATIONS[name].needs))
    ]


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="mishaps", description="Fail and kill operations.")
    parser.add_argument("--kills", type=int, default=0, metavar="N")
    parser.add_argument("--every-call", action="store_true")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", action="append", choices=OPERATIONS)
    options = parser.parse_args()
    _say(f"seed {options.seed}")
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.set_propagation(ROOT, "private", recursive=True)
    choice = random.Random(options.seed)  # noqa: S311  # has to be the same every time
    names = _names(options.only)
    tally = _Tally()
    with tempfile.TemporaryDirectory(prefix="mishaps-") as top:
        ground = Ground(Path(os.path.realpath(top)))
        try:
            for index, name in enumerate(names):
                if options.every_call and not OPERATIONS[name].serves:
                    _every_call(ground, name, tally)
                times = options.kills // len(names) + (index < options.kills % len(names))
                if times:
                    _kills(ground, name, times, choice, tally)
        finally:
            syscalls.umount2(os.fsencode(ground.top), syscalls.MNT_DETACH)
    _say(f"{tally.broken} claims did not hold")
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
