# SPDX-License-Identifier: Apache-2.0
"""
The engine containerd: containers of ctr, nerdctl and Kubernetes, from its databases.

They are read beside the daemon, which need not run. A container is found by its id, its name, or
`NAMESPACE/ID`. Those of Docker, in the namespace `moby`, are Docker's, where that knows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from mountcr.engines.containerd.places import USUAL, Instance, Usual, instances
from mountcr.engines.reading import names_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.container import Container, Damage
    from mountcr.engines.containerd.metadata import Listing, Row
    from mountcr.engines.containerd.snapshots import Snapshots
    from mountcr.engines.roots import Roots
    from mountcr.paths import KPath

__all__ = ["Containerd"]


class Containerd:
    """The containers of containerd; `usual` says where it is looked for."""

    name: ClassVar[str] = "containerd"

    def __init__(self, usual: Usual = USUAL) -> None:
        self._usual: Final = usual
        self._damages: tuple[Damage, ...] = ()
        self._rows: dict[tuple[KPath | None, str, str], Row] = {}
        self._instances: dict[KPath | None, tuple[Instance, Snapshots]] = {}

    def containers(self, roots: Roots) -> Iterator[Container]:
        """Give every container, running or not; one whose record is lost, if it has a bundle."""
        self._damages = ()
        for instance in instances(roots, self._usual):
            from mountcr.engines.containerd import metadata  # many machines have no containerd
            from mountcr.engines.containerd.snapshots import damage

            listing = metadata.read(instance.database, roots.namespace)
            for row in listing.rows:
                yield self._remembered(row, instance)
            if listing.flaws:
                self._damages += tuple(damage(instance.database, each) for each in listing.flaws)
                yield from self._lost(listing, instance, roots.namespace)

    def describe(self, container: Container, roots: Roots) -> Container:
        """Add layers, mounts and all else that is on record."""
        key = (container.state_root, container.namespace, container.id)
        if container.state_root not in self._instances:
            list(self.containers(roots))
        known = self._instances.get(container.state_root)
        if known is None:
            return container
        from mountcr.engines.containerd import records

        instance, snapshots = known
        row = self._rows.get(key)
        layers = snapshots.layers(row.snapshotter, row.snapshot) if row and row.snapshot else None
        return records.described(container, row, instance, layers)

    def damages(self) -> Sequence[Damage]:
        """Give what is damaged in the databases of those that were listed."""
        return self._damages

    def lookup(self, reference: str, roots: Roots) -> Sequence[Container] | None:
        """Find `NAMESPACE/ID`, a name in the place of the id, or `ROOT/NAMESPACE/ID`."""
        where, slash, word = reference.rpartition("/")
        if not slash or not where or not word:
            return None
        found = [
            each
            for each in self.containers(roots)
            if where in {each.namespace, f"{each.state_root}/{each.namespace}"}
            and word in {each.id, each.name}
        ]
        return [each for each in found if each.id == word] or found or None

    def _remembered(self, row: Row, instance: Instance) -> Container:
        from mountcr.engines.containerd import records

        container = records.listed(row, instance)
        self._rows[container.state_root, container.namespace, container.id] = row
        self._know(container, instance)
        return container

    def _know(self, container: Container, instance: Instance) -> None:
        from mountcr.engines.containerd.snapshots import Snapshots

        if container.state_root not in self._instances:
            self._instances[container.state_root] = instance, Snapshots(instance)

    def _lost(self, listing: Listing, instance: Instance, namespace: str) -> Iterator[Container]:
        """Give the containers that have a bundle, and should have a record."""
        from mountcr.engines.containerd import records

        known = {(row.namespace, row.id) for row in listing.rows}
        for space in [namespace] if namespace else names_in(instance.bundles("")):
            for name in names_in(instance.bundles(space)):
                if (space, name) not in known:
                    container = records.unlisted(space, name, instance, listing.flaws)
                    self._know(container, instance)
                    yield container
