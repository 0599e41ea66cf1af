# SPDX-License-Identifier: Apache-2.0
"""
A data root that is elsewhere than it was: what lies below it is taken from where it is now.

Docker records absolute paths. The files of a container are `<data root>/containers/<id>/<name>`,
so each of them tells where the data root was when it was written.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mountcr.paths import KPath, encode, is_beneath, join, rebase, relative_to

if TYPE_CHECKING:
    from mountcr.engines.docker.records import Config
    from mountcr.engines.reading import Reader

__all__ = ["Moved", "recorded_root"]

_CONTAINERS: Final = "/containers/"


def recorded_root(config: Config) -> tuple[str, str]:
    """Give the data root by the record of a container, and the field that tells; else empty."""
    fields = (
        ("HostnamePath", config.hostname_path),
        ("ResolvConfPath", config.resolv_conf_path),
        ("HostsPath", config.hosts_path),
        ("LogPath", config.log_path),
    )
    for field, path in fields:
        root, found, below = path.rpartition(_CONTAINERS)
        if found and root.startswith("/") and below.count("/") == 1:
            return root, field
    return "", ""


class Moved:
    """The way from recorded paths to where things are."""

    def __init__(self, recorded: str, data: str) -> None:
        self._old = encode(recorded) if recorded else None
        self._new = encode(data)

    @classmethod
    def of(cls, config: Config, data: str, reader: Reader, file: str) -> Moved:
        """Compare the root that is recorded with the one that there is; a difference is told."""
        recorded, field = recorded_root(config)
        if recorded and recorded != data and not _same(recorded, data):
            reader.tell(f"the data root was {encode(recorded)}, and is {encode(data)}", file, field)
        return cls(recorded, data)

    def now(self, path: str) -> KPath:
        """Give where something is that was recorded; outside of the root it is where it was."""
        spelled = encode(path)
        if self._old is None or not is_beneath(spelled, self._old):
            return spelled
        return rebase(spelled, self._old, self._new)

    def below(self, path: str) -> KPath:
        """Give something below the root as it is now."""
        return join(self._new, encode(path))

    def name_below(self, path: KPath, directory: str) -> str:
        """Give the name of what lies in a directory of the root as it is; empty if elsewhere."""
        place = self.below(directory)
        below = relative_to(path, place) if is_beneath(path, place) else ""
        return below if "/" not in below else ""


def _same(one: str, other: str) -> bool:
    """Tell whether two paths are the same directory now, by a link for instance."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
