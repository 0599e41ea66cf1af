# SPDX-License-Identifier: Apache-2.0
"""
Run the oracle: many random containers, the tally by rule, and every prediction that was wrong.

`python -m oracle --containers 1000`, as root; `--seed N --containers 1` shows one, `--shrink`
makes those that fail as small as they can be while they fail alike.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import traceback
from collections import Counter

from oracle.generator import generate
from oracle.ground import Ground
from oracle.judge import Failure, Outcome, judge
from oracle.recipe import Recipe, show
from oracle.shrink import shrink

__all__ = ["main", "run"]


def run(recipe: Recipe, ground: Ground) -> Outcome:
    """Judge a recipe; an exception of the harness is a failure too."""
    try:
        return judge(recipe, ground)
    except Exception as error:  # noqa: BLE001  # the others go on
        where = traceback.format_exc(limit=-3)
        kind = f"the harness raises {type(error).__name__}"
        return Outcome(recipe.seed, failures=[Failure(kind, f"{error}\n{where}")])


def main(words: list[str] | None = None) -> int:
    """Run as the command line says; 0 when every prediction was right."""
    parser = argparse.ArgumentParser(
        prog="oracle", description="Random containers, judged by CRIU."
    )
    parser.add_argument("--containers", type=int, default=100, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--shrink", action="store_true", help="make what fails smaller")
    options = parser.parse_args(words)
    busybox = shutil.which("busybox")
    if os.geteuid() != 0 or not busybox:
        sys.stderr.write("the oracle needs root and a static busybox\n")
        return 2
    started = time.monotonic()
    outcomes: list[Outcome] = []
    with Ground(busybox) as ground:
        for seed in range(options.seed, options.seed + options.containers):
            outcome = run(generate(seed), ground)
            outcomes.append(outcome)
            if options.containers == 1:
                _say(show(generate(seed)), outcome.table)
            for failure in outcome.failures:
                _say(f"seed {seed}: {failure}")
            if outcome.failures and options.shrink:
                smallest = shrink(generate(seed), outcome, lambda each: run(each, ground))
                _say(show(smallest[0]), smallest[1].table, *smallest[1].failures)
    _say(report(outcomes, time.monotonic() - started))
    return 1 if any(each.failures for each in outcomes) else 0


def _say(*lines: object) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def report(outcomes: list[Outcome], seconds: float) -> str:
    """Give the tally by rule, the shares, and the wrong predictions with their seeds."""
    count = len(outcomes)
    predicted: Counter[str] = Counter()
    confirmed: Counter[str] = Counter()
    wrong: dict[str, list[int]] = {}
    for each in outcomes:
        predicted.update(each.predicted)
        confirmed.update(each.confirmed)
        for kind in dict.fromkeys(failure.kind for failure in each.failures):
            wrong.setdefault(kind, []).append(each.seed)
    lines = [f"{'rule':6}{'predicted':>10}{'confirmed':>10}"]
    lines += [
        f"{rule:6}{number:10}{confirmed[rule]:10}" for rule, number in sorted(predicted.items())
    ]
    verdicts = Counter(each.verdict for each in outcomes)
    right = sum(not each.failures for each in outcomes)
    back = sum(each.dumped and each.restored for each in outcomes)
    lines += [
        f"containers {count}, {seconds / max(count, 1):.2f} s each",
        "verdicts " + ", ".join(f"{name} {number}" for name, number in sorted(verdicts.items())),
        f"dumped {sum(each.dumped for each in outcomes)}",
        f"dumped and restored {back} ({100 * back / max(count, 1):.1f} %)",
        f"predictions right {right} ({100 * right / max(count, 1):.1f} %)",
    ]
    refused: dict[str, list[int]] = {}
    for each in outcomes:
        if each.refused_by:
            refused.setdefault(each.refused_by, []).append(each.seed)
    lines += [
        f"refused by {rules}: {len(seeds)}: seeds {', '.join(map(str, seeds))}"
        for rules, seeds in sorted(refused.items(), key=lambda each: -len(each[1]))
    ]
    lines += [
        f"wrong: {kind}: {len(seeds)}: seeds {', '.join(map(str, seeds))}"
        for kind, seeds in sorted(wrong.items(), key=lambda each: -len(each[1]))
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
