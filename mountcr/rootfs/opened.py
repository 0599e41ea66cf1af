# SPDX-License-Identifier: Apache-2.0
"""Layers of a host, opened: what a stack of directories shows, without mounting anything."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from mountcr.paths import decode
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.index import with_index
from mountcr.rootfs.tree import Directories, DirectoryTree
from mountcr.rootfs.view import View

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from mountcr.paths import KPath
    from mountcr.stack import StoredLayer

__all__ = ["opened"]


@contextlib.contextmanager
def opened(layers: Iterable[StoredLayer], data: Iterable[KPath] = ()) -> Generator[View]:
    """
    Open layers, top first, and data-only ones for a block, and give what they show.

    Raises OSError naming the directory that cannot be opened, UsageError for an unknown dialect.
    """
    directories = Directories()
    with contextlib.ExitStack() as stack:

        def tree(path: KPath) -> DirectoryTree:
            return stack.enter_context(DirectoryTree(path, directories))

        layers = tuple(layers)
        read = [get_dialect(layer.dialect).layer(tree(layer.path)) for layer in layers]
        view = View(read, [tree(path) for path in data])
        index = layers[0].index if layers else None
        if index and os.path.isdir(decode(index)):
            view = with_index(view, get_dialect(layers[0].dialect).layer(tree(index)))
        yield view
