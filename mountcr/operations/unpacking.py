# SPDX-License-Identifier: Apache-2.0
"""
Archives of other tools, unpacked into a directory that nobody else sees, for as long as needed.

What is in them is spread over members that have to be known together, so they cannot be read in
one go as a bundle can.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import paths
from mountcr.bundle.foreign import Unpacked, podman, read_checkpoint, recognise
from mountcr.bundle.foreign.containerd import INDEX
from mountcr.bundle.foreign.dumped import facts_of
from mountcr.bundle.images import has_checkpoint
from mountcr.bundle.limits import Limits
from mountcr.bundle.members import Members, save
from mountcr.bundle.names import IMAGES, selected
from mountcr.bundle.reader import opened_members
from mountcr.bundle.stream import Stream
from mountcr.errors import DocumentError
from mountcr.operations.packing import scratch_directory
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Generator

    from mountcr.bundle.foreign import ForeignCheckpoint
    from mountcr.bundle.members import Content
    from mountcr.model import Facts
    from mountcr.paths import KPath

__all__ = ["foreign_facts", "images_of", "is_unpacked", "opened_archive", "unpacked"]

_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PAGES: Final = ("checkpoint/pages-", "checkpoint/tmpfs-", "pre-checkpoint/")
_DESCRIPTORS: Final = "descriptors.json"
_SMALL: Final = 64 << 10


def is_unpacked(path: str) -> bool:
    """
    Tell whether a directory is an archive of another tool that somebody has unpacked.

    One whose members are in a layer of an image is not.

    Raises DocumentError for one that is damaged.
    """
    if not os.path.isdir(path):
        return False
    if (layout := selected(path)) and has_checkpoint(layout):
        return False
    return any(os.path.isfile(os.path.join(path, name)) for name in (podman.CONFIG, INDEX))


def foreign_facts(path: str) -> Facts:
    """Give the facts of a checkpoint of another tool; raises as `unpacked` and `images_of` do."""
    with (
        opened_archive(path, contents=False) as (archive, checkpoint),
        scratch_directory("facts") as scratch,
    ):
        return facts_of(*images_of(archive, checkpoint, scratch))


@contextlib.contextmanager
def opened_archive(
    path: str, *, contents: bool = True
) -> Generator[tuple[Unpacked, ForeignCheckpoint]]:
    """Unpack an archive as `unpacked` does, and read what it says."""
    with unpacked(path, contents=contents) as archive:
        yield archive, read_checkpoint(archive)


@contextlib.contextmanager
def unpacked(path: str, *, contents: bool = True) -> Generator[Unpacked]:
    """
    Unpack an archive for a block; one that is unpacked is taken as it is.

    Without `contents`, what is in memory and in files is left out. Raises NotFoundError,
    RefusedError for an archive that breaks a rule, DocumentError for one of nobody, OSError.
    """
    if is_unpacked(path):
        yield Unpacked(encode(os.path.abspath(path)), encode(path))
        return
    with scratch_directory("archive") as scratch:
        top = os.fsdecode(paths.decode(scratch))
        left_out: dict[str, int] = {}
        with opened_members(path) as (_, members):
            for member, content in members:
                if not contents and _holds_contents(member.name):
                    left_out[member.name] = member.size
                    continue
                target = os.path.join(top, member.name)
                os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
                _write(target, content)
        archive = Unpacked(scratch, encode(path), left_out)
        if recognise(archive) is None:
            msg = f"{encode(path)} is neither a bundle nor a checkpoint of another tool"
            hint = "it may be of podman, CRI-O, the kubelet or containerd, or made by `export`"
            raise DocumentError(msg, hint=hint)
        yield archive


def _holds_contents(name: str) -> bool:
    """Tell members that only a restore needs."""
    inner = name.startswith("volumes/") or name in {podman.DIFF, podman.SHM}
    return inner or name.startswith(_PAGES)


def _write(target: str, content: Content) -> None:
    save(content, os.open(target, _WRITE, 0o600))


def images_of(
    archive: Unpacked, checkpoint: ForeignCheckpoint, scratch: KPath
) -> tuple[ForeignCheckpoint, KPath]:
    """
    Give the directory with CRIU's images, and the checkpoint with what only that says.

    Images in a tar are unpacked into a directory below `scratch`. Raises DocumentError where there
    are none, RefusedError for a tar that breaks a rule.
    """
    if checkpoint.images is None:
        raise archive.wrong(podman.CHECKPOINT, "is missing: the archive has no images of CRIU")
    if not checkpoint.images_in_tar:
        return checkpoint, paths.join(archive.directory, checkpoint.images)
    directory = paths.join(scratch, IMAGES)
    top = os.fsdecode(paths.decode(directory))
    os.mkdir(top, 0o700)
    limits = Limits()
    with open(archive.open(checkpoint.images), "rb", buffering=0) as file:
        shown = f"{archive.archive}: {checkpoint.images}"
        for member, content in Members(Stream(file, shown, limits), limits):
            if "/" in member.name:
                raise archive.wrong(checkpoint.images, f"holds {encode(member.name)}, no image")
            _write(os.path.join(top, member.name), content)
    inner = Unpacked(directory, archive.archive)
    streams = inner.list_of(_DESCRIPTORS, str) if inner.has(_DESCRIPTORS) else ()
    return msgspec.structs.replace(checkpoint, standard_streams=streams), directory
