# SPDX-License-Identifier: Apache-2.0
"""
Verify: is what a dump needs still what it was?

Layers are compared with the fingerprint that was taken of them, and the files that CRIU's images
name are looked at in the root as a restore would have it. Nothing is changed, nothing stays
mounted.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mountcr import manifest as manifests
from mountcr.bundle.names import holds_contents
from mountcr.bundle.reader import opened
from mountcr.errors import MountcrError, PrivilegeError, VerificationError
from mountcr.model import Record
from mountcr.operations.restore import plan_restore
from mountcr.paths import KPath, decode, encode
from mountcr.planning.choices import Choices
from mountcr.rootfs import fingerprint as fingerprints
from mountcr.rootfs.fingerprint import Extent, Fingerprint, LayerFingerprint
from mountcr.rootfs.verify import Difference, differences
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mountcr.bundle.reader import Reader

__all__ = ["VERIFY_SCHEMA", "VerifyResult", "verify", "verify_bundle"]

VERIFY_SCHEMA: Final = "mountcr/verify/1"

_FILES: Final = frozenset({"M1", "M3", "M5", "M7", "R4", "R5", "R8", "R9", "R10"})
"""Rules about what a restore needs of the host: layers, sources, mountpoints, named files."""


class VerifyResult(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What is not as it was at the dump.

    `fingerprint` is how much of the root file system was recorded, None for nothing of it; `notes`
    say what could not be compared.
    """

    schema: str = VERIFY_SCHEMA
    images: KPath
    fingerprint: Extent | None
    quick: bool
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()


def verify(images: KPath, *, quick: bool = False) -> VerifyResult:
    """
    Compare what lies on this host with what was dumped into `images`; `quick` skips contents.

    Raises NotFoundError or DocumentError for what is no images directory or is damaged,
    PrivilegeError when not root, OSError for what cannot be read.
    """
    manifests.read(images)
    recorded = fingerprints.read(images)
    if os.geteuid() != 0:
        msg = "verifying needs root: layers hold files of any owner, and marks that only root sees"
        raise PrivilegeError(msg, hint="run as root")
    notes: list[str] = []
    found = list(_compare(recorded, quick=quick)) if recorded else []
    if recorded is None:
        notes.append(f"{images} has no fingerprint: only layers and named files are looked at")
    try:
        found += _needs(images, {each.path for each in found})
    except MountcrError as error:
        if not found:
            raise
        notes.append(f"the files that the images name were not looked at: {error.message}")
    return VerifyResult(
        images=images,
        fingerprint=recorded.extent if recorded else None,
        quick=quick,
        differences=tuple(found),
        notes=tuple(notes),
    )


def verify_bundle(
    path: str, *, check: Callable[[Reader], None] = lambda _reader: None, quick: bool = False
) -> VerifyResult:
    """
    Compare the members of a bundle with the digests of its document; nothing is written.

    `quick` reads no contents of memory and layers. `check` sees the bundle first. Raises
    NotFoundError, DocumentError for what is no bundle, RefusedError for an archive that breaks a
    rule, OSError.
    """
    found: list[Difference] = []
    with opened(path) as reader:
        check(reader)
        try:
            for member, content in reader.members():
                if quick and holds_contents(member.name):
                    break
                while content.some():
                    pass
        except VerificationError as error:
            name = error.differences[0].partition(" ")[0]
            found.append(Difference(path=KPath(name), what=error.differences[0]))
    return VerifyResult(
        images=encode(path), fingerprint=None, quick=quick, differences=tuple(found)
    )


def _compare(recorded: Fingerprint, *, quick: bool) -> Iterator[Difference]:
    """Compare the layers; where one is gone, what the others change cannot be said."""
    gone = False
    wanted = (*recorded.layers, *recorded.data)
    for number, layer in enumerate(wanted, 1):
        if not os.path.isdir(decode(layer.path)):
            gone = True
            what = f"layer {number} of {len(wanted)} is gone"
            yield Difference(path=layer.path, what=what)
    if gone:
        return
    yield from differences(
        recorded,
        fingerprints.take(
            [
                StoredLayer(path=each.path, dialect=each.dialect, index=each.index)
                for each in recorded.layers
            ],
            [each.path for each in recorded.data],
            extent=recorded.extent,
            contents=not quick and any(map(_has_contents, wanted)),
        ),
    )


def _has_contents(layer: LayerFingerprint) -> bool:
    return bool(layer.digest)


def _needs(images: KPath, known: set[KPath]) -> Iterator[Difference]:
    """Give what a restore would refuse for what lies on this host; layers are named once."""
    _, plan = plan_restore(images, Choices())
    for each in plan.refusals:
        if each.rule in _FILES and not (each.rule == "M1" and each.mount in known):
            yield Difference(path=KPath(each.mount), what=f"{each.rule}: {each.message}")
