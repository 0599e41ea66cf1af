# SPDX-License-Identifier: Apache-2.0
"""
The tables by kernel and driver, and by engine: what of recorded processes and engines is right.

`python -m captures [DIRECTORY...]`; without arguments the captures of the fixtures, else those
below the directories. Exit status 1 if one file is not what its manifest says, or one fact of a
container not what its engine and the mount table say.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import builders
from captures.engines import claims, is_engine_capture
from captures.judge import holds, untold, wrong_inside, wrong_outside
from mountcr.observation.capture import is_capture, read_capture
from mountcr.render.table import Table
from mountcr.resolution.files import resolve

ENGINES = builders.KERNELS.parent / "engines"
TITLES = ("CAPTURE", "FILES", "RIGHT", "OUTSIDE", "WATCHES UNTOLD", "QUIRKS UNDONE")


def main(words: list[str]) -> int:
    """Print the tables, then what is wrong."""
    tops = [Path(word) for word in words] or [builders.KERNELS, *_recorded_engines()]
    every = [each for top in tops for each in (top, *sorted(top.iterdir())) if each.is_dir()]
    kernels = [each for each in every if is_capture(str(each))]
    engines = [each for each in every if is_engine_capture(each)]
    wrong = [*(_kernels(kernels) if kernels else ()), *(_engines(engines) if engines else ())]
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    return 1 if wrong or not (kernels or engines) else 0


def _recorded_engines() -> list[Path]:
    return [ENGINES / "docker", ENGINES / "podman"]


def _kernels(captures: list[Path]) -> list[str]:
    """Print the table of processes; give what is wrong."""
    table = Table(TITLES)
    wrong: list[str] = []
    total = right = 0
    for capture in captures:
        held = list(holds(capture))
        inside, outside = list(wrong_inside(capture)), list(wrong_outside(capture))
        total += len(held)
        right += len(held) - len(inside)
        wrong += (f"{capture.name}: {each}" for each in (*inside, *outside))
        table.add(
            capture.name,
            str(len(held)),
            str(len(held) - len(inside)),
            "wrong" if outside else "right",
            str(untold(capture)),
            _quirks(capture),
        )
    verdict = f"{right} of {total} files of {len(captures)} captures are what their manifests say"
    sys.stdout.write(f"{table.plain()}{verdict}\n\n")
    return wrong


def _engines(captures: list[Path]) -> list[str]:
    """Print the table of engines; give what is wrong."""
    table = Table(("CAPTURE", "FACTS", "RIGHT", "WHICH"))
    wrong: list[str] = []
    total = 0
    for capture in captures:
        found = claims(capture)
        bad = [each for each in found if not each.right]
        total += len(found)
        wrong += (f"{capture.name}: {each.fact} is {each.read}, not {each.said}" for each in bad)
        facts = ", ".join(each.fact for each in found)
        table.add(capture.name, str(len(found)), str(len(found) - len(bad)), facts)
    right = total - len(wrong)
    verdict = f"{right} of {total} facts of {len(captures)} captures are what was said of them"
    sys.stdout.write(f"{table.plain()}{verdict}\n\n")
    return wrong


def _quirks(capture: Path) -> str:
    found = Counter(quirk for each in resolve(read_capture(str(capture))) for quirk in each.quirks)
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
