# SPDX-License-Identifier: Apache-2.0
"""The layers of an image, found in the store of its engine by what the engine says of them."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from live.ground import Trouble
from live.images import FINAL, REMOVED
from mountcr.engines import Roots, find
from mountcr.engines.imagelayers import (
    base_of,
    chain_ids,
    identify,
    identify_opened,
    pile,
    survey_layers,
)
from mountcr.rootfs.opened import opened
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from live.engine import Engine, Running
    from mountcr.engines.imagelayers import ImageLayer

__all__ = ["check_layers"]

_INIT = {"docker": 1}
"""How many layers of a container an engine puts over those of the image, for files of its own."""


def check_layers(engine: Engine, running: Running) -> None:
    """
    Claim that every layer of the image is found, and is what a container of it stands on.

    Directories by themselves, or all that is below with them, are read by their dialect and show
    what the image has. Raises Trouble.
    """
    roots = _roots(engine)
    found = survey_layers(roots)
    if found.damages:
        raise Trouble("\n".join(f"{name}: {damage}" for name, damage in found.damages))
    diff_ids = engine.diff_ids()
    by_chain = {each.chain_id: each for each in found.layers}
    missing = [each for each in chain_ids(diff_ids) if each not in by_chain]
    if missing:
        raise Trouble(f"chain ids that are not found: {missing}, of {found.layers}")
    layers = [by_chain[each] for each in chain_ids(diff_ids)]
    if [each.diff_id for each in layers] != [*diff_ids]:
        raise Trouble(f"DiffIDs are {diff_ids}, found are {layers}")
    if any(each.mapped or each.engine != engine.word for each in layers):
        raise Trouble(f"layers of {engine.word} with the owners of the image: {layers}")
    _is_stood_on(engine, running, roots, layers, found.layers)
    _shows_the_image(layers)


def _roots(engine: Engine) -> Roots:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", action="append", default=[])
    parser.add_argument("--runroot", action="append", default=[])
    options = parser.parse_args([*engine.roots()])
    return Roots.of_host(data=options.root, run=options.runroot, environ=engine.environment)


def _is_stood_on(
    engine: Engine,
    running: Running,
    roots: Roots,
    layers: Sequence[ImageLayer],
    known: Sequence[ImageLayer],
) -> None:
    """Claim that what is below the container is the image, and but for that the engine's."""
    container = find(f"{engine.word}:{running.name}", roots=roots)
    stack, base = container.stack, base_of(container, known, roots)
    if base != layers[-1]:
        raise Trouble(f"it is on {base}, not on {layers[-1]}")
    if pile(layers[-1], known) != tuple(layers):
        raise Trouble(f"the pile is {pile(layers[-1], known)}, not {layers}")
    if stack is None:
        raise Trouble("the stack of the container is not known")
    if any(each.flat for each in layers):
        if identify_opened(stack.directories, known) != (None,):
            raise Trouble(f"a copy for the container is taken for a layer: {stack.directories}")
        return
    below = (*(None,) * _INIT.get(engine.word, 0), *reversed(layers))
    for way in (identify, identify_opened):
        if way(stack.lowers, known) != below:
            raise Trouble(f"{stack.lowers} are {way(stack.lowers, known)}, not {below}")


def _shows_the_image(layers: Sequence[ImageLayer]) -> None:
    """Claim that the layers, each by its dialect, show the files of the image and none removed."""
    top = [layers[-1]] if layers[-1].flat else [*reversed(layers)]
    stored = [StoredLayer(path=each.path, dialect=each.dialect) for each in top]
    with opened(stored) as view:
        if view.inode(_inside(REMOVED)) is not None:
            raise Trouble(f"{REMOVED} is in {stored}")
        for path, content in FINAL.items():
            if view.inode(_inside(path)) is None:
                raise Trouble(f"{path} is not in {stored}")
            fd, offset, size = view.content(_inside(path))
            try:
                read = os.pread(fd, size, offset).decode()
            finally:
                os.close(fd)
            if read != content:
                raise Trouble(f"{path} in {stored} is {read!r} and was {content!r}")


def _inside(path: str) -> bytes:
    return path.lstrip("/").encode()
