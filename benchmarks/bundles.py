# SPDX-License-Identifier: Apache-2.0
"""
Bundles beside podman's checkpoint archives: the same container, the same compression.

    python benchmarks/bundles.py [--runs N] [--mib N] [--files N] [--memory N]

Needs root, podman (tools/provision --engines) and a C compiler. A container of podman holds 256 MiB
of memory and has 1 GiB in 20 000 files in its writable layer. `mountcr export` of it is held to
`podman container checkpoint --export`, and `mountcr restore` of the file to `podman container
restore --import`, one after the other. What the processes of mountcr have in memory at most is
printed too.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

TESTS: Final = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS)]

from live.ground import Ground, wait  # noqa: E402
from live.images import NAME  # noqa: E402
from live.podman import Podman  # noqa: E402
from mountcr.programs import DEFAULT_PREFIX  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT: Final = 0.7
"""Export and import against podman's, at most."""

MEMORY: Final = 200
"""MiB of a process of mountcr, at most."""

IMPORTS: Final = Path("/var/lib/mountcr/containers")

HOLDER: Final = """
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    size_t size = (size_t)atoi(argv[1]) << 20;
    unsigned char *memory = malloc(size);
    unsigned int state = 1;
    for (size_t at = 0; at < size; at++) {
        state = state * 1664525u + 1013904223u;
        memory[at] = (at / 4096) % 2 ? state >> 24 : at / 64;
    }
    write(1, "held\\n", 5);
    for (;;) pause();
}
"""


class Used(NamedTuple):
    """Seconds that a command took and MiB that it had in memory at most."""

    seconds: float
    memory: float


def used(words: Sequence[str], environment: dict[str, str]) -> Used:
    """Run a command, which must succeed."""
    started = time.perf_counter()
    child = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(words)}: exit status {child.returncode}")
    return Used(time.perf_counter() - started, usage.ru_maxrss / 1024)


def fill(directory: Path, files: int, size: int) -> None:
    """Write files, half of whose content is random."""
    noise = random.Random(1).randbytes(1 << 20)  # noqa: S311  # the same each time
    text = b"The quick brown fox jumps over the lazy dog. " * (1 << 14)
    each = size // files
    for number in range(files):
        place = directory / f"{number // 100:04d}"
        place.mkdir(exist_ok=True, parents=True)
        at = (number * 4099) % (len(noise) - each // 2)
        content = noise[at : at + each // 2] + text[: each - each // 2]
        (place / f"file-{number}").write_bytes(content)


class Container:
    """The container of podman that is measured."""

    def __init__(self, ground: Ground, arguments: argparse.Namespace) -> None:
        self.engine = Podman(ground, driver="overlay")
        self.engine.start()
        prefix = os.environ.get("MOUNTCR_PREFIX", DEFAULT_PREFIX)
        path = f"{prefix}/bin:{os.environ['PATH']}"
        self.environment = os.environ | self.engine.environment | {"PATH": path}
        # installed programs are compiled when they are
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.ground = ground
        holder = ground.top / "holder"
        subprocess.run(
            ["gcc", "-O2", "-static", "-x", "c", "-o", str(holder), "-"],
            input=HOLDER.encode(),
            check=True,
        )
        options = ("--network", "none", "--cgroups", "enabled", "--log-driver", "k8s-file")
        self.podman("create", "--name", "held", *options, NAME, "/holder", str(arguments.memory))
        self.podman("cp", str(holder), "held:/holder")
        self.podman("start", "held")
        pid = int(self.podman("inspect", "--format", "{{.State.Pid}}", "held"))
        ground.remember(pid)
        wait(lambda: "held" in self.podman("logs", "held"), "the memory", 60)
        upper = 'index .GraphDriver.Data "MergedDir"'
        merged = self.podman("inspect", "--format", f"{{{{{upper}}}}}", "held").strip()
        fill(Path(merged) / "data", arguments.files, arguments.mib << 20)
        os.sync()

    def podman(self, *words: str) -> str:
        """Run podman."""
        done = subprocess.run(
            ["podman", *words], env=self.environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    def pairs(self, number: int, mountcr: str) -> tuple[tuple[Used, Used], tuple[Used, Used]]:
        """Export and restore by both, the file of each removed at the end."""
        ours, theirs = self.ground.top / "ours", self.ground.top / "theirs"
        roots = self.engine.roots()
        words = [mountcr, "export", "podman:held", "-o", str(ours), "--leave-running", *roots]
        own = used(words, self.environment)
        words = ["podman", "container", "checkpoint", "--leave-running", "--compress", "zstd"]
        other = used([*words, "--export", str(theirs), "held"], self.environment)
        sizes = ", ".join(f"{each.stat().st_size >> 20} MiB" for each in (ours, theirs))
        print(f"  export {own.seconds:.2f} s, podman {other.seconds:.2f} s; {sizes}", flush=True)
        identity = f"benchmark-{number}"
        data = ["--root", roots[1], "--runroot", roots[3]] if roots else []
        words = [mountcr, "import", str(ours), "--id", identity, *data]
        imported = used(words, self.environment)
        shutil.rmtree(IMPORTS / identity)
        name = f"again-{number}"
        words = ["podman", "container", "restore", "--import", str(theirs), "--name", name]
        restored = used(words, self.environment)
        print(f"  import {imported.seconds:.2f} s, podman {restored.seconds:.2f} s", flush=True)
        self.podman("rm", "--force", "--time", "0", name)
        ours.unlink()
        theirs.unlink()
        return (own, other), (imported, restored)


def main() -> int:
    """Measure, and say where a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--memory", type=int, default=256)
    parser.add_argument("--mountcr", default=str(Path(sys.executable).parent / "mountcr"))
    arguments = parser.parse_args()
    ground = Ground()
    over = False
    try:
        container = Container(ground, arguments)
        found = [container.pairs(each, arguments.mountcr) for each in range(arguments.runs)]
        names = (
            "mountcr export / podman checkpoint --export",
            "mountcr import / podman restore --import",
        )
        for name, pairs in zip(names, zip(*found, strict=True), strict=True):
            ratio = statistics.median(a.seconds / b.seconds for a, b in pairs)
            most = max(a.memory for a, _ in pairs)
            mark = "ok" if ratio <= LIMIT and most <= MEMORY else "OVER"
            over |= mark == "OVER"
            print(f"{name:<44} {ratio:6.2f}x  at most {LIMIT:.2f}x  {mark:<4} ({most:.0f} MiB)")
    finally:
        for line in ground.close():
            print(line, file=sys.stderr)
    return int(over)


if __name__ == "__main__":
    raise SystemExit(main())
