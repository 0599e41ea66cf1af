# SPDX-License-Identifier: Apache-2.0
"""
The table by kernel and driver: of the files that recorded processes hold, how many are resolved.

`python -m captures [DIRECTORY...]`; without arguments the captures of the fixtures, else those
below the directories. Exit status 1 if one file is not what its manifest says.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import builders
from captures.judge import holds, untold, wrong_inside, wrong_outside
from mountcr.observation.capture import is_capture, read_capture
from mountcr.render.table import Table
from mountcr.resolution.files import resolve

TITLES = ("CAPTURE", "FILES", "RIGHT", "OUTSIDE", "WATCHES UNTOLD", "QUIRKS UNDONE")


def main(words: list[str]) -> int:
    """Print the table, then what is wrong."""
    tops = [Path(word) for word in words] or [builders.KERNELS]
    captures = [each for top in tops for each in (top, *sorted(top.iterdir())) if _is(each)]
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
    sys.stdout.write(table.plain() + "".join(f"{line}\n" for line in (*wrong, verdict)))
    return 1 if wrong or not captures else 0


def _is(path: Path) -> bool:
    return path.is_dir() and is_capture(str(path))


def _quirks(capture: Path) -> str:
    found = Counter(quirk for each in resolve(read_capture(str(capture))) for quirk in each.quirks)
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
