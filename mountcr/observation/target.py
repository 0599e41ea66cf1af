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
from mountcr.observation.elsewhere import unions_elsewhere
from mountcr.observation.files import look, path_stat
from mountcr.observation.named import digest, open_beneath
from mountcr.paths import KPath, decode, relative_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mountcr.model import Host, PathStat, Stack
    from mountcr.planning.files import NamedFile
    from mountcr.planning.records import External
    from mountcr.planning.steps import Step

__all__ = ["observe_target"]


def observe_target(
    host: Host,
    stack: Stack,
    view: Sequence[Step],
    *,
    at: KPath,
    externals: Iterable[External],
    mountpoints: Iterable[KPath],
    files: Iterable[NamedFile],
) -> Target:
    """
    Look at everything a restore depends on.

    `view` are the steps that show the root read-only at `at`. Where a layer is gone, nothing in
    the root is looked at. Raises PrivilegeError without CAP_SYS_ADMIN.
    """
    wanted = stack.directories + stack.data
    layers = {layer: look(decode(layer), follow=True) for layer in wanted}
    sources = {
        each.source: look(decode(each.source), follow=True) for each in externals if each.source
    }
    target = Target(host=host, elsewhere=unions_elsewhere(), layers=layers, sources=sources)
    if not all(layers.values()):
        return target
    by_mountpoint = {each.mountpoint: each for each in externals}
    places, found = in_private_namespace(
        lambda: _look_inside(view, at, tuple(mountpoints), tuple(files), by_mountpoint)
    )
    return msgspec.structs.replace(target, mountpoints=places, files=found)


def _look_inside(
    view: Sequence[Step],
    at: KPath,
    mountpoints: Sequence[KPath],
    files: Sequence[NamedFile],
    externals: Mapping[KPath, External],
) -> tuple[dict[KPath, PathStat | None], tuple[TargetFile, ...]]:
    os.makedirs(decode(at), exist_ok=True)
    with applied(view, LiveKernel()):
        root = os.open(decode(at), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            places = {path: look(decode(path).lstrip(b"/"), dir_fd=root) for path in mountpoints}
            return places, tuple(_file(root, file, externals) for file in files)
        finally:
            os.close(root)


def _file(root: int, file: NamedFile, externals: Mapping[KPath, External]) -> TargetFile:
    """Look at a file in the root, or in what the external it lay on comes from."""
    external = externals.get(file.mountpoint)
    try:
        if external is None:
            fd = open_beneath(root, file.path)
        elif external.source is None:
            return TargetFile(path=file.path)
        else:
            fd = _open_external(external.source, relative_to(file.path, file.mountpoint))
    except (FileNotFoundError, NotADirectoryError):
        return TargetFile(path=file.path)
    except OSError as error:
        msg = f"{file.path} cannot be looked at: {error.strerror}"
        raise MountcrError(msg, hint="CRIU could not open it either") from error
    try:
        found = path_stat(os.fstat(fd))
        return TargetFile(path=file.path, stat=found, digest=digest(fd) if file.digest else "")
    finally:
        os.close(fd)


def _open_external(source: KPath, below: str) -> int:
    if not below:
        return os.open(decode(source), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    root = os.open(decode(source), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(root, KPath(below))
    finally:
        os.close(root)
