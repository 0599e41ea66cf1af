# SPDX-License-Identifier: Apache-2.0
"""Names of external mounts: what a person reads in a command line, each only once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mountcr.paths import KPath

__all__ = ["Names"]

_UNREADABLE: Final = re.compile(r"(?:\\[0-7]{3}|\\x[0-9a-f]{2}|[^A-Za-z0-9._])+")
"""Escapes of mountinfo, and what means something to CRIU, to a shell or to neither."""


class Names:
    """The names that are given in one plan."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def give(self, mountpoint: KPath) -> str:
        r"""
        Give a name for a mountpoint that no other one has got.

        >>> names = Names()
        >>> names.give("/etc/hosts"), names.give("/etc-hosts"), names.give("/\\134")
        ('etc-hosts', 'etc-hosts-2', 'mount')
        """
        wanted = _UNREADABLE.sub("-", mountpoint).strip("-") or "mount"
        name = wanted
        while name in self._taken:
            self._taken[wanted] += 1
            name = f"{wanted}-{self._taken[wanted]}"
        self._taken[name] = 1
        return name
