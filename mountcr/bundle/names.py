# SPDX-License-Identifier: Apache-2.0
"""What members of a bundle are called, and which words of a command line name an archive."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

__all__ = [
    "FOREIGN",
    "IMAGES",
    "LAYERS",
    "LAYOUT",
    "MANIFEST",
    "MOUNTS",
    "SIGNATURE",
    "STANDARD",
    "UPPER",
    "Selected",
    "holds_contents",
    "is_archive",
    "is_layout",
    "selected",
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

LAYOUT: Final = "oci-layout"
"""The file that an OCI image layout is told by."""


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

    Who opens it finds out what is in it: a bundle, or a checkpoint of another tool. Other things
    than bundles have a `manifest.json` too.
    """
    if path == STANDARD or selected(path):
        return True
    if os.path.isdir(path):
        return any(os.path.isfile(os.path.join(path, name)) for name in (UPPER, *_OTHERS))
    try:
        with open(path, "rb") as file:
            begin = file.read(64).lstrip()
    except OSError:
        return False
    return bool(begin) and not begin.startswith(b"{")


class Selected(NamedTuple):
    """A layout and which image of it: its name, or its digest; empty for the only one."""

    directory: str
    image: str = ""


def is_layout(path: str) -> bool:
    """Tell whether a directory is an OCI image layout, of whatever images."""
    return os.path.isfile(os.path.join(path, LAYOUT))


def selected(path: str) -> Selected | None:
    """
    Read `DIR`, `DIR:NAME` or `DIR@sha256:…`; None where DIR is no layout.

    What is there by the whole name is that, whatever is in the name.
    """
    if os.path.lexists(path):
        return Selected(path) if is_layout(path) else None
    for number, each in enumerate(path):
        if each in "@:" and number and path[number + 1 :] and is_layout(path[:number]):
            return Selected(path[:number], path[number + 1 :])
    return None
