# SPDX-License-Identifier: Apache-2.0
"""
The assembly of an overlay of many layers, against the same calls made in C.

    python benchmarks/assembly.py [--layers N] [--runs N]

Needs root, gcc and layers by descriptor (Linux 6.13). mountcr assembles in process, and reads the
result back, which its peer `assembly.c` does not; neither is charged for the start of a process.
Both are done in turn, in a private mount namespace on a tmpfs; the ratio is that of the least
times, because whatever is above them was other work of the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mountcr.kernel import syscalls
from mountcr.kernel.overlay import mount_overlay
from mountcr.kernel.private import in_private_namespace
from mountcr.overlayopts import OverlayOptions
from mountcr.paths import encode

LIMIT = 3.0
WARM_UP = 3


def compiled(directory: str) -> str:
    """Compile the peer and give its path."""
    program = f"{directory}/assembly"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["gcc", "-O2", "-o", program, str(source)], check=True)
    return program


def measure(program: str, top: str, layers: int, runs: int) -> tuple[list[float], list[float]]:
    """Give the seconds of each assembly by mountcr and by the peer."""
    syscalls.mount(b"tmpfs", top.encode(), b"tmpfs", 0, b"size=64m")
    lowers = [f"{top}/overlay2/{number:064x}/diff" for number in range(layers)]
    upper, work, at = (f"{top}/{name}" for name in ("upper", "work", "merged"))
    for each in (*lowers, upper, work, at):
        os.makedirs(each)
    options = OverlayOptions(
        lowers=tuple(map(encode, lowers)), upper=encode(upper), work=encode(work)
    )
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(runs + WARM_UP):
        started = time.perf_counter()
        mount_overlay(encode(at), options)
        ours.append(time.perf_counter() - started)
        syscalls.umount2(at.encode())
        command = [program, at, upper, work, *lowers]
        theirs.append(float(subprocess.run(command, check=True, capture_output=True).stdout))
        syscalls.umount2(at.encode())
    return ours[WARM_UP:], theirs[WARM_UP:]


def main() -> int:
    """Print the ratio; exit status 1 where it is over the limit."""
    parser = argparse.ArgumentParser(description="overlay assembly against C")
    parser.add_argument("--layers", type=int, default=500)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mountcr-bench-") as directory:
        program = compiled(directory)
        top = f"{directory}/layers"
        os.mkdir(top)
        ours, theirs = in_private_namespace(
            lambda: measure(program, top, arguments.layers, arguments.runs)
        )
    ratio = min(ours) / min(theirs)
    mark = "ok" if ratio <= LIMIT else "OVER"
    name = f"assembly of {arguments.layers} layers, against C"
    print(
        f"{name:<44} {ratio:6.2f}x  at most {LIMIT:.2f}x  {mark:<4} "
        f"({min(ours):.4f} s against {min(theirs):.4f} s)"
    )
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
