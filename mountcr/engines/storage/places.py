# SPDX-License-Identifier: Apache-2.0
"""
Where containers/storage keeps its state: graph roots, run roots, and where else layers may lie.

Those of root are /var/lib/containers/storage and /run/containers/storage; those of another user
$XDG_DATA_HOME/containers/storage and $XDG_RUNTIME_DIR/containers (containers-storage.conf(5)).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.engines.reading import names_in
from mountcr.engines.storage.configuration import Files, StoragePlace, settings
from mountcr.paths import fsdecode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mountcr.container import Damage
    from mountcr.engines.roots import Roots

__all__ = ["configuration_damages", "drivers_of", "storage_places"]

_DATABASES: Final = ("db.sql", "libpod")


def storage_places(roots: Roots, files: Files | None = None) -> list[StoragePlace]:
    """
    Give the instances: those that the user named, else the one that the configuration tells.

    What is configured for another graph root does not hold for one that was named. A directory
    that has not the layout is none.
    """
    files = files or Files.of_host(roots.environ)
    if not roots.places and not roots.looks_everywhere:
        return []
    usual = _usual(settings(files, roots.environ), files, roots.environ)
    if roots.looks_everywhere:
        return [usual] if _has_layout(usual.graph_root) else []
    found: list[StoragePlace] = []
    for place in roots.places:
        graph = fsdecode(place.data)
        run = fsdecode(place.run) if place.run else ""
        if _is_same(graph, usual.graph_root):
            named = msgspec.structs.replace(usual, graph_root=graph, run_root=run or usual.run_root)
        else:
            named = StoragePlace(graph_root=graph, run_root=run)
        if _has_layout(graph):
            found.append(named)
    return found


def configuration_damages(roots: Roots, files: Files | None = None) -> tuple[Damage, ...]:
    """Give what is damaged in the configuration of the usual places, if they are looked for."""
    if not roots.looks_everywhere:
        return ()
    return settings(files or Files.of_host(roots.environ), roots.environ).damages


def drivers_of(root: str) -> list[str]:
    """Give the storage drivers that have directories in a root, in the order of their names."""
    found = {
        driver
        for driver, dash, kind in (name.rpartition("-") for name in names_in(root))
        if dash and kind in {"containers", "layers"}
    }
    return sorted(found)


def _usual(found: StoragePlace, files: Files, environ: Mapping[str, str]) -> StoragePlace:
    """Give the instance that engines use unless they are told otherwise."""
    graph, run = "/var/lib/containers/storage", "/run/containers/storage"
    if files.user:
        data = environ.get("XDG_DATA_HOME") or f"{files.home}/.local/share"
        runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{files.user}"
        graph, run = f"{data}/containers/storage", f"{runtime}/containers"
    return msgspec.structs.replace(
        found, graph_root=found.graph_root or graph, run_root=found.run_root or run
    )


def _has_layout(graph: str) -> bool:
    """Tell whether a directory is a graph root: a driver or podman has directories in it."""
    return bool(drivers_of(graph)) or any(os.path.exists(f"{graph}/{name}") for name in _DATABASES)


def _is_same(one: str, other: str) -> bool:
    return one == other or os.path.realpath(one) == os.path.realpath(other)
