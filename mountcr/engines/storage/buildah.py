# SPDX-License-Identifier: Apache-2.0
"""
Working containers of buildah: a root file system that is being built; none of them runs.

They are those of the storage without metadata, and with `buildah.json` in the directory of the
container, `<driver>-containers/<id>/userdata` (buildah.go, `Builder.Save()`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import msgspec

from mountcr.engines.storage.engine import StorageEngine, assembled, listed, root_of
from mountcr.engines.storage.store import Owner
from mountcr.engines.storage.userdata import Given

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.engines.storage.layers import Layers
    from mountcr.engines.storage.store import Store
    from mountcr.model import Container

__all__ = ["Buildah"]


class Buildah(StorageEngine):
    """The working containers of buildah, and those that `podman build` has at work."""

    name: ClassVar[str] = "buildah"

    def _listed(self, store: Store, runtimes: Sequence[str]) -> Iterator[Container]:  # noqa: ARG002 -- no process
        for stored in store.containers.values():
            if stored.owner == Owner.BUILDAH:
                yield msgspec.structs.replace(listed(self.name, store, stored), status="stopped")

    def _described(self, container: Container, store: Store, layers: Layers) -> Container:
        reader = store.reader()
        root = root_of(container, store.containers.get(container.id), layers, reader)
        return assembled(container, root, Given(), reader, userdata=None)
