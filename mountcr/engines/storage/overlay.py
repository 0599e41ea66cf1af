# SPDX-License-Identifier: Apache-2.0
"""
Layers of the driver overlay: the directories of each, and which others are below it.

Layers that are not here are looked for in other image stores, as `<store>/overlay/<layer>` and
`<store>/overlay/l/<short name>`. `diff` may itself be a link into an additional layer store.
(container-libs storage/drivers/overlay/overlay.go: `get()`, `dir2()`,
`redirectDiffIfAdditionalLayer()`.)
"""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.container import Damage
from mountcr.overlayhome import (
    ShortNames,
    is_name,
    layer_of,
    more_diffs,
    recorded_lowers,
    short_name,
)
from mountcr.paths import encode

if TYPE_CHECKING:
    from mountcr.engines.reading import Reader
    from mountcr.engines.storage.configuration import StoragePlace
    from mountcr.paths import KPath

__all__ = ["OverlayHome", "OverlayLayer"]

_COMPOSEFS: Final = "composefs-data/composefs.blob"


class OverlayLayer(NamedTuple):
    """
    A layer: its directory, and those with its content, top first, and what is wrong with it.

    One that is wrong and has content is one whose content is gone.
    """

    path: str
    content: tuple[KPath, ...] = ()
    composefs: str = ""
    damage: Damage | None = None


class OverlayHome:
    """The layers of one instance; each is looked at once."""

    def __init__(self, place: StoragePlace) -> None:
        self._homes = tuple(f"{each}/overlay" for each in (place.graph_root, *place.image_stores))
        self._short_names = tuple(ShortNames(home) for home in self._homes)
        self._stores = tuple(os.path.realpath(each) for each in place.layer_stores)
        self._place = place
        self._layers: dict[str, OverlayLayer] = {}
        self._named: dict[str, str | Damage] = {}
        self._chains: dict[str, tuple[str, ...]] = {}
        self._program: tuple[str, list[Damage], list[str]] | None = None

    def layer(self, identity: str) -> OverlayLayer:
        """Look at a layer, here and then in the other image stores."""
        if identity not in self._layers:
            self._layers[identity] = self._look(identity)
        return self._layers[identity]

    def program(self, reader: Reader) -> str:
        """
        Give the driver that mounts: a program, if the driver was last used with one.

        `.has-mount-program` says whether it was; where it is missing, the configuration does.
        """
        if self._program is None:
            met, told = len(reader.damages), len(reader.told)
            driver = self._read_program(reader)
            self._program = driver, reader.damages[met:], reader.told[told:]
            return driver
        driver, damages, facts = self._program
        reader.damages += damages
        reader.told += facts
        return driver

    def _read_program(self, reader: Reader) -> str:
        flag = f"{self._homes[0]}/.has-mount-program"
        word = reader.text(flag, optional=True)
        if word is not None:
            reader.tell("driver", flag)
        elif self._place.mount_program:
            reader.tell("driver", self._place.told, "storage.options.overlay.mount_program")
        used = word == "true" if word is not None else bool(self._place.mount_program)
        return "fuse-overlayfs" if used else "overlay"

    def below(self, identity: str, reader: Reader) -> tuple[str, tuple[str, ...] | None]:
        """
        Read which layers are below another, top first; give the file that tells, and None if none.

        A name that leads to no layer is a damage, and then nothing is known.
        """
        met = len(reader.damages)
        read = partial(reader.text, optional=True)
        file, text, short = recorded_lowers(self.layer(identity).path, read)
        if text is None:
            return file, None if len(reader.damages) > met else ()
        if short:
            return file, self._named_chain(text, reader)
        return file, self._checked(file, text, reader)

    def _named_chain(self, names: str, reader: Reader) -> tuple[str, ...] | None:
        """Give the layers of short names; containers of one image have the same."""
        if names not in self._chains:
            found: list[str] = []
            for name in names.split(":") if names else ():
                layer = self._by_name(name)
                if isinstance(layer, Damage):
                    reader.damages.append(layer)
                    return None
                found.append(layer)
            self._chains[names] = tuple(found)
        return self._chains[names]

    def _checked(self, file: str, ids: str, reader: Reader) -> tuple[str, ...] | None:
        found = tuple(ids.split(":")) if ids else ()
        wrong = next((each for each in found if not is_name(each)), None)
        if wrong is not None:
            reader.damaged(file, "", f"{wrong!r} is no id of a layer")
            return None
        return found

    def _look(self, identity: str) -> OverlayLayer:
        if not is_name(identity):
            what = f"{identity!r} is no id of a layer"
            return OverlayLayer("", damage=Damage(file=encode(self._homes[0]), what=what))
        path = f"{self._homes[0]}/{identity}"
        try:
            if not _is_directory(path):
                others = [f"{home}/{identity}" for home in self._homes[1:]]
                path = next((each for each in others if _is_directory(each)), path)
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    return _damaged(path, path, "not a directory")
            content = self._content(path)
        except FileNotFoundError as error:
            return _without_content(path, error)
        except OSError as error:
            return _damaged(path, error.filename or path, error.strerror or "cannot be read")
        if isinstance(content, str):
            return _damaged(path, f"{path}/diff", content)
        blob = f"{path}/{_COMPOSEFS}"
        return OverlayLayer(path, content, blob if os.path.exists(blob) else "")

    def _content(self, path: str) -> tuple[KPath, ...] | str:
        """Give the directories of a layer, or what is wrong with its first. Raises OSError."""
        first = f"{path}/diff"
        mode = os.lstat(first).st_mode
        if stat.S_ISLNK(mode):
            first = os.readlink(first)
            real = os.path.realpath(first)
            if not any(real.startswith(f"{store}/") for store in self._stores):
                return f"a symbolic link leads out of the root, to {encode(real)}"
            mode = os.stat(first).st_mode
        if not stat.S_ISDIR(mode):
            return "not a directory"
        return tuple(map(encode, (first, *more_diffs(path, _is_directory))))

    def _by_name(self, name: str) -> str | Damage:
        if name not in self._named:
            self._named[name] = self._resolved(name)
        return self._named[name]

    def _resolved(self, name: str) -> str | Damage:
        """Find the layer that a short name, `l/…`, leads to."""
        short = short_name(name)
        if not short:
            return Damage(file=encode(self._homes[0]), field=name, what="is no short name")
        dangling = ""
        for names in self._short_names:
            try:
                target = names.target(short)
            except OSError:
                continue
            layer = layer_of(target)
            if layer and os.path.isdir(f"{names.home}/{layer}"):
                return layer
            dangling = dangling or target
        repaired = next(filter(None, (each.repaired(short) for each in self._short_names)), "")
        if repaired:
            return repaired
        lost = f"leads to {dangling}, where no layer is" if dangling else "is missing"
        what = f"{lost}, and no layer has the short name in its file link"
        return Damage(file=encode(f"{self._homes[0]}/{name}"), what=what)


def _damaged(path: str, file: str, what: str) -> OverlayLayer:
    return OverlayLayer(path, damage=Damage(file=encode(file), what=what))


def _without_content(path: str, error: FileNotFoundError) -> OverlayLayer:
    """Give a layer that is there without its content: what that is called is known all the same."""
    if not _is_directory(path):
        return _damaged(path, error.filename or path, error.strerror or "is missing")
    content = f"{path}/diff"
    return _damaged(path, content, "is missing")._replace(content=(encode(content),))


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
