# SPDX-License-Identifier: Apache-2.0
"""
Checkpoint archives of other tools, read from a directory that they were unpacked into.

They are told by what is in them, whatever they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.bundle.foreign import containerd, crio, podman
from mountcr.bundle.foreign.checkpoint import ForeignCheckpoint, Format
from mountcr.bundle.foreign.unpacked import Unpacked
from mountcr.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ForeignCheckpoint", "Format", "Unpacked", "read_checkpoint", "recognise"]

_MARKS: Final[tuple[tuple[Format, Callable[[Unpacked], bool]], ...]] = (
    (Format.CONTAINERD_CRI, containerd.is_cri),
    (Format.PODMAN, podman.is_podman),
    (Format.CRIO, crio.is_crio),
    (Format.CONTAINERD_IMAGE, containerd.is_checkpoint_image),
)

_READERS: Final[dict[Format, Callable[[Unpacked], ForeignCheckpoint]]] = {
    Format.CONTAINERD_CRI: containerd.read_cri,
    Format.PODMAN: podman.read,
    Format.CRIO: crio.read,
    Format.CONTAINERD_IMAGE: containerd.read_image,
}


def recognise(archive: Unpacked) -> Format | None:
    """
    Tell whose archive it is; None if it is none that mountcr knows.

    Raises DocumentError naming the member where the one that would tell is damaged.
    """
    return next((name for name, is_it in _MARKS if is_it(archive)), None)


def read_checkpoint(archive: Unpacked) -> ForeignCheckpoint:
    """
    Read an archive of another tool.

    Raises DocumentError where it is none that mountcr knows, or naming the member and the field
    that are not as they must be.
    """
    found = recognise(archive)
    if found is None:
        what = f"{archive.archive} is no checkpoint of podman, CRI-O, the kubelet or containerd"
        msg = f"{what} (rule: document)"
        hint = "those hold config.dump and spec.dump, or index.json of a checkpoint image"
        raise DocumentError(msg, hint=hint)
    return _READERS[found](archive)
