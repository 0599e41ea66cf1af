# SPDX-License-Identifier: Apache-2.0
"""
The short names that overlay2 and fuse-overlayfs have for layers: `l/<26 letters>`.

A layer is usable if its directory is below the data root by all its links; one without content is
known all the same. A link that leads to none is read from the file `link` of the layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mountcr.engines.docker.directories import MISSING
from mountcr.overlayhome import ShortNames, layer_of, short_name

if TYPE_CHECKING:
    from mountcr.engines.docker.directories import Directories
    from mountcr.engines.reading import Reader

__all__ = ["Link", "Links"]


class Link(NamedTuple):
    """
    What a short name stands for.

    `id` is the layer, empty where that is not known, and `complaint` says why. `repaired` is the
    file that told, where the link itself does not, and `lost` a directory that is not there.
    """

    id: str
    complaint: str = ""
    repaired: str = ""
    lost: str = ""


class Links:
    """The short names of one graph driver, each resolved once, by their text."""

    def __init__(self, home: str, reader: Reader, directories: Directories) -> None:
        self._home = home
        self._directories = directories
        self._known: dict[str, Link] = {}
        aside = reader.fresh()  # a file `link` that is damaged is no damage of a container
        self._names = ShortNames(home, lambda file: aside.text(file, optional=True) or "")

    def layer(self, link: str) -> Link:
        """Give the layer that `l/NAME` stands for."""
        known = self._known.get(link)
        if known is None:
            known = self._known[link] = self._resolve(link)
        return known

    def _resolve(self, link: str) -> Link:
        name = short_name(link)
        if not name:
            return Link("", f"{link!r} is no link to a layer")
        try:
            target = self._names.target(name)
        except FileNotFoundError:
            return self._repaired(name, f"{link} is missing")
        except OSError as error:
            return self._repaired(name, f"{link}: {error.strerror}")
        layer = layer_of(target)
        if not layer:
            return self._repaired(name, f"{link} leads to {target}, which is no layer")
        wrong, lost = self._look(layer)
        if wrong:
            return self._repaired(name, f"{link} leads to {target}: {wrong}")
        return Link(layer, lost=lost)

    def _look(self, layer: str) -> tuple[str, str]:
        """Say what is wrong with a layer, and which directory of one that is there is not."""
        path = f"{self._home}/{layer}"
        complaint = self._directories.complaint(f"{path}/diff")
        if complaint == MISSING and not self._directories.complaint(path):
            return "", f"{path}/diff {MISSING}"
        return complaint, ""

    def _repaired(self, name: str, complaint: str) -> Link:
        """Look for the layer whose own file has the name."""
        layer = self._names.repaired(name)
        wrong, lost = self._look(layer) if layer else ("", "")
        if layer and not wrong:
            return Link(layer, repaired=f"{self._home}/{layer}/link", lost=lost)
        why = f", and {layer} has no directory" if layer else ", and no layer has that name"
        return Link("", complaint + why)
