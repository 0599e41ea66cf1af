# SPDX-License-Identifier: Apache-2.0
"""
Move containers between hosts on this machine, as root, undisturbed and disturbed.

    PYTHONPATH=tests python -P -m moves --seeds 1 --kills 30 --no-room 12 [--seed N] [--only GROUP]

`--seeds N` moves N random containers of every driver to every driver and prints the table;
`--kills N` kills N moves, `--no-room N` lets N find too little room where they write. Then come
the variants: layers in stores of engines, other ids, what a bundle does not hold, clones of
extents. It prints each claim that did not hold, and ends with 1 if there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from moves.machine import BrokenError, Machine
from moves.mishap import Ground
from moves.table import DRIVERS, judge
from moves.variants import VARIANTS, NotHereError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from moves.mishap import Tried
    from moves.table import Row

_GROUPS = ("table", "kills", "no-room", "variants")

_SHOWN = 12
"""Differences of one container that are written out."""


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="moves", description="Move containers between hosts.")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--kills", type=int, default=30, metavar="N")
    parser.add_argument("--no-room", type=int, default=12, metavar="N")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--only", action="append", choices=_GROUPS)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.stderr.write("hosts need root\n")
        return 2
    only = options.only or _GROUPS
    broken = 0
    if "table" in only:
        broken += _table(range(options.seed, options.seed + options.seeds))
    if "kills" in only or "no-room" in only:
        kills = options.kills if "kills" in only else 0
        broken += _mishaps(options.seed, kills, options.no_room if "no-room" in only else 0)
    if "variants" in only:
        broken += _variants()
    _say(f"{broken} claims did not hold")
    return 1 if broken else 0


@contextlib.contextmanager
def _two_hosts() -> Generator[tuple[Machine, Machine]]:
    """Have two hosts for a block."""
    with tempfile.TemporaryDirectory(prefix="moves-", dir="/var/tmp") as top:
        path = Path(os.path.realpath(top))
        path.chmod(0o755)
        with Machine(path) as here, Machine(path) as there:
            yield here, there


def _table(seeds: Iterable[int]) -> int:
    began = time.monotonic()
    rows: list[Row] = []
    broken = 0
    with _two_hosts() as (here, there):
        for seed in seeds:
            for source in DRIVERS:
                try:
                    rows += judge(here, there, source, seed)
                except BrokenError as error:
                    broken += 1
                    _say(f"  {source}, seed {seed}: {error}")
    for row in rows:
        if not row.right:
            told = [row.broken] if row.broken else []
            for line in (*told, *row.differences[:_SHOWN]):
                _say(f"  {row.source} to {row.target}, seed {row.seed}: {line}")
    _say(report(rows), f"{len(rows)} moves in {time.monotonic() - began:.0f} s")
    return broken + sum(not row.right for row in rows)


def report(rows: Sequence[Row]) -> str:
    """Give the table of sources and targets: moved alike of so many, paths, refused, seconds."""
    pairs: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        pairs[row.source, row.target].append(row)
    heads = ("moved", "alike", "refused", "paths", "differences", "s each")
    lines = [f"{'source':16}{'target':16}" + "".join(f"{head:>13}" for head in heads)]
    for (source, target), found in pairs.items():
        numbers = (
            len(found),
            sum(row.right and not row.refused for row in found),
            sum(bool(row.refused) for row in found),
            sum(row.paths for row in found),
            sum(len(row.differences) for row in found),
        )
        seconds = sum(row.seconds for row in found) / len(found)
        counted = "".join(f"{number:13}" for number in numbers)
        lines.append(f"{source:16}{target:16}{counted}{seconds:13.2f}")
    refused = Counter(row.refused for row in rows if row.refused)
    lines += [f"refused: {number} x {reason}" for reason, number in refused.most_common()]
    return "\n".join(lines)


def _mishaps(seed: int, kills: int, no_room: int) -> int:
    began = time.monotonic()
    tried: list[Tried] = []
    with _two_hosts() as (here, there), Ground(here, there, seed) as ground:
        for found in (ground.kills(kills), ground.no_room(no_room)):
            for each in found:
                tried.append(each)
                if each.broken:
                    _say(f"  {each.broken}")
    counted = Counter((each.what, each.became or "a claim does not hold") for each in tried)
    for (what, became), number in sorted(counted.items()):
        _say(f"{number:4} x {what}: {became}")
    _say(f"{len(tried)} moves disturbed in {time.monotonic() - began:.0f} s")
    return sum(bool(each.broken) for each in tried)


def _variants() -> int:
    broken = 0
    for name, variant in VARIANTS.items():
        began = time.monotonic()
        try:
            with _two_hosts() as (here, there):
                told = variant(here, there)
        except NotHereError as reason:
            told = f"skipped: {reason}"
        except BrokenError as error:
            broken += 1
            told = f"does not hold: {error}"
        _say(f"{name}: {told} ({time.monotonic() - began:.0f} s)")
    return broken


def _say(*lines: object) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
