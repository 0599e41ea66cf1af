# SPDX-License-Identifier: Apache-2.0
"""
The layers of a container by the ids that its graph driver knows: the writable one and below.

An id becomes a part of a path, so what is no name of a directory is no id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mountcr.overlayhome import is_name
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.container import Damage
    from mountcr.engines.reading import Reader

__all__ = ["Chain", "Layers", "name_in", "remember", "tell"]


class Chain(NamedTuple):
    """
    The layers of an image, nearest first; None where they are not known.

    `damages` are what is wrong with their records.
    """

    ids: tuple[str, ...] | None
    damages: tuple[Damage, ...] = ()


class Layers(NamedTuple):
    """
    The layers of a container.

    `id` is the layer that takes the changes, `init` the one below it with the engine's files,
    empty where there is none. `chain` are those of the image, nearest first, None where they are
    not known, and `told` the file that told them.
    """

    id: str
    init: str
    chain: tuple[str, ...] | None
    told: str

    @property
    def below(self) -> tuple[str, ...] | None:
        """What must be below the writable layer, top first; None where it is not known."""
        if self.chain is None:
            return None
        return (self.init, *self.chain) if self.init else self.chain


def name_in(reader: Reader, path: str, *, optional: bool = False) -> str:
    """Read a file of one id; empty if it is of no use, which is a damage."""
    text = reader.text(path, optional=optional)
    if text is None:
        return ""
    if not is_name(text):
        reader.damaged(path, "", f"{text!r} is no id of a layer")
        return ""
    return text


def tell(reader: Reader, file: str, facts: Iterable[tuple[str, str]]) -> None:
    """Remember which fields of one file told which facts."""
    where = encode(file)
    reader.told.extend(f"{fact}: {where}: {field}" for fact, field in facts)


def remember(reader: Reader, damages: Iterable[Damage]) -> None:
    """Add damages that were met before, each once."""
    reader.damages.extend(each for each in damages if each not in reader.damages)
