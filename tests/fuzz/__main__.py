# SPDX-License-Identifier: Apache-2.0
"""
Feed whatever reads something that comes from anywhere with what nobody would write.

    PYTHONPATH=tests python -P -m fuzz --minutes 10 [--seed N] [--only NAME] [--engine E]

The time is shared by the targets; each runs in a process of its own, by atheris where that is
installed, else by hypothesis. It prints a line for each target, with how many inputs it got, and
what was found, and ends with 1 if there is something. An input that found something is kept in the
directory that `--keep` names.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Final, NamedTuple

from fuzz.engines import atheris, by_atheris, by_hypothesis

NAMES: Final = ("archive", "bundle", "document", "layer", "signature", "image")

_EXECUTIONS: Final = re.compile(r"stat::number_of_executed_units:\s*(\d+)|executed (\d+) inputs")
_ENDING: Final = 120
"""Seconds that a target may take to begin and to end."""


class Outcome(NamedTuple):
    """How a target fared: inputs that it got, and what was said when something was found."""

    executions: int
    found: str


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(name: str, seconds: float, options: argparse.Namespace) -> Outcome:
    """Run one target in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as top:
        words = [sys.executable, "-P", "-m", "fuzz", "--target", name, "--top", top]
        words += ["--seconds", f"{seconds:.0f}", "--seed", str(options.seed)]
        words += ["--engine", options.engine]
        try:
            done = subprocess.run(
                words, capture_output=True, check=False, timeout=seconds + _ENDING
            )
        except subprocess.TimeoutExpired:
            return Outcome(0, f"it does not end: {_ENDING} s longer than it was to")
        said = (done.stdout + done.stderr).decode(errors="replace")
        counted = [int(a or b) for a, b in _EXECUTIONS.findall(said)]
        if done.returncode and options.keep:
            _keep(top, name, options.keep)
        return Outcome(counted[-1] if counted else 0, said if done.returncode else "")


def _keep(top: str, name: str, into: str) -> None:
    os.makedirs(into, exist_ok=True)
    for each in os.listdir(top):
        if each.startswith(("crash-", "timeout-", "oom-")):
            shutil.copy(os.path.join(top, each), os.path.join(into, f"{name}-{each}"))


def _target(options: argparse.Namespace) -> int:
    """Be the process of one target."""
    module = atheris() if options.engine == "atheris" else None
    if module is not None:
        by_atheris(
            module,
            options.target,
            options.top,
            [
                f"-max_total_time={options.seconds:.0f}",
                f"-seed={options.seed}",
                f"-artifact_prefix={options.top}/",
            ],
        )
        return 0
    from fuzz.targets import TARGETS

    try:
        count = by_hypothesis(TARGETS[options.target], options.top, options.seconds, options.seed)
    except Exception:  # noqa: BLE001 - anything at all is a finding
        traceback.print_exc()
        return 1
    _say(f"executed {count} inputs")
    return 0


def main() -> int:
    """Run what was asked for."""
    engine = "atheris" if atheris() is not None else "hypothesis"
    parser = argparse.ArgumentParser(prog="fuzz", description="Feed readers with nonsense.")
    parser.add_argument("--minutes", type=float, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", action="append", choices=NAMES)
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), default=engine)
    parser.add_argument("--keep", metavar="DIR")
    parser.add_argument("--target", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--top", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.target:
        return _target(options)
    names = options.only or NAMES
    _say(f"seed {options.seed}, {options.engine}")
    executions = findings = 0
    for name in names:
        began = time.monotonic()
        outcome = _run(name, options.minutes * 60 / len(names), options)
        executions += outcome.executions
        findings += bool(outcome.found)
        seconds = time.monotonic() - began
        told = "found something" if outcome.found else "found nothing"
        _say(f"{name}: {outcome.executions} inputs in {seconds:.0f} s, {told}")
        if outcome.found:
            _say(outcome.found)
    _say(f"{executions} inputs, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
