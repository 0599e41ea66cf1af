# SPDX-License-Identifier: Apache-2.0
"""
A directory of layers as Docker and containers/storage have it for overlays: `<home>/<id>`.

`<id>/diff` has the content of a layer, `diff1` and so on more of it, each below the one before.
`l/NAME` is a symbolic link to `../<id>/diff`; the short name NAME stands in `<id>/link` too, from
which containers/storage makes lost links again. `<id>/lower` has the short names of all layers
below, `l/A:l/B`, and `<id>/lower-layers` their ids, both top first (moby
daemon/graphdriver/overlay2 of v28.5.2, which has neither `diff1` nor `lower-layers`; container-libs
storage/drivers/overlay/overlay.go: `get()`, `dir2()`, `recreateSymlinks()`).

Links are read by their text, and never followed. Whether a layer is there, and may be used, is for
those to say who ask.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "LINKS",
    "Lowers",
    "ShortNames",
    "is_name",
    "layer_of",
    "more_diffs",
    "recorded_lowers",
    "short_name",
]

LINKS: Final = "l"
"""The directory of the short names, beside those of the layers."""

_TARGET: Final = re.compile(r"\.\./([^/]+)/diff/?")
_SIZE_LIMIT: Final = 256
"""Of a file with one short name, which has 26 letters."""


def is_name(word: str) -> bool:
    """Tell whether a recorded id can be the name of a directory, and leads nowhere else."""
    return bool(word) and "/" not in word and "\0" not in word and word not in {".", ".."}


def short_name(word: str) -> str:
    """Give NAME of `l/NAME`; empty for anything else."""
    directory, _, name = word.partition("/")
    return name if directory == LINKS and is_name(name) else ""


def layer_of(target: str) -> str:
    """Give the id in `../<id>/diff`, which a short name leads to; empty for anything else."""
    match = _TARGET.fullmatch(target)
    return match[1] if match and is_name(match[1]) else ""


def _word(file: str) -> str:
    """Read a file of one short name, which is no link; empty if there is none."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return os.fsdecode(os.read(fd, _SIZE_LIMIT)).strip()
    except OSError:
        return ""
    finally:
        os.close(fd)
    return ""


class ShortNames:
    """
    The short names of one directory of layers.

    `read` gives the word in a file `link`, empty if there is none. Those of all layers are read
    once, when the first link is lost.
    """

    def __init__(self, home: str, read: Callable[[str], str] = _word) -> None:
        self.home = home
        self._read = read
        self._layers: dict[str, str] | None = None

    def target(self, name: str) -> str:
        """Give the text of a link, which is relative to the directory of links. Raises OSError."""
        return os.readlink(f"{self.home}/{LINKS}/{name}")

    def repaired(self, name: str) -> str:
        """Give the layer whose file `link` has a short name, the first one; empty if none has."""
        if self._layers is None:
            self._layers = {}
            for layer in _listed(self.home):
                word = self._read(f"{self.home}/{layer}/link")
                if word:
                    self._layers.setdefault(word, layer)
        return self._layers.get(name, "")


def _listed(home: str) -> list[str]:
    try:
        return sorted(os.listdir(home))
    except OSError:
        return []


class Lowers(NamedTuple):
    """
    What is recorded of the layers below another, top first, with colons between.

    `text` is None where `file`, the last that was looked for, tells nothing; `short` says that it
    has short names, as `l/NAME`, and no ids.
    """

    file: str
    text: str | None
    short: bool


def recorded_lowers(layer: str, read: Callable[[str], str | None]) -> Lowers:
    """
    Read which layers are below one; the file of ids counts before that of short names.

    `read` gives the text of a file without its newline, None if that tells nothing.
    """
    file = f"{layer}/lower-layers"
    ids = read(file)
    if ids is not None:
        return Lowers(file, ids, short=False)
    file = f"{layer}/lower"
    return Lowers(file, read(file), short=True)


def more_diffs(layer: str, is_directory: Callable[[str], bool] = os.path.isdir) -> list[str]:
    """Give what a layer has beside its `diff`, in the order in which it is below that."""
    found: list[str] = []
    while is_directory(more := f"{layer}/diff{len(found) + 1}"):
        found.append(more)
    return found
