# SPDX-License-Identifier: Apache-2.0
"""
The short names that overlay2 and fuse-overlayfs have for layers: `l/<26 letters>`.

`l/NAME` is a symbolic link to `../<id>/diff`, and `<id>/link` has NAME, so that a lost link can be
found again. `<id>/lower` has the names of all layers below, `l/A:l/B`, uppermost first (moby
daemon/graphdriver/overlay2/overlay.go of v28.5.2).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.engines.docker.layers import is_name

if TYPE_CHECKING:
    from mountcr.engines.docker.directories import Directories
    from mountcr.engines.reading import Reader

__all__ = ["Link", "Links"]

_TARGET: Final = re.compile(r"\.\./([^/]+)/diff/?")


class Link(NamedTuple):
    """
    What a short name stands for.

    `id` is the layer, empty where that is not known, and `complaint` says why. `repaired` is the
    file that told, where the link itself does not.
    """

    id: str
    complaint: str = ""
    repaired: str = ""


class Links:
    """The short names of one graph driver, each resolved once, by their text."""

    def __init__(self, home: str, reader: Reader, directories: Directories) -> None:
        self._home = home
        self._reader = reader
        self._directories = directories
        self._known: dict[str, Link] = {}
        self._names: dict[str, str] | None = None

    def layer(self, link: str) -> Link:
        """Give the layer that `l/NAME` stands for."""
        known = self._known.get(link)
        if known is None:
            known = self._known[link] = self._resolve(link)
        return known

    def _resolve(self, link: str) -> Link:
        folder, _, name = link.partition("/")
        if folder != "l" or not is_name(name):
            return Link("", f"{link!r} is no link to a layer")
        try:
            target = os.readlink(f"{self._home}/{link}")
        except FileNotFoundError:
            complaint = f"{link} is missing"
        except OSError as error:
            complaint = f"{link}: {error.strerror}"
        else:
            match = _TARGET.fullmatch(target)
            if match is None or not is_name(match[1]):
                complaint = f"{link} leads to {target}, which is no layer"
            elif wrong := self._directories.complaint(f"{self._home}/{match[1]}/diff"):
                complaint = f"{link} leads to {target}: {wrong}"
            else:
                return Link(match[1])
        return self._repaired(name, complaint)

    def _repaired(self, name: str, complaint: str) -> Link:
        """Look for the layer whose own file has the name."""
        layer = self._by_name().get(name, "")
        path = f"{self._home}/{layer}"
        if layer and not self._directories.complaint(f"{path}/diff"):
            return Link(layer, repaired=f"{path}/link")
        why = f", and {layer} has no directory" if layer else ", and no layer has that name"
        return Link("", complaint + why)

    def _by_name(self) -> dict[str, str]:
        """Read the files `link` of all layers, once."""
        if self._names is None:
            reader = self._reader
            before, reader.damages = reader.damages, []
            try:
                layers = sorted(os.listdir(self._home))
            except OSError:
                layers = []
            found = (
                (reader.text(f"{self._home}/{each}/link", optional=True), each) for each in layers
            )
            self._names = {name: layer for name, layer in found if name}
            reader.damages = before
        return self._names
