# SPDX-License-Identifier: Apache-2.0
"""
Engines whose containers lie in containers/storage: podman, CRI-O and buildah.

They share the storage, its lists and its layers, and tell their containers apart by what each
writes into its entries. All is read from files; no lock is taken, and no engine is asked.
"""

from __future__ import annotations

from mountcr.engines.storage.buildah import Buildah
from mountcr.engines.storage.crio import CriO
from mountcr.engines.storage.engine import Stores
from mountcr.engines.storage.podman import Podman

__all__ = ["Buildah", "CriO", "Podman", "storage_engines"]


def storage_engines() -> tuple[Podman, CriO, Buildah]:
    """Give the three engines on the same storage, which is read once."""
    stores = Stores()
    return Podman(stores=stores), CriO(stores=stores), Buildah(stores=stores)
