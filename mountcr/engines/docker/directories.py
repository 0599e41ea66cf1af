# SPDX-License-Identifier: Apache-2.0
"""The directories of layers: whether they are there, and below the data root by all their links."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mountcr.paths import encode

if TYPE_CHECKING:
    from mountcr.paths import KPath

__all__ = ["MISSING", "Directories"]

MISSING: Final = "is missing"
"""The complaint of a directory that is not there: what it is called is known all the same."""


class Directories:
    """Looks at directories below a data root, at each once; layers are shared by containers."""

    def __init__(self, root: str) -> None:
        self._root = f"{root.rstrip('/')}/"
        self._seen: dict[str, str] = {}
        self._spelled: dict[str, KPath] = {}

    def complaint(self, path: str) -> str:
        """Say why a directory cannot be used; empty when it can."""
        known = self._seen.get(path)
        if known is None:
            known = self._seen[path] = self._look(path)
        return known

    def spelled(self, path: str) -> KPath:
        """Give a path in mountinfo spelling."""
        known = self._spelled.get(path)
        if known is None:
            known = self._spelled[path] = encode(path)
        return known

    def _look(self, path: str) -> str:
        try:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return MISSING
        except NotADirectoryError:
            return "is no directory"
        except OSError as error:
            return error.strerror or "cannot be opened"
        try:
            where = os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        if where.startswith(self._root):
            return ""
        return f"a symbolic link leads out of the root, to {where}"
