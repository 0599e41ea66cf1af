# SPDX-License-Identifier: Apache-2.0
"""
Where Docker keeps its state: data roots, each with the exec roots that may belong to it.

The daemon takes both from its command line or from daemon.json, else /var/lib/docker and
/run/docker; of a user who is not root, they lie in the directories of the XDG specification. With
`userns-remap` the data root proper is `<data root>/<uid>.<gid>` (moby daemon/daemon_unix.go).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.container import Damage
from mountcr.engines.reading import Reader, names_in
from mountcr.paths import KPath, encode, fsdecode
from mountcr.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mountcr.engines.roots import Roots

__all__ = ["Site", "Usual", "has_layout", "is_remapped", "sites"]

_REMAPPED: Final = re.compile(r"\d+\.\d+")
_MARKS: Final = (
    "image",
    "graph",
    "overlay2",
    "overlay",
    "aufs",
    "vfs",
    "btrfs",
    "zfs",
    "devicemapper",
    "fuse-overlayfs",
    "rootfs",
    "network",
)
"""What a data root has beside `containers`: `image` or a graph driver's, or that of snapshots."""


_RECORDS: Final = ("config.v2.json", "config.json")
"""What a container has of which nothing else is left, as where a data root was copied in part."""


class _Daemon(msgspec.Struct, frozen=True, rename="kebab"):
    """`daemon.json`, the options of the daemon; `graph` is the data root before Docker 17.05."""

    data_root: str = ""
    graph: str = ""
    exec_root: str = ""


class Usual(Record, frozen=True, kw_only=True):
    """
    Where the daemon of root has its configuration and its state, unless told otherwise.

    `containerd` is the root of the one that the host runs, and Docker may use.
    """

    configuration: KPath = KPath("/etc/docker/daemon.json")
    data: KPath = KPath("/var/lib/docker")
    run: KPath = KPath("/run/docker")
    containerd: KPath = KPath("/var/lib/containerd")


class Site(Record, frozen=True, kw_only=True):
    """
    A data root, its links resolved as the daemon does it, and exec roots that may belong to it.

    `damages` are those of the configuration that names it, `containerds` the roots of those that
    may have its snapshots.
    """

    data: KPath
    runs: tuple[KPath, ...] = ()
    containerds: tuple[KPath, ...] = ()
    damages: tuple[Damage, ...] = ()


def sites(roots: Roots, usual: Usual) -> list[Site]:
    """Give every data root that is there and has Docker's layout, each once."""
    found: dict[KPath, Site] = {}
    for site in _named(roots, usual):
        for data in _with_remapped(os.path.realpath(fsdecode(site.data))):
            key = encode(data)
            if key not in found and has_layout(data):
                containerds = (encode(f"{data}/containerd/daemon"), usual.containerd)
                found[key] = msgspec.structs.replace(site, data=key, containerds=containerds)
    return list(found.values())


def has_layout(data: str) -> bool:
    """Tell whether a directory is a data root of Docker."""
    if not os.path.isdir(f"{data}/containers"):
        return False
    if any(os.path.isdir(f"{data}/{mark}") for mark in _MARKS):
        return True
    return any(
        os.path.isfile(f"{data}/containers/{name}/{record}")
        for name in names_in(f"{data}/containers")
        for record in _RECORDS
    )


def is_remapped(data: str) -> bool:
    """
    Tell whether a data root is that of remapped users: `<uid>.<gid>`, of that group.

    Its owner is root since Docker 20.10, and was the remapped one before.
    """
    name = os.path.basename(data)
    if not _REMAPPED.fullmatch(name):
        return False
    try:
        return os.stat(data).st_gid == int(name.partition(".")[2])
    except OSError:
        return False


def _named(roots: Roots, usual: Usual) -> Iterator[Site]:
    """Give what the user named or, without that, where a daemon has its state."""
    runs = (usual.run, *_runs_of_user(roots.environ))
    for place in roots.places:
        yield Site(data=place.data, runs=(place.run,) if place.run else runs)
    if not roots.looks_everywhere:
        return
    yield from _configured(fsdecode(usual.configuration), usual.data, usual.run)
    user = os.geteuid()
    home = roots.environ.get("HOME", "")
    if user and (home or roots.environ.get("XDG_DATA_HOME")):
        data = roots.environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
        settings = roots.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        (run,) = _runs_of_user(roots.environ)
        yield from _configured(f"{settings}/docker/daemon.json", encode(f"{data}/docker"), run)


def _runs_of_user(environ: Mapping[str, str]) -> tuple[KPath, ...]:
    """Give the exec root of a user who is not root."""
    user = os.geteuid()
    if not user:
        return ()
    return (encode(f"{environ.get('XDG_RUNTIME_DIR') or f'/run/user/{user}'}/docker"),)


def _configured(configuration: str, data: KPath, run: KPath) -> Iterator[Site]:
    """Give the places that a daemon.json names, then those that it takes without."""
    # NixOS and others have it as a link to elsewhere; it is the administrator's, not an engine's.
    path = os.path.realpath(configuration)
    reader = Reader(encode(os.path.dirname(path)))
    daemon = reader.json(path, _Daemon, optional=True) or _Daemon()
    damages = tuple(reader.damages)
    runs = tuple(dict.fromkeys((*_absolute((daemon.exec_root,)), run)))
    for each in (*_absolute((daemon.data_root, daemon.graph)), data):
        yield Site(data=each, runs=runs, damages=damages)


def _absolute(paths: Iterable[str]) -> tuple[KPath, ...]:
    return tuple(encode(each) for each in paths if each.startswith("/"))


def _with_remapped(data: str) -> Iterator[str]:
    """Give a data root, then those of remapped users in it."""
    yield data
    yield from (f"{data}/{name}" for name in names_in(data) if _REMAPPED.fullmatch(name))
