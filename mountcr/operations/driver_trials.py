# SPDX-License-Identifier: Apache-2.0
"""Storage drivers, tried: a small root is assembled by a driver's steps, changed and read back."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from mountcr.driver import get_driver
from mountcr.errors import MountcrError
from mountcr.execute import applied
from mountcr.hosts.records import Attempt
from mountcr.kernel.live import LiveKernel
from mountcr.paths import KPath, decode
from mountcr.stack import Stack

if TYPE_CHECKING:
    from mountcr.driver import Driver

__all__ = ["DRIVERS", "try_driver"]

DRIVERS: Final = ("overlay", "vfs", "aufs", "unionfs", "fuse-overlayfs")
"""The storage drivers that mount something on some kernel."""

_BELOW: Final = {b"kept": b"below", b"changed": b"below", b"deleted": b"below"}
_ABOVE: Final = {b"above": b"above"}
_ADDED: Final = b" and changed"
_SHOWN: Final = {b"kept": b"below", b"changed": b"below" + _ADDED, b"above": b"above"}


def try_driver(name: str, scratch: KPath) -> Attempt:
    """
    Assemble a root of two lower layers and an upper below a directory, and use it.

    A file of the lowest layer is changed and another one deleted. Nothing stays mounted, and no
    FUSE server; the directories stay. Works in a private namespace only, see `in_scratch`.
    """
    driver = get_driver(name)
    base = KPath(f"{scratch}/{name}")
    try:
        stack, at = _prepared(driver, base)
        with applied(driver.assemble(stack, at), LiveKernel()) as undo:
            try:
                _use(decode(at), stack)
            finally:
                undo()
    except MountcrError as error:
        # where it was tried is nowhere any more
        said = error.message.replace(f" at {base}/at", "")
        return Attempt(works=False, said=said, hint=error.hint or "")
    except OSError as error:
        return Attempt(works=False, said=f"{error.filename or name}: {error.strerror}")
    return Attempt(works=True)


def _prepared(driver: Driver, base: KPath) -> tuple[Stack, KPath]:
    """Make the layers, as a root that is converted gets them, and the mountpoint."""
    top, bottom, upper, at = (KPath(f"{base}/{each}") for each in ("top", "bottom", "upper", "at"))
    origin = Stack(driver="vfs", upper=upper, provenance=("a trial",))
    stack = driver.stack((top, bottom), upper, origin=origin, together=True)
    for each in (top, bottom, upper, at, *((stack.work,) if stack.work else ())):
        os.makedirs(decode(each))
    for layer, files in (
        (upper if driver.flat else bottom, _BELOW),
        (upper if driver.flat else top, _ABOVE),
    ):
        for name, content in files.items():
            with open(os.path.join(decode(layer), name), "xb") as file:
                file.write(content)
    return stack, at


def _use(root: bytes, stack: Stack) -> None:
    """Change a root. Raises OSError if it does not show what was done, or elsewhere than there."""
    with open(os.path.join(root, b"changed"), "ab") as file:
        file.write(_ADDED)
    os.unlink(os.path.join(root, b"deleted"))
    shown = {name: _content(root, name) for name in os.listdir(root) if name in _BELOW | _ABOVE}
    if shown != _SHOWN:
        raise OSError(errno.EIO, "a file that was changed or deleted is shown otherwise", root)
    if stack.upper and _content(decode(stack.upper), b"changed") != _SHOWN[b"changed"]:
        raise OSError(errno.EIO, "what was changed is not in the upper", stack.upper)


def _content(directory: bytes, name: bytes) -> bytes:
    with open(os.path.join(directory, name), "rb") as file:
        return file.read()
