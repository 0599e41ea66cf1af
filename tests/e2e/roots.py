# SPDX-License-Identifier: Apache-2.0
"""The root of a place on each storage driver, mounted as somebody who is not mountcr would."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from e2e.conftest import Place

__all__ = ["UNIONS", "Union", "mount_root"]


class Union(NamedTuple):
    """A FUSE union: its driver, its package, its arguments without the mountpoint."""

    driver: str
    package: str
    arguments: Callable[[Place], list[str]]


def _branches(place: Place) -> list[str]:
    lowers = ":".join(f"{layer}=RO" for layer in place.layers)
    return ["-o", "cow,allow_other,dev,suid,hide_meta_files", f"{place.upper}=RW:{lowers}"]


def _layers(place: Place) -> list[str]:
    lowers = ":".join(map(str, place.layers))
    return ["-o", f"lowerdir={lowers},upperdir={place.upper},workdir={place.work}"]


UNIONS: Final[Mapping[str, Union]] = {
    "unionfs": Union("unionfs", "unionfs-fuse", _branches),
    "fuse-overlayfs": Union("fuse-overlayfs", "fuse-overlayfs", _layers),
}


def mount_root(place: Place, driver: str) -> None:
    """
    Mount the layers of a place at its root: overlay, vfs, unionfs or fuse-overlayfs.

    What the FUSE programs do not know to be a whiteout is taken out of the layers first.
    """
    if driver == "overlay":
        place.mount_overlay()
    elif driver == "vfs":
        for layer in reversed(place.layers):
            _copy(layer, place.upper)
        place.bind(place.upper, place.root)
    else:
        (place.layers[1] / "var/old").unlink()
        words = [UNIONS[driver].driver, *UNIONS[driver].arguments(place), str(place.root)]
        subprocess.run(words, check=True)


def _copy(layer: Path, into: Path) -> None:
    """Copy a layer of an overlay over what lies below it."""
    for directory, _, files in os.walk(layer):
        target = into / os.path.relpath(directory, layer)
        target.mkdir(exist_ok=True)
        for name in files:
            source = Path(directory, name)
            (target / name).unlink(missing_ok=True)
            if not stat.S_ISCHR(source.lstat().st_mode):
                shutil.copy2(source, target / name)
