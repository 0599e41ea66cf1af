# SPDX-License-Identifier: Apache-2.0
"""Layers of a host, opened: what a stack shows, without mounting anything."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from mountcr.paths import decode
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.index import with_index
from mountcr.rootfs.tree import Directories, DirectoryTree
from mountcr.rootfs.view import View

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from mountcr.paths import KPath
    from mountcr.rootfs.tar import Findings
    from mountcr.rootfs.tree import Tree
    from mountcr.stack import StoredLayer

__all__ = ["OCI", "is_tar", "opened"]

OCI: Final = "oci"
"""The dialect whose layers may be tars."""


@contextlib.contextmanager
def opened(
    layers: Iterable[StoredLayer],
    data: Iterable[KPath] = (),
    *,
    archives: dict[KPath, Findings] | None = None,
) -> Generator[View]:
    """
    Open layers, top first, and data-only ones for a block, and give what they show.

    A layer in the dialect `oci` may be a tar, and what is worth knowing of that goes into
    `archives`. Raises OSError naming the directory that cannot be
    opened, UsageError for an unknown dialect, RefusedError for a tar that is not as it may be.
    """
    directories = Directories()
    with contextlib.ExitStack() as stack:
        layers = tuple(layers)
        below = View((), [stack.enter_context(DirectoryTree(path, directories)) for path in data])
        for layer in reversed(layers):  # a tar may name files of those below it
            tree: Tree
            if is_tar(layer):
                from mountcr.rootfs.tar import TarTree  # what most stacks have no use for

                tar = TarTree(layer.path, below if below.layers else None)
                tree = stack.enter_context(tar)
                if archives is not None:
                    archives[layer.path] = tar.found
            else:
                tree = stack.enter_context(DirectoryTree(layer.path, directories))
            below = View((get_dialect(layer.dialect).layer(tree), *below.layers), below.data)
        view = below
        index = layers[0].index if layers else None
        if index and os.path.isdir(decode(index)):
            tree = stack.enter_context(DirectoryTree(index, directories))
            view = with_index(view, get_dialect(layers[0].dialect).layer(tree))
        yield view


def is_tar(layer: StoredLayer) -> bool:
    """Tell whether a layer is a tar: one in the dialect of OCI images may be."""
    return layer.dialect == OCI and os.path.isfile(decode(layer.path))
