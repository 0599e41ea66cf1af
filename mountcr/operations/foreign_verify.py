# SPDX-License-Identifier: Apache-2.0
"""
Verify a checkpoint of another tool: is it whole, and has it all that its container had?

Such archives have no digests but for the blobs of an OCI layout, so that damage is looked for where
it shows: in images that are cut off, in tars that are none. What was never put in is only known
where the container is still on this host.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final

from mountcr.bundle.foreign.losses import find_losses
from mountcr.bundle.foreign.rootfs import opened_layer
from mountcr.criu.images import find_damage
from mountcr.engines import find
from mountcr.engines.roots import Roots
from mountcr.errors import (
    AmbiguousError,
    DocumentError,
    NotFoundError,
    PrivilegeError,
    RefusedError,
)
from mountcr.operations.packing import scratch_directory
from mountcr.operations.unpacking import images_of, opened_archive
from mountcr.operations.verify import VerifyResult
from mountcr.paths import KPath, encode, name
from mountcr.rootfs.verify import Difference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.bundle.foreign import ForeignCheckpoint, Unpacked
    from mountcr.model import Container

__all__ = ["verify_foreign"]

_BLOBS: Final = "blobs/sha256"
_PIECE: Final = 1 << 20


def verify_foreign(path: str, *, roots: Roots | None = None, quick: bool = False) -> VerifyResult:
    """
    Say what of an archive is damaged, and what it does not have of a container that is here.

    With `quick` no contents are compared. Raises NotFoundError, DocumentError for what is no such
    archive, RefusedError for one that breaks a rule, PrivilegeError when not root, OSError.
    """
    if os.geteuid() != 0:
        msg = "verifying needs root: files of the container have other owners"
        raise PrivilegeError(msg, hint="run as root; `mountcr inspect` works without")
    notes: list[str] = []
    with opened_archive(path) as (archive, checkpoint), scratch_directory("verify") as scratch:
        found = [*_damages(archive, checkpoint, scratch)]
        notes += (f"not done: {each.field}: {each.value}" for each in checkpoint.dropped)
        if not found:
            container = _container(checkpoint, roots or Roots.of_host())
            if container is None or container.stack is None:
                notes.append(
                    f"{checkpoint.engine}:{checkpoint.id[:12]} is not on this host, or its layers "
                    "are not known: what the archive lacks of it cannot be said"
                )
            else:
                try:
                    stack = container.stack
                    found += find_losses(checkpoint, archive, stack, contents=not quick)
                except RefusedError as error:
                    notes.append(f"what the archive lacks cannot be said: {error.message}")
    return VerifyResult(
        images=encode(path),
        fingerprint=None,
        quick=quick,
        differences=tuple(found),
        notes=tuple(notes),
    )


def _damages(
    archive: Unpacked, checkpoint: ForeignCheckpoint, scratch: KPath
) -> Iterator[Difference]:
    for blob in archive.names(_BLOBS):
        member = f"{_BLOBS}/{blob}"
        if _digest(archive, member) != blob:
            yield Difference(path=encode(member), what="is not what its digest says")
    try:
        _, images = images_of(archive, checkpoint, scratch)
        damage = find_damage(images)
        if damage is not None:
            yield Difference(path=KPath(name(KPath(damage.file))), what=damage.message)
    except (DocumentError, RefusedError) as error:
        yield Difference(path=checkpoint.images or KPath("checkpoint"), what=error.message)
    if checkpoint.rootfs is not None:
        try:
            with opened_layer(checkpoint.rootfs, archive):
                pass
        except (DocumentError, RefusedError) as error:
            yield Difference(path=checkpoint.rootfs.member, what=error.message)


def _digest(archive: Unpacked, member: str) -> str:
    found = hashlib.sha256()
    with open(archive.open(member), "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def _container(checkpoint: ForeignCheckpoint, roots: Roots) -> Container | None:
    """Find the container on this host; None if it is not here any more."""
    try:
        return find(f"{checkpoint.engine}:{checkpoint.id}", roots=roots)
    except (NotFoundError, AmbiguousError):
        return None
