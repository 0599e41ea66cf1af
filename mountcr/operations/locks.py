# SPDX-License-Identifier: Apache-2.0
"""
One at a time: whoever is about to mount a writable layer holds it until that is done.

Afterwards the mount itself tells that the layer is in use. The locks are those of flock(2): they
end with the process that holds them, however that ends.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from mountcr.errors import RefusedError
from mountcr.kernel.locks import is_held_by_others
from mountcr.paths import decode

if TYPE_CHECKING:
    from collections.abc import Generator

    from mountcr.paths import KPath

__all__ = ["held"]


@contextlib.contextmanager
def held(*directories: KPath | None) -> Generator[None]:
    """
    Hold directories for a block; those that are None or not there are left out.

    Raises RefusedError when somebody else holds one. Where the file system has no locks nothing
    is held.
    """
    with contextlib.ExitStack() as stack:
        for directory in directories:
            if directory is None:
                continue
            try:
                fd = os.open(decode(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue  # others say what is wrong with it
            stack.callback(os.close, fd)
            if is_held_by_others(fd):
                msg = f"another mountcr is just restoring or rebuilding from {directory}"
                raise RefusedError(msg, hint="wait until it is done")
        yield
