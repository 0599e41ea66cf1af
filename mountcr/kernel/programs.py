# SPDX-License-Identifier: Apache-2.0
"""What the FUSE unions on this host are, asked of the programs themselves."""

from __future__ import annotations

import functools
import re
from typing import Final

from mountcr.programs import find_program

__all__ = ["dialect_of", "unionfs_dialect", "written_dialect"]

_VERSION: Final = re.compile(rb"unionfs-fuse version:? *([0-9]+)\.([0-9]+)")


def written_dialect(driver: str) -> str:
    """Give the name of the marks that a driver writes here; empty where no version decides."""
    return unionfs_dialect() if driver == "unionfs" else ""


@functools.cache
def unionfs_dialect() -> str:
    """
    Give the name of the marks that unionfs-fuse writes here: `unionfs-1.0` or `unionfs`.

    Version 1.0 alone keeps them in `.unionfs-fuse` (src/unionfs.h, `METANAME`); `unionfs` where
    there is no program or it does not say.
    """
    program = find_program("unionfs") or find_program("unionfs-fuse")
    if program is None:
        return "unionfs"
    import subprocess  # what most plans have no use for

    try:
        done = subprocess.run(  # a program of this host, without any words of others
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unionfs"
    return dialect_of(done.stdout)


def dialect_of(said: bytes) -> str:
    """Give the name of the marks by what `unionfs --version` says."""
    found = _VERSION.search(said)
    return "unionfs-1.0" if found and found.groups() == (b"1", b"0") else "unionfs"
