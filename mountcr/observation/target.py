# SPDX-License-Identifier: Apache-2.0
"""
The host of a restore: are the layers and sources there, and is in the root what was in it?

The root is looked at through a read-only merge in a private mount namespace, so that looking
changes neither the host's mount table nor the writable layer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from mountcr.errors import MountcrError
from mountcr.execute import applied
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.private import in_private_namespace
from mountcr.model import Target, TargetFile
from mountcr.observation.elf import build_id
from mountcr.observation.elsewhere import unions_elsewhere
from mountcr.observation.named import digest, open_beneath
from mountcr.observation.stats import look, path_stat
from mountcr.paths import KPath, decode
from mountcr.planning.unions import directories_on_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mountcr.model import Host, PathStat, Stack
    from mountcr.planning.files import NamedFile
    from mountcr.planning.records import External
    from mountcr.planning.steps import Step
    from mountcr.planning.whereabouts import Place

__all__ = ["observe_target"]


def observe_target(
    host: Host,
    stack: Stack,
    view: Sequence[Step],
    *,
    at: KPath,
    externals: Iterable[External],
    mountpoints: Iterable[KPath],
    files: Iterable[tuple[NamedFile, Place | None]],
) -> Target:
    """
    Look at everything a restore depends on.

    `view` are the steps that show the root, and the overlays in it, read-only, the root at `at`.
    `files` come with where they lie then. Where a layer is gone, nothing in the root is looked at.
    Raises PrivilegeError without CAP_SYS_ADMIN.
    """
    externals = tuple(externals)
    unions = (path for each in externals for path in directories_on_host(each))
    wanted = (*stack.directories, *stack.data, *unions)
    layers = {layer: look(decode(layer), follow=True) for layer in wanted}
    sources = {
        each.source: look(decode(each.source), follow=True) for each in externals if each.source
    }
    target = Target(host=host, elsewhere=unions_elsewhere(), layers=layers, sources=sources)
    if not all(layers.values()):
        return target
    places, found = in_private_namespace(
        lambda: _look_inside(view, at, tuple(mountpoints), tuple(files))
    )
    return msgspec.structs.replace(target, mountpoints=places, files=found)


def _look_inside(
    view: Sequence[Step],
    at: KPath,
    mountpoints: Sequence[KPath],
    files: Sequence[tuple[NamedFile, Place | None]],
) -> tuple[dict[KPath, PathStat | None], tuple[TargetFile, ...]]:
    os.makedirs(decode(at), exist_ok=True)
    with applied(view, LiveKernel()):
        root = os.open(decode(at), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            places = {path: look(decode(path).lstrip(b"/"), dir_fd=root) for path in mountpoints}
        finally:
            os.close(root)
        return places, tuple(_file(file, place) for file, place in files)


def _file(file: NamedFile, place: Place | None) -> TargetFile:
    """Look at a file in the root, or in what the external it lay on comes from."""
    if place is None:
        return TargetFile(path=file.path)
    try:
        fd = _open(place)
    except (FileNotFoundError, NotADirectoryError):
        return TargetFile(path=file.path)
    except OSError as error:
        msg = f"{file.path} cannot be looked at: {error.strerror}"
        raise MountcrError(msg, hint="CRIU could not open it either") from error
    try:
        return TargetFile(
            path=file.path,
            stat=path_stat(os.fstat(fd)),
            digest=digest(fd) if file.digest else "",
            build_id=build_id(fd) if file.build_id else "",
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
        return open_beneath(root, KPath(place.below))
    finally:
        os.close(root)
