# SPDX-License-Identifier: Apache-2.0
"""
What nerdctl records of a container: labels beginning with `nerdctl/` (pkg/labels of nerdctl 2).

Its files, `hostname`, `resolv.conf` and `hosts`, lie below /var/lib/nerdctl; the configuration of
the container binds them, and the `_data` of volumes, whose names only the labels have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mountcr.container import ContainerMount

__all__ = ["MOUNTS", "NAME", "MountsError", "with_volumes"]

NAME: Final = "nerdctl/name"
MOUNTS: Final = "nerdctl/mounts"


class MountsError(Exception):
    """The label with the mounts is no JSON of them."""


class _Mount(msgspec.Struct, frozen=True, rename="pascal"):
    """One of `nerdctl/mounts`, in the shape of Docker's (pkg/inspecttypes/dockercompat)."""

    type: str = ""
    name: str = ""
    destination: str = ""


def with_volumes(
    mounts: tuple[ContainerMount, ...], labels: Mapping[str, str]
) -> tuple[ContainerMount, ...]:
    """
    Name those mounts that are volumes.

    Raises MountsError for a label that is damaged.
    """
    told = labels.get(MOUNTS)
    if not told:
        return mounts
    try:
        listed = msgspec.json.decode(told, type=tuple[_Mount, ...])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MountsError(f"no JSON of mounts: {error}") from error
    volumes = {encode(each.destination): each.name for each in listed if each.type == "volume"}
    return tuple(
        msgspec.structs.replace(mount, type="volume", name=volumes[mount.destination])
        if mount.destination in volumes
        else mount
        for mount in mounts
    )
