# SPDX-License-Identifier: Apache-2.0
"""
How long it takes to find the image layers of a host, of each engine and of all of them.

    python benchmarks/imagelayers.py [--runs N] [--layers N]

Stores with N layers each are written, in chains of 20: data roots of Docker with overlay2 and vfs,
a graph root of containers/storage with overlay, a containerd with overlayfs. The directories are
empty, as their content is not looked at; no daemon runs. Each figure is the median of N runs within
one process, modules loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "unit/engines")]

from dockertrees import Tree as DockerTree  # noqa: E402
from storagetrees import Tree as StorageTree  # noqa: E402

from containerds import Daemon  # noqa: E402
from mountcr.engines import Roots  # noqa: E402
from mountcr.engines.imagelayers import chain_ids, survey_layers  # noqa: E402

CHAIN: Final = 20
"""Layers of an image."""

SECONDS: Final = 0.25
"""To find the layers of a store, at most."""


def digest(*words: object) -> str:
    """Give a digest that is always the same for the same words."""
    return f"sha256:{hashlib.sha256(repr(words).encode()).hexdigest()}"


def docker(top: Path, driver: str, count: int) -> Roots:
    """Write a data root."""
    tree = DockerTree(top / driver)
    for number in range(count // CHAIN):
        tree.image(driver, CHAIN, f"image-{number}")
    return tree.roots


class Lists(StorageTree):
    """A graph root whose list of layers is written when all are in it."""

    def save(self, file: Path, *entries: dict[str, object]) -> None:
        """Keep entries of a list, with a DiffID."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with_digest = [each | {"diff-digest": digest(each["id"])} for each in entries]
        self.lists.setdefault(file, []).extend(with_digest)

    def write(self) -> None:
        """Write the lists."""
        for file, entries in self.lists.items():
            file.write_text(json.dumps(entries))


def storage(top: Path, count: int) -> Roots:
    """Write a graph root."""
    tree = Lists(top / "storage")
    for image in range(count // CHAIN):
        tree.chain(*(f"layer-{image}-{number}" for number in range(CHAIN)))
    tree.write()
    return tree.roots


def containerd(top: Path, count: int) -> Roots:
    """Write the root of a containerd."""
    daemon = Daemon(top)
    blobs = daemon.root / "io.containerd.content.v1.content/blobs/sha256"
    blobs.mkdir(parents=True)
    content = daemon.space("default", b"content").setdefault(b"blob", {})
    assert isinstance(content, dict)
    number = 0
    for image in range(count // CHAIN):
        diff_ids = [digest("layer", image, layer) for layer in range(CHAIN)]
        config = json.dumps({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
        name = hashlib.sha256(config).hexdigest()
        (blobs / name).write_bytes(config)
        parent = ""
        for chain in chain_ids(diff_ids):
            number += 1
            daemon.snapshot(chain, number, 3, parent)
            parent = chain
        label = b"containerd.io/gc.ref.snapshot.overlayfs"
        content[f"sha256:{name}".encode()] = {b"labels": {label: parent.encode()}}
    daemon.write()
    return daemon.roots


def measure(title: str, roots: Roots, runs: int, *, stores: int = 1, count: int) -> None:
    """Print the median of some runs, all of which must find every layer."""
    taken: list[float] = []
    for _ in range(runs):
        started = time.perf_counter()
        found = survey_layers(roots)
        taken.append(time.perf_counter() - started)
        assert len(found.layers) == stores * count
        assert not found.damages
    median = statistics.median(taken)
    mark = "ok" if median <= SECONDS * stores else "OVER"
    print(f"{title:<44} {median:6.3f} s  at most {SECONDS * stores:.2f} s  {mark}")


def main() -> int:
    """Measure everything."""
    parser = argparse.ArgumentParser(description="Image layers of a host.")
    parser.add_argument("--runs", type=int, default=7, help="measured runs; default: 7")
    parser.add_argument("--layers", type=int, default=1000, help="of each store; default: 1000")
    options = parser.parse_args()
    count = options.layers // CHAIN * CHAIN
    with tempfile.TemporaryDirectory(prefix="mountcr-bench-") as directory:
        top = Path(directory)
        every = {
            "Docker, overlay2": docker(top, "overlay2", count),
            "Docker, vfs": docker(top, "vfs", count),
            "containers/storage, overlay": storage(top, count),
            "containerd, overlayfs": containerd(top, count),
        }
        places = tuple(place for roots in every.values() for place in roots.places)
        for name, roots in every.items():
            measure(f"{count} layers of {name}", roots, options.runs, count=count)
        together = Roots(places=places)
        stores = len(every)
        measure(f"{count} of each", together, options.runs, stores=stores, count=count)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
