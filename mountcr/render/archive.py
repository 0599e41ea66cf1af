# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of another tool as an outline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.render.outline import Outline
from mountcr.render.text import printable

if TYPE_CHECKING:
    from mountcr.bundle.foreign import ForeignCheckpoint
    from mountcr.bundle.foreign.checkpoint import RequestedBind

__all__ = ["outline_archive"]


def outline_archive(checkpoint: ForeignCheckpoint) -> Outline:
    """Give what an archive holds in lines, and what of it is not done."""
    name = f" ({checkpoint.name})" if checkpoint.name else ""
    top = Outline(printable(f"{checkpoint.format} checkpoint of {checkpoint.id}{name}"))
    if checkpoint.image:
        identity = checkpoint.image_id or ", ".join(checkpoint.image_digests) or "no id"
        top.add(printable(f"image {checkpoint.image} ({identity})"))
    for word, value in (
        ("runtime", checkpoint.runtime),
        ("created", checkpoint.created),
        ("checkpointed", checkpoint.checkpointed),
        ("hostname", checkpoint.hostname),
        ("control group", checkpoint.cgroup),
        ("images in", checkpoint.images),
        ("difference to the images in", checkpoint.parent),
        ("shared memory in", checkpoint.shm),
        ("log in", checkpoint.log),
    ):
        if value:
            top.add(printable(f"{word} {value}"))
    if checkpoint.rootfs is not None:
        diff = checkpoint.rootfs
        count = f", {len(diff.removed)} removed" if diff.removed else ""
        top.add(printable(f"changes in {diff.member}, a {diff.form}{count}"))
    if checkpoint.image_layers:
        layers = top.add("layers of the image that came along")
        layers.extend(each.diff_id for each in checkpoint.image_layers)
    if checkpoint.binds:
        binds = top.add("mounts from outside: requests")
        binds.extend(printable(_bind(each)) for each in checkpoint.binds)
    for volume in checkpoint.volumes:
        content = f"in {volume.member}" if volume.member else "not in the archive"
        top.add(printable(f"volume {volume.name} at {volume.destination}, {content}"))
    if checkpoint.dropped:
        dropped = top.add("asked for, and not done")
        dropped.extend(printable(f"{each.field}: {each.value}") for each in checkpoint.dropped)
    return top


def _bind(bind: RequestedBind) -> str:
    mode = "" if bind.mode is None else f" {bind.mode:04o}"
    kind = f" ({bind.type}{mode})" if bind.type else ""
    return f"{bind.destination} from {bind.source or '?'}{kind}"
