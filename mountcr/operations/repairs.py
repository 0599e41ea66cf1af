# SPDX-License-Identifier: Apache-2.0
"""Images of a dump that the plan wants put right: files that CRIU was told are external."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mountcr.criu.images import ImageSet
from mountcr.criu.imageset import replace
from mountcr.criu.rewriting import OrdinaryFile, rewrite

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mountcr.criu.images import FileImage
    from mountcr.criu.rewriting import Operation
    from mountcr.paths import KPath

__all__ = ["as_put_right", "put_right"]


def put_right(images: KPath, operations: Sequence[Operation], *, locked: bool = False) -> None:
    """
    Apply the operations of a plan to the images of its dump; done already, it changes nothing.

    `locked` tells that the caller keeps others from working with the images.

    Raises ImageError for a damaged image, and what `mountcr.criu.imageset.replace` raises; the
    images are then as they were.
    """
    changed = rewrite(ImageSet(images), operations).images if operations else {}
    if changed:
        replace(images, {name: each.to_bytes() for name, each in changed.items()}, locked=locked)


def as_put_right(files: Iterable[FileImage], operations: Sequence[Operation]) -> list[FileImage]:
    """Give what images say of files as they say it when the operations were applied."""
    ordinary = {each.key: each for each in operations if isinstance(each, OrdinaryFile)}
    return [_ordinary(file, ordinary.get(file.path)) for file in files]


def _ordinary(file: FileImage, operation: OrdinaryFile | None) -> FileImage:
    if operation is None or not file.external:
        return file
    return msgspec.structs.replace(
        file,
        path=operation.path,
        mnt_id=operation.mnt_id,
        size=operation.size,
        mode=operation.mode,
        external=False,
    )
