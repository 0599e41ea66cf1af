# SPDX-License-Identifier: Apache-2.0
"""
What an engine took from the host when its container ended, and the container's mounts come from.

It is made again in the mount namespace of the restore: a directory stays as long as what is made
there is needed, and a tmpfs is empty, for its content went with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr import paths
from mountcr.planning.steps import Directory, Scratch, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountcr.graph.tree import MountTree
    from mountcr.model import Container, TornDown
    from mountcr.planning.records import External

__all__ = ["torn_sources", "torn_steps"]


def torn_sources(
    container: Container, externals: Iterable[External]
) -> Iterator[tuple[External, TornDown]]:
    """Give the externals that come from what the engine tears down, each with that."""
    for external in externals:
        for each in container.torn_down:
            if external.source and paths.is_beneath(external.source, each.path):
                yield external, each


def torn_steps(
    container: Container, externals: Iterable[External], host: MountTree
) -> Iterator[Step]:
    """Make again what externals come from; a tmpfs that is mounted there still is left alone."""
    done: set[paths.KPath] = set()
    for external, torn in torn_sources(container, externals):
        if torn.path in done:
            continue
        done.add(torn.path)
        because = (
            f"{external.mountpoint} comes from it, and {container.engine} removes it when a "
            "container ends"
        )
        if torn.type == "directory":
            yield Directory(path=torn.path, because=because)
            continue
        mounted = host.lies_on(torn.path)
        if mounted is None or mounted.mountpoint != torn.path:
            options = torn.options or f"mode={torn.mode:o}"
            yield Scratch(at=torn.path, options=options, because=because)
