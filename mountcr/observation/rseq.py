# SPDX-License-Identifier: Apache-2.0
"""
Whether the C library of a task registers restartable sequences, rseq(2), for each thread.

Only a tracer is told what is registered, and only since Linux 5.13; before, it follows from the
C library: glibc does so since 2.35, unless its tunable `glibc.pthread.rseq` is 0. The name of the
tunable is in the dynamic loader, or in a program that is linked statically.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from mountcr import paths
from mountcr.model import FileKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import OpenFile

__all__ = ["Programs", "is_turned_off"]

_TUNABLE: Final = b"glibc.pthread.rseq"
_VARIABLE: Final = b"GLIBC_TUNABLES="
_LOADER: Final = re.compile(rb"ld(64|-[^/]+)?\.so")
"""`ld-linux-x86-64.so.2`, `ld-2.36.so`, `ld64.so.1` and their like."""


class Programs:
    """The loaders and programs that were looked into, each once. It keeps no descriptor."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], bool] = {}

    def register(self, pid: int, files: Iterable[OpenFile]) -> bool:
        """
        Tell whether the C library of a task registers; `files` are its mappings, among others.

        What may not be read, or has gone, tells nothing.
        """
        try:
            if not self._has_tunable(_loader(pid, files)):
                return False
            with open(f"/proc/{pid}/environ", "rb") as file:
                return not is_turned_off(file.read())
        except OSError:
            return False

    def _has_tunable(self, path: str) -> bool:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = os.fstat(fd)
            key = (stat.st_dev, stat.st_ino)
            if key not in self._known:
                self._known[key] = stat.st_size > 0 and _contains(fd, _TUNABLE)
            return self._known[key]
        finally:
            os.close(fd)


def _loader(pid: int, files: Iterable[OpenFile]) -> str:
    """Give a path of /proc to the dynamic loader of a task, or to its program if it has none."""
    for file in files:
        if file.kind is FileKind.MAP and _LOADER.match(os.path.basename(paths.decode(file.shown))):
            return f"/proc/{pid}/map_files/{file.start:x}-{file.end:x}"
    return f"/proc/{pid}/exe"


def _contains(fd: int, text: bytes) -> bool:
    import mmap  # what plans on most kernels have no use for

    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as content:
        return content.find(text) >= 0


def is_turned_off(environ: bytes) -> bool:
    """
    Tell whether the environment of a program keeps glibc from registering.

    Tunables are `name=value`, separated by colons (glibc manual, "Tunables"); the last one counts.
    """
    value = b""
    for variable in environ.split(b"\0"):
        if variable.startswith(_VARIABLE):
            for each in variable.removeprefix(_VARIABLE).split(b":"):
                name, _, said = each.partition(b"=")
                value = said if name == _TUNABLE else value
    return value == b"0"
