# SPDX-License-Identifier: Apache-2.0
"""
A random container, started inside a host: `python -P -m moves.container SOURCE SEED DIRECTORY`.

Its files are those of a recipe of the harness of fidelity, its layers were made through the union
of the driver, and the programs of the witness lie in the lowest one. A line of JSON says what there
is. The process stays, because the daemon of a FUSE union ends with who started it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fidelity import unions
from fidelity.generator import generate
from fidelity.perform import perform
from fidelity.recipe import Node
from mountcr.demo import launch as demo
from mountcr.paths import encode
from mountcr.stack import Stack
from moves import witness

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fidelity.recipe import Operation, Recipe

__all__ = ["Started"]


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """What was started: its pid, where its merged view is, and its branches, top first."""

    pid: int
    merged: str
    branches: tuple[str, ...]


def main() -> None:
    """Start it, tell, and stay."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("seed", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--lowers", nargs="*", help="layers of an image instead, top first")
    options = parser.parse_args()
    top: Path = options.directory
    top.mkdir()
    source = unions.variant(options.source, options.seed)
    if options.lowers:
        stack = _on_layers(top, options.lowers)
    else:
        recipe = _without_devices(generate(options.seed))
        stack = unions.build(recipe, source, bytes(top)).stack
    volume = top / "volume"
    volume.mkdir()
    content = _without_devices(generate(options.seed + 1, layers=1)).layers[0].operations
    perform(bytes(volume), content, parents=True)
    layers = unions.layers_of(stack)
    if layers.lowers and not options.lowers:
        witness.install(Path(os.fsdecode(layers.lowers[-1])))
    merged = top / "merged"
    merged.mkdir(exist_ok=True)
    with unions.mounted(source, layers, bytes(merged)):
        if not (merged / witness.HOME).exists():  # layers of others, or hidden by an opaque root
            witness.install(merged)
        for each in ("proc", "dev", witness.VOLUME.lstrip("/"), f"{witness.HOME}/state"):
            (merged / each).mkdir(exist_ok=True)
    # once more: a daemon remembers times that it changed when it copied something up
    with unions.mounted(source, layers, bytes(merged)):
        container = demo.Recipe(
            root=str(merged),
            command=witness.COMMAND,
            mounts=(demo.BindMount(str(volume), witness.VOLUME),),
            # CRIU gives a file without a name a new one, which fuse-overlayfs does not do
            environment={"KEEPS_NAMES": "1"} if source == "fuse-overlayfs" else {},
        )
        pid = demo.launch(container)
        told = Started(
            pid=pid,
            merged=str(merged),
            branches=tuple(map(str, stack.directories)),
        )
        sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
        sys.stdout.buffer.flush()
        signal.pause()


def _on_layers(top: Path, lowers: Sequence[str]) -> Stack:
    """Give an overlay of layers that somebody else has, with a new writable layer."""
    for name in ("upper", "work"):
        (top / name).mkdir()
    return Stack(
        driver="overlay",
        lowers=tuple(map(encode, lowers)),
        upper=encode(bytes(top / "upper")),
        work=encode(bytes(top / "work")),
    )


def _without_devices(recipe: Recipe) -> Recipe:
    """Leave out device nodes, which no archive may bring."""

    def kept(operations: Iterable[Operation]) -> tuple[Operation, ...]:
        return tuple(
            each
            for each in operations
            if not (isinstance(each, Node) and each.kind in {"character", "block"})
        )

    layers = [
        msgspec.structs.replace(each, operations=kept(each.operations)) for each in recipe.layers
    ]
    return msgspec.structs.replace(recipe, layers=tuple(layers), changes=kept(recipe.changes))


if __name__ == "__main__":
    main()
