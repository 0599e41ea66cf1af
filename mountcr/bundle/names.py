# SPDX-License-Identifier: Apache-2.0
"""What members of a bundle are called, and which words of a command line name an archive."""

from __future__ import annotations

import os
from typing import Final

__all__ = [
    "FOREIGN",
    "IMAGES",
    "LAYERS",
    "MANIFEST",
    "MOUNTS",
    "SIGNATURE",
    "STANDARD",
    "UPPER",
    "holds_contents",
    "is_archive",
]

STANDARD: Final = "-"
"""Stands for standard input and output."""

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.json.minisig"
IMAGES: Final = "images"
MOUNTS: Final = "mounts"
LAYERS: Final = "layers"
UPPER: Final = "layers/upper.tar"
FOREIGN: Final = "foreign"


_OTHERS: Final = ("config.dump", "index.json")
"""What tells a directory that an archive of another tool was unpacked into."""

_CONTENTS: Final = ("pages-", "tmpfs-dev-", "ghost-file-")
"""How images are called that hold contents of memory and files (criu.org/Images)."""


def holds_contents(member: str) -> bool:
    """Tell members that come last, because they hold contents, from those that say what is."""
    directory, _, name = member.partition("/")
    return directory == LAYERS or (directory == IMAGES and name.startswith(_CONTENTS))


def is_archive(path: str) -> bool:
    """
    Tell whether a word names an archive: `-`, a file that is no JSON, or a directory with one.

    Who opens it finds out what is in it: a bundle, or a checkpoint of another tool.
    """
    if path == STANDARD:
        return True
    if os.path.isdir(path):
        return any(os.path.isfile(os.path.join(path, name)) for name in (MANIFEST, *_OTHERS))
    try:
        with open(path, "rb") as file:
            begin = file.read(64).lstrip()
    except OSError:
        return False
    return bool(begin) and not begin.startswith(b"{")
