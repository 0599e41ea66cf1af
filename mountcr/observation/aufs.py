# SPDX-License-Identifier: Apache-2.0
"""
The branches of AUFS mounts: what sysfs tells, else what Docker wrote down.

/sys/fs/aufs/si_<hex> is there as long as the file system is mounted; <hex> is its `si=` in
mountinfo. Without sysfs, or without `brs` in it, Docker's files tell: `<root>/aufs/layers/<id>` for
what is mounted at `<root>/aufs/mnt/<id>`, one parent a line, the nearest first.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.paths import KPath, decode, encode, from_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mountcr.model import Mount

__all__ = ["branches_in_sysfs", "with_branches", "with_branches_of_all"]

_SYSFS: Final = "/sys/fs/aufs"

_SI: Final = re.compile(r"(?:^|,)si=([0-9a-f]+)")
_NUMBERED: Final = re.compile(r"br([0-9]+)")
_DOCKER: Final = re.compile(r"(?P<root>.*)/aufs/mnt/(?P<id>[^/]+)", re.DOTALL)


def with_branches_of_all(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """Give mounts with the branches of those that are AUFS; others as they are."""
    return tuple(with_branches(each) if each.fstype == "aufs" else each for each in mounts)


def with_branches(mount: Mount) -> Mount:
    """
    Give an AUFS mount with its branches.

    It has none where nobody tells them, or where its options do. Nothing is raised.
    """
    found = _SI.search(mount.super_options)
    branches = branches_in_sysfs(_read(f"{_SYSFS}/si_{found[1]}")) if found else ()
    told = ",br:" in mount.super_options or any(each.startswith("/") for each in branches)
    if not told:
        branches += _docker(mount.mountpoint)
    return msgspec.structs.replace(mount, branches=branches) if branches else mount


def branches_in_sysfs(files: Mapping[str, bytes]) -> tuple[KPath, ...]:
    """
    Give the branches by the content of the files br<N> in the order of their numbers.

    br10 comes behind br9. The last one is `xino=PATH` where there is a file xi_path. Where a number
    is missing there are no branches at all, rather than a union without one of its layers.
    """
    numbered = {int(match[1]): match[0] for each in files if (match := _NUMBERED.fullmatch(each))}
    branches = [from_line(files[numbered[each]].removesuffix(b"\n")) for each in sorted(numbered)]
    if sorted(numbered) != list(range(len(numbered))):
        return ()
    xino = files.get("xi_path", b"").removesuffix(b"\n")
    return (*branches, *((KPath(f"xino={from_line(xino)}"),) if xino else ()))


def _read(directory: str) -> dict[str, bytes]:
    """
    Read the files of a superblock; nothing where one of them cannot be read.

    AUFS answers EBUSY while it is remounted (fs/aufs/sysfs.c, `sysaufs_si_show()`).
    """
    files: dict[str, bytes] = {}
    try:
        for name in os.listdir(directory):
            if _NUMBERED.fullmatch(name) or name == "xi_path":
                with open(f"{directory}/{name}", "rb") as file:
                    files[name] = file.read()
    except OSError:
        return {}
    return files


def _docker(mountpoint: KPath) -> tuple[KPath, ...]:
    """Give the branches by Docker's files, and `layers=FILE`, the file that told."""
    place = _DOCKER.fullmatch(mountpoint)
    if place is None:
        return ()
    root, own = place["root"], place["id"]
    told = KPath(f"{root}/aufs/layers/{own}")
    try:
        with open(decode(told), "rb") as file:
            parents = [encode(line) for line in file.read().split(b"\n") if line]
    except OSError:
        return ()
    lowers = (KPath(f"{root}/aufs/diff/{each}=ro+wh") for each in parents)
    return (KPath(f"{root}/aufs/diff/{own}=rw"), *lowers, KPath(f"layers={told}"))
