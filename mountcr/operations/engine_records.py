# SPDX-License-Identifier: Apache-2.0
"""
What an engine has written down of a container, word by word, so that it can be given back to it.

Podman restores an archive with the configuration that is in it, which nobody else could make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.bundle.foreign.podman import CONFIG, SPEC
from mountcr.engines.reading import Reader
from mountcr.engines.roots import Roots
from mountcr.engines.storage.database import databases
from mountcr.engines.storage.engine import Stores
from mountcr.errors import DocumentError
from mountcr.paths import fsdecode, parent

if TYPE_CHECKING:
    from mountcr.model import Facts

__all__ = ["engine_records"]

_PODMAN: Final = "podman"


def engine_records(facts: Facts, roots: Roots | None = None) -> dict[str, bytes]:
    """
    Give the records of a container of podman by their names in an archive; none of others.

    Nor are there any of one that came from another host. Nothing is raised: a bundle without them
    is whole, and only podman could not restore it.
    """
    container = facts.container
    if container.engine != _PODMAN or container.spec is None or facts.imported or facts.of_images:
        return {}
    config = _configuration(container.id, roots or Roots.of_host())
    spec = Reader(parent(container.spec)).content(fsdecode(container.spec))
    return {CONFIG: config, SPEC: spec} if config and spec else {}


def _configuration(identity: str, roots: Roots) -> bytes | None:
    for store, _ in Stores(None).of(roots).stores.values():
        for database in databases(store.place):
            try:
                found = database.configurations(identity).get(identity)
            except (DocumentError, OSError):
                continue
            if found:
                return found
    return None
