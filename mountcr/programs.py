# SPDX-License-Identifier: Apache-2.0
"""Where programs are that pip cannot install: the prefix of tools/provision, then PATH."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mountcr.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DEFAULT_PREFIX", "find_program", "locate_program", "prefix", "which"]

DEFAULT_PREFIX: Final = "/opt/mountcr"
"""Where `tools/provision` puts programs unless $MOUNTCR_PREFIX says otherwise."""


def prefix() -> str:
    """Give the prefix whose `bin` is looked in first."""
    return os.environ.get("MOUNTCR_PREFIX") or DEFAULT_PREFIX


def find_program(name: str) -> str | None:
    """Give the path of a program, None when there is none."""
    return which(name, [f"{prefix()}/bin", *os.get_exec_path(), "/usr/sbin", "/sbin"])


def which(name: str, directories: Sequence[str] | None = None) -> str | None:
    """
    Give the path of a program in directories, those of PATH unless others are given.

    A name with a slash is a path. None when there is none. As shutil.which, whose module loads
    compressors.
    """
    places = os.get_exec_path() if directories is None else directories
    paths = [name] if "/" in name else [os.path.join(each, name) for each in places]
    return next((each for each in paths if os.path.isfile(each) and os.access(each, os.X_OK)), None)


def locate_program(name: str) -> str:
    """Give the path of a program. Raises CapabilityError when there is none."""
    found = find_program(name)
    if found is None:
        raise CapabilityError(f"there is no {name} here", probe=name, hint="run tools/provision")
    return found
