# SPDX-License-Identifier: Apache-2.0
"""
Plug-ins: classes that other distributions offer in an entry-point group.

Built-in classes never come from here, so that a checkout without metadata works, and so that a
host without plug-ins does not pay for `importlib.metadata`, which takes longer to import than
everything else that finding a container needs.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["offered"]

_OURS: Final = "mountcr"
_METADATA: Final = (".dist-info", ".egg-info")


def offered(group: str) -> Iterator[tuple[str, object]]:
    """
    Load what distributions other than ours offer in an entry-point group: name and object.

    One that cannot be imported is left out with a RuntimeWarning; it must not stop the others.
    """
    if not _somebody_offers(group):
        return
    from importlib import metadata  # costs 15 ms

    for entry in metadata.entry_points(group=group):
        if entry.dist is not None and entry.dist.name == _OURS:
            continue
        try:
            loaded: object = entry.load()
        except Exception as error:  # noqa: BLE001 -- somebody else's code
            message = f"{group}: {entry.name} = {entry.value} cannot be loaded: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            continue
        yield entry.name, loaded


def _somebody_offers(group: str) -> bool:
    """Look for the group in entry_points.txt of each distribution; True where nobody can tell."""
    if any(_finds_distributions(finder) for finder in sys.meta_path):
        return True
    section = f"[{group}]".encode()
    return any(_offers(directory or ".", section) for directory in sys.path)


def _finds_distributions(finder: object) -> bool:
    """Tell whether distributions may come from elsewhere than directories of `sys.path`."""
    # The finder of `sys.path` is a class of its own, known by its module.
    standard = getattr(finder, "__module__", "").startswith("_frozen_importlib")
    return not standard and hasattr(finder, "find_distributions")


def _offers(directory: str, section: bytes) -> bool:
    """Tell whether a distribution in a directory offers something; True for an archive."""
    try:
        names = os.listdir(directory)
    except NotADirectoryError:
        return True
    except OSError:
        return False
    return any(
        _has_section(f"{directory}/{name}/entry_points.txt", section)
        for name in names
        if name.endswith(_METADATA) and name.partition("-")[0] != _OURS
    )


def _has_section(path: str, section: bytes) -> bool:
    """Tell whether a file is there and names the section."""
    try:
        with open(path, "rb", buffering=0) as file:
            return section in file.read()
    except OSError:
        return False
