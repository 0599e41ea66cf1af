# SPDX-License-Identifier: Apache-2.0
"""What the user chose; everything else follows from the facts."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from mountcr.criu.options import CgroupMode
from mountcr.model import Record
from mountcr.paths import KPath, join

if TYPE_CHECKING:
    from mountcr.stack import Stack

__all__ = [
    "CACHE",
    "IMAGES",
    "IMPORTS",
    "RESTORE_ROOT",
    "STATE",
    "UNIONS",
    "Choices",
    "Tcp",
    "new_upper",
]

RESTORE_ROOT: Final = KPath("/run/mountcr/root")
"""Where a root is assembled, in a private mount namespace only: on the host it stays empty."""

UNIONS: Final = KPath("/run/mountcr/unions")
"""Where overlays of a container are assembled, in a private mount namespace as well."""

STATE: Final = KPath("/var/lib/mountcr/rootfs")
"""Where a converted root file system lies when nobody says where."""

CACHE: Final = KPath("/var/lib/mountcr/layers")
"""Where converted lower layers lie, by the digest of what they change and their dialect."""

IMPORTS: Final = KPath("/var/lib/mountcr/containers")
"""Where imported containers lie when nobody says where, each in a directory of its id."""

IMAGES: Final = KPath("IMAGES")
"""Stands for the images directory in a plan that is only looked at."""


class Tcp(StrEnum):
    """What CRIU does with TCP connections, without which it dumps none: keeps or closes them."""

    ESTABLISHED = "established"
    CLOSE = "close"


class Choices(Record, frozen=True, kw_only=True):
    """
    Options of the command line that a plan depends on.

    `binds` maps mountpoints of the container to sources on this host. For a container that came
    in a bundle, `allowed` are directories of this host that it may have its own sources in, and
    with `create_missing` empty files and directories take the place of others. `root_at` is where
    the restored root shall be mounted on the host too. `net` is the network namespace that the
    tasks come into, `host`, `none` or a path, None for the one that was recorded; `bridges` maps
    recorded bridges to others, the empty name all that it does not name. `tcp` is what becomes of
    TCP connections. `extra` are words for CRIU, `dumped` those that were given at the dump that is
    restored.
    """

    images: KPath = IMAGES
    driver: str | None = None
    upper: KPath | None = None
    readonly: bool = False
    binds: dict[KPath, KPath] = {}
    allowed: tuple[KPath, ...] = ()
    create_missing: bool = False
    root_at: KPath | None = None
    cgroups: CgroupMode | None = None
    cgroup_root: KPath | None = None
    leave_running: bool = False
    net: str | None = None
    bridges: dict[str, str] = {}
    tcp: Tcp | None = None
    allow_changed: bool = False
    extra: tuple[str, ...] = ()
    dumped: tuple[str, ...] = ()


def new_upper(choices: Choices, container: str, stack: Stack) -> KPath | None:
    """
    Say where the new writable layer of a container lies, None when it goes on with its own.

    It needs one on another driver, or where one is asked for.
    """
    driver = choices.driver or stack.driver
    if choices.readonly or (driver == stack.driver and choices.upper is None):
        return None
    return choices.upper or join(STATE, f"{container}.{driver}")
