# SPDX-License-Identifier: Apache-2.0
"""
mountcr beside the engines: the plan of a container of podman, and the list of thousands.

    tox -e benchmarks [-- --runs N --containers N]

That environment has the wheel and what it needs, as a user's has; beside linters, typing_extensions
is loaded too, which takes a tenth of the time. Needs root and podman (tools/provision --engines).
A container of podman is started on a root of its own; `mountcr plan` of it is held to `podman
inspect` of it, cold processes both, one after the other. Then data roots are written with N
containers in containers/storage and N in Docker's layout, 20 layers each, and `mountcr ls` of each
and of both is timed; no daemon runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

TESTS: Final = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "unit/engines")]

from dockertrees import Tree as DockerTree  # noqa: E402
from storagetrees import Tree as StorageTree  # noqa: E402

from live.ground import Ground  # noqa: E402
from live.podman import Podman  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOUNTCR: Final = str(Path(sys.executable).parent / "mountcr")
"""The program, as it is installed beside this Python."""

LIMIT: Final = 4.0
"""`mountcr plan` against `podman inspect`, at most."""

SECONDS: Final = 1.0
"""`mountcr ls` of all containers, at most."""

LAYERS: Final = 20


def seconds(words: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Run a command, which must succeed, and give how long it took."""
    started = time.perf_counter()
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def planning(runs: int) -> None:
    """Hold a plan to podman's own answer."""
    ground = Ground()
    try:
        engine = Podman(ground, driver="overlay")
        engine.start()
        running = engine.run("mountcr-benchmark")
        environment = os.environ | engine.environment
        ours = [MOUNTCR, "plan", "podman:mountcr-benchmark", *engine.roots()]
        theirs = ["podman", "inspect", "mountcr-benchmark"]
        pairs = [(seconds(ours, environment), seconds(theirs, environment)) for _ in range(runs)]
        ratio = statistics.median(a / b for a, b in pairs)
        mark = "ok" if ratio <= LIMIT else "OVER"
        a, b = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(
            f"{'mountcr plan / podman inspect':<44} {ratio:6.2f}x  at most {LIMIT:.2f}x  {mark:<4} "
            f"({a:.4f} s against {b:.4f} s)"
        )
        ground.end(running.pid)
    finally:
        for line in ground.close():
            print(line, file=sys.stderr)


class Lists(StorageTree):
    """A graph root whose lists are written when all is in them."""

    def save(self, file: Path, *entries: dict[str, object]) -> None:
        """Keep entries of a list."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.lists.setdefault(file, []).extend(entries)

    def write(self) -> None:
        """Write the lists."""
        for file, entries in self.lists.items():
            file.write_text(json.dumps(entries))


def storage(top: Path, count: int) -> str:
    """Write a graph root with containers of podman on one chain, and their database."""
    tree = Lists(top)
    image = tree.chain(*(f"image-{number}" for number in range(LAYERS)))
    for number in range(count):
        word = f"storage-{number}"
        tree.container(word, tree.layer(f"own-{number}", image))
        tree.spec(tree.podman(word))
    tree.write()
    tree.sqlite()
    return str(tree.graph)


def docker(top: Path, count: int) -> str:
    """Write a data root with containers on one chain."""
    tree = DockerTree(top)
    image = tree.image("overlay2", LAYERS)
    for number in range(count):
        tree.container(f"docker-{number}", image=image)
    return str(tree.data)


def listing(count: int, runs: int) -> None:
    """Time `mountcr ls` of many containers."""
    with tempfile.TemporaryDirectory(prefix="mountcr-bench-") as directory:
        top = Path(directory)
        graph, data = storage(top / "storage", count), docker(top / "docker", count)
        for name, roots in (
            ("podman", [graph]),
            ("Docker", [data]),
            ("each of both", [graph, data]),
        ):
            words = [MOUNTCR, "ls"]
            for root in roots:
                words += ["--root", root]
            found = statistics.median(seconds(words) for _ in range(runs))
            mark = "ok" if found <= SECONDS else "OVER"
            title = f"mountcr ls, {count} containers of {name}"
            print(f"{title:<44} {found:6.3f} s  at most {SECONDS:.2f} s  {mark}")


def main() -> int:
    """Measure everything."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program is compiled once
    parser = argparse.ArgumentParser(description="mountcr beside the engines.")
    parser.add_argument("--runs", type=int, default=7, help="measured runs; default: 7")
    parser.add_argument("--containers", type=int, default=1000, help="of each engine")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("benchmarks/plan.py: the engines need root", file=sys.stderr)
        return 7
    planning(options.runs)
    listing(options.containers, options.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
