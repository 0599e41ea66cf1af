# SPDX-License-Identifier: Apache-2.0
"""
Docker, of any version, from what its daemon keeps on disk; the daemon is not asked.

A data root has `containers/<id>`, and the layers below the directories of graph drivers: since 1.10
by way of `image/<driver>/layerdb`, before by the ids of images, and since 29 as snapshots of
containerd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mountcr.engines.docker.places import Usual, sites

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.container import Container, Damage
    from mountcr.engines.docker.places import Site
    from mountcr.engines.docker.store import Store
    from mountcr.engines.roots import Roots
    from mountcr.paths import KPath

__all__ = ["Docker", "Usual"]


class Docker:
    """The containers of Docker; `usual` are the places of a daemon that is told nothing."""

    name: ClassVar[str] = "docker"

    def __init__(self, usual: Usual | None = None) -> None:
        self._usual = usual or Usual()
        self._stores: dict[KPath, Store] | None = None

    def containers(self, roots: Roots) -> Iterator[Container]:
        """List the containers of every data root."""
        for store in self._open(roots).values():
            yield from store.containers()

    def describe(self, container: Container, roots: Roots) -> Container:
        """Add the layers, the mounts, the files, and all else that is recorded."""
        root = container.state_root
        store = self._open(roots).get(root) if root else None
        return store.describe(container) if store else container

    def damages(self) -> Sequence[Damage]:
        """Give nothing: what is damaged is a container's."""
        return ()

    def lookup(self, reference: str, roots: Roots) -> Sequence[Container] | None:
        """Answer nothing: an id, a name or a prefix needs the list."""

    def _open(self, roots: Roots) -> dict[KPath, Store]:
        """Give the data roots, opened once for a listing and what follows it."""
        if self._stores is None:
            found = sites(roots, self._usual)
            self._stores = _stores(found, tuple(roots.directories())) if found else {}
        return self._stores


def _stores(found: Sequence[Site], others: Sequence[str]) -> dict[KPath, Store]:
    from mountcr.engines.docker.store import Store  # a host without Docker needs none of it

    return {site.data: Store(site, others) for site in found}
