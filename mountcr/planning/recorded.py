# SPDX-License-Identifier: Apache-2.0
"""
What an engine recorded of a root file system, against what the mount table of its task says.

While a container runs, what is mounted is what its files come from; the record tells where the
mount table cannot: a FUSE shows no layers, and names relative to a directory say little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.paths import KPath
    from mountcr.stack import Stack

__all__ = ["disagreement", "settled"]


def settled(told: Stack | None, recorded: Stack | None) -> Stack | None:
    """
    Give the stack of a running container, from the mount table where that tells all of it.

    Where both say the same, both stand in its provenance.
    """
    if told is None or recorded is None:
        return told or recorded
    if not _is_whole(told):
        return msgspec.structs.replace(recorded, options=told.options or recorded.options)
    if disagreement(told, recorded):
        return told
    return msgspec.structs.replace(
        told,
        lowers=recorded.lowers if _has_short_names(told) else told.lowers,
        provenance=tuple(dict.fromkeys((*told.provenance, *recorded.provenance))),
    )


def disagreement(told: Stack, recorded: Stack) -> str:
    """
    Say both sides where mount table and record are not of the same stack; empty where they are.

    Short names, which lead to the layers, are taken for them if there are as many.
    """
    if not _is_whole(told):
        return ""
    for left, right in _compared(told, recorded):
        if left != right:
            return f"the mount table says {left}, the engine's record {right}"
    return ""


def _compared(told: Stack, recorded: Stack) -> Iterator[tuple[str, str]]:
    """Give what has to be the same, in words, the most telling first."""
    yield f"a root on {told.driver}", f"a root on {recorded.driver}"
    yield f"upper {told.upper}", f"upper {recorded.upper}"
    yield f"{len(told.lowers)} lower layers", f"{len(recorded.lowers)} lower layers"
    if not _has_short_names(told):
        for number, pair in enumerate(zip(told.lowers, recorded.lowers, strict=True), 1):
            yield f"lower {number} {pair[0]}", f"lower {number} {pair[1]}"


def _is_whole(stack: Stack) -> bool:
    """Tell whether every layer is an absolute path."""
    return all(each.startswith("/") for each in (*stack.directories, *stack.data))


def _has_short_names(stack: Stack) -> bool:
    return any(map(_is_short, stack.lowers))


def _is_short(layer: KPath) -> bool:
    """Tell a name below the directory `l` of Docker and containers/storage."""
    return layer.rpartition("/")[0].endswith("/l")
