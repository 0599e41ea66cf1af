# SPDX-License-Identifier: Apache-2.0
"""
Run the harness: many random containers on every driver, each rebuilt on every other.

`python -m fidelity --containers 500`, as root; `--pairs overlay:vfs,unionfs:aufs` takes some pairs
only, `--shrink` makes those that fail as small as they can be while they fail alike. Give a seed
and `--containers 1` to see what one container is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple

from fidelity.generator import generate
from fidelity.judge import TARGETS, Outcome, judge
from fidelity.recipe import show, to_json
from fidelity.shrink import shrink
from fidelity.unions import DRIVERS, SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fidelity.judge import Verdict

__all__ = ["main", "report"]

_SHOWN = 12
"""Differences of one verdict that are written out."""


class _Task(NamedTuple):
    seed: int
    source: str
    targets: tuple[str, ...]
    layers: int | None


def main(words: list[str] | None = None) -> int:
    """Run as the command line says; 0 when no path differs and every refusal is right."""
    parser = argparse.ArgumentParser(prog="fidelity", description=(__doc__ or "").split("\n")[1])
    parser.add_argument("--containers", type=int, default=20, help="how many for each pair")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--pairs", type=_pairs, default=_ALL, help="source:target,...; default all")
    parser.add_argument("--layers", type=int, help="image layers of each, instead of 1 to 12")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time")
    parser.add_argument("--shrink", action="store_true", help="make what fails smaller")
    options = parser.parse_args(words)
    if os.geteuid() != 0:
        sys.stderr.write("the harness needs root\n")
        return 2
    started = time.monotonic()
    tasks = [
        _Task(seed, source, targets, options.layers)
        for seed in range(options.seed, options.seed + options.containers)
        for source, targets in options.pairs.items()
    ]
    if options.containers == 1:
        _say(show(generate(options.seed, layers=options.layers)))
    outcomes: list[Outcome] = []
    seen: set[str] = set()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("fork")) as pool:
        for outcome in pool.map(_run, tasks):
            outcomes.append(outcome)
            for verdict in outcome.verdicts:
                if verdict.right:
                    continue
                _say(*_told(outcome, verdict))
                if options.shrink and verdict.kind not in seen:
                    seen.add(verdict.kind)
                    _shrink(outcome, verdict)
    _say(report(outcomes), f"{time.monotonic() - started:.0f} s, {options.jobs} at a time")
    return 0 if all(each.right for each in outcomes) else 1


def _pairs(text: str) -> dict[str, tuple[str, ...]]:
    """Read `overlay:vfs,overlay:aufs`; a source alone means every target."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for word in text.split(","):
        source, _, target = word.partition(":")
        if source not in SOURCES or (target or "vfs") not in {*TARGETS, "fuse-overlayfs"}:
            known = f"sources {', '.join(SOURCES)}; targets {', '.join(TARGETS)}, fuse-overlayfs"
            raise argparse.ArgumentTypeError(f"{word!r}: {known}")
        found[source] += [target] if target else TARGETS
    return {source: tuple(targets) for source, targets in found.items()}


_ALL = dict.fromkeys(DRIVERS, TARGETS)


def _run(task: _Task) -> Outcome:
    recipe = generate(task.seed, layers=task.layers)
    return judge(recipe, task.source, task.targets)


def _shrink(outcome: Outcome, verdict: Verdict) -> None:
    targets = tuple(each.target for each in outcome.verdicts if each.target in TARGETS)
    wanted = (verdict.target,) if verdict.target in TARGETS else targets

    smallest, found = shrink(
        outcome.recipe,
        verdict,
        lambda recipe: list(judge(recipe, verdict.source, wanted).verdicts),
    )
    _say("  smallest:", show(smallest), *_told(Outcome(smallest), found), to_json(smallest))


def _told(outcome: Outcome, verdict: Verdict) -> list[str]:
    """Give what is wrong with a verdict, to be read."""
    head = f"seed {outcome.recipe.seed}, {verdict.source} to {verdict.target}"
    if verdict.unfinished:
        return [f"{head}: {verdict.unfinished}"]
    told = [f"{head}: {each}" for each in verdict.differences[:_SHOWN]]
    more = len(verdict.differences) - _SHOWN
    told += [f"{head}: and {more} more"] if more > 0 else []
    told += [f"{head}: refused: {verdict.refused}"] if verdict.refused else []
    return [*told, *([f"{head}: {verdict.trouble}"] if verdict.trouble else [])]


def _say(*lines: object) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def report(outcomes: Sequence[Outcome]) -> str:
    """Give the table of sources and targets, the refusals by reason, and what failed how often."""
    verdicts = [verdict for each in outcomes for verdict in each.verdicts]
    pairs: defaultdict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for each in verdicts:
        pairs[each.source, each.target].append(each)
    heads = ("containers", "right", "differing", "paths", "refused", "wrongly", "errors", "s each")
    lines = [f"{'source':18}{'target':16}" + "".join(f"{head:>11}" for head in heads)]
    lines += [_row(*pair, found) for pair, found in sorted(pairs.items())]
    lines += _counted("refused", (each.allowed for each in verdicts))
    lines += _counted("wrong", (each.kind for each in verdicts))
    entries = sum(each.entries for each in outcomes)
    fates = Counter(fate for each in outcomes for fate in each.fates)
    lines.append(f"{entries} paths in {len(outcomes)} sources")
    lines.append("changes " + ", ".join(f"{name} {number}" for name, number in fates.most_common()))
    return "\n".join(lines)


def _row(source: str, target: str, found: Sequence[Verdict]) -> str:
    numbers = (
        len(found),
        sum(each.right for each in found),
        sum(bool(each.differences) for each in found),
        sum(each.paths for each in found),
        sum(bool(each.allowed) for each in found),
        sum(bool(each.refused and not each.allowed) for each in found),
        sum(bool(each.trouble or each.unfinished) for each in found),
    )
    seconds = sum(each.seconds for each in found) / len(found)
    return (
        f"{source:18}{target:16}"
        + "".join(f"{number:11}" for number in numbers)
        + f"{seconds:11.3f}"
    )


def _counted(what: str, words: Iterable[str]) -> list[str]:
    counted = Counter(word for word in words if word)
    return [f"{what}: {number} x {word}" for word, number in counted.most_common()]


if __name__ == "__main__":
    sys.exit(main())
