# SPDX-License-Identifier: Apache-2.0
"""
The host of a restore: are the layers and sources there, and is in the root what was in it?

The root is looked at through its layers, without mounting it, so that looking changes neither the
host's mount table nor the writable layer, and works on a kernel that cannot mount such a root.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec

from mountcr import devices
from mountcr.driver import get_driver
from mountcr.errors import MountcrError
from mountcr.execute import applied
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.private import in_private_namespace
from mountcr.kernel.programs import written_dialect
from mountcr.model import PathStat
from mountcr.observation.elf import build_id
from mountcr.observation.elsewhere import unions_elsewhere
from mountcr.observation.holders import holders_of
from mountcr.observation.named import digest, open_file
from mountcr.observation.stats import look, path_stat
from mountcr.observation.survey import survey
from mountcr.paths import KPath, decode, encode
from mountcr.planning.unions import directories_on_host
from mountcr.rootfs.inode import TYPE_BITS
from mountcr.rootfs.opened import opened
from mountcr.target import Survey, Target, TargetFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mountcr.model import Host
    from mountcr.planning.files import NamedFile
    from mountcr.planning.records import External
    from mountcr.planning.steps import Step
    from mountcr.planning.whereabouts import Place
    from mountcr.rootfs.inode import Inode
    from mountcr.rootfs.view import View
    from mountcr.stack import Stack

__all__ = ["observe_target"]


def observe_target(
    host: Host,
    stack: Stack,
    unions: Sequence[Step],
    *,
    at: KPath,
    driver: tuple[str, KPath] | None,
    externals: Iterable[External],
    mountpoints: Iterable[KPath],
    files: Iterable[tuple[NamedFile, Place | None]],
    requests: Iterable[KPath] = (),
) -> Target:
    """
    Look at everything a restore depends on.

    `unions` are the steps that show the overlays of the container, read-only, and the root at `at`
    if any of them lies in it. `files` come with where they lie when the root is at `at`. `driver`
    is the one that the root shall come back on, and where its new writable layer will be, if it
    does not go on with its own. `requests` are paths whose symbolic links are followed. Where a
    layer is gone, nothing in the root is looked at. Raises PrivilegeError without CAP_SYS_ADMIN.
    """
    externals = tuple(externals)
    inside = (path for each in externals for path in directories_on_host(each))
    wanted = (*stack.directories, *stack.data, *inside)
    layers = {layer: look(decode(layer), follow=True) for layer in wanted}
    real = {path: encode(os.path.realpath(decode(path))) for path in requests}
    sources = {
        path: look(decode(path), follow=True)
        for path in (*(each.source for each in externals if each.source), *real.values())
    }
    elsewhere = unions_elsewhere()
    target = Target(
        host=host,
        elsewhere=elsewhere,
        holders=holders_of(stack, host.mounts, elsewhere),
        layers=layers,
        sources=sources,
        real=real,
    )
    if not all(layers.values()):
        return target
    with opened(get_driver(stack.driver).layers(stack), stack.data) as root:
        places = {path: _stat(root.inode(_relative(path))) for path in mountpoints}
        in_root, others = _split(files, at)
        found = [_file(file, _root_file(root, path)) for file, path in in_root]
    if others:
        found += in_private_namespace(lambda: _look_elsewhere(unions, at, others))
    return msgspec.structs.replace(
        target,
        upper=look(decode(driver[1])) if driver else None,
        survey=survey(stack, *driver) if driver else Survey(dialect=written_dialect(stack.driver)),
        mountpoints=places,
        files=tuple(found),
    )


def _relative(path: str) -> bytes:
    return decode(KPath(path)).strip(b"/")


def _split(
    files: Iterable[tuple[NamedFile, Place | None]], at: KPath
) -> tuple[list[tuple[NamedFile, bytes]], list[tuple[NamedFile, Place | None]]]:
    """Tell the files of the root, with their paths in it, from the others."""
    in_root: list[tuple[NamedFile, bytes]] = []
    others: list[tuple[NamedFile, Place | None]] = []
    for file, place in files:
        if place and place.base == at:
            in_root.append((file, _relative(place.below)))
        else:
            others.append((file, place))
    return in_root, others


def _stat(inode: Inode | None) -> PathStat | None:
    """Say of an inode of the root what stat(2) says."""
    if inode is None:
        return None
    dev, ino = inode.identity
    return PathStat(
        dev=devices.of_stat(dev),
        ino=ino,
        mode=inode.mode | TYPE_BITS[inode.type],
        nlink=inode.nlink,
        size=inode.size,
        rdev=inode.rdev,
        type=inode.type,
    )


def _root_file(root: View, path: bytes) -> tuple[PathStat, int] | None:
    """Give what a file of the root is, and open it if it is a regular one; -1 if not."""
    inode = root.inode(path)
    found = _stat(inode)
    if inode is None or found is None:
        return None
    return found, root.content(path).fd if inode.is_file else -1


def _look_elsewhere(
    unions: Sequence[Step], at: KPath, files: Iterable[tuple[NamedFile, Place | None]]
) -> list[TargetFile]:
    os.makedirs(decode(at), exist_ok=True)
    with applied(unions, LiveKernel()):
        return [_file(file, _outside(file, place)) for file, place in files]


def _outside(file: NamedFile, place: Place | None) -> tuple[PathStat, int] | None:
    """Open a file that lies in what an external comes from, and say what it is."""
    if place is None:
        return None
    try:
        fd = _open(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        msg = f"{file.path} cannot be looked at: {error.strerror}"
        raise MountcrError(msg, hint="CRIU could not open it either") from error
    return path_stat(os.fstat(fd)), fd


def _file(file: NamedFile, found: tuple[PathStat, int] | None) -> TargetFile:
    """Look at a file and its content; closes the descriptor."""
    if found is None:
        return TargetFile(path=file.path)
    now, fd = found
    if fd < 0:
        return TargetFile(path=file.path, stat=now)
    try:
        regular = stat.S_ISREG(now.mode)
        return TargetFile(
            path=file.path,
            stat=now,
            digest=digest(fd) if file.digest and regular else "",
            build_id=build_id(fd) if file.build_id and regular else "",
        )
    finally:
        os.close(fd)


def _open(place: Place) -> int:
    """Open a file as it is seen from the base of its place, for reading."""
    if not place.below:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(decode(place.base), flags)
    root = os.open(decode(place.base), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_file(root, KPath(place.below))
    finally:
        os.close(root)
