# SPDX-License-Identifier: Apache-2.0
"""Where programs are that pip cannot install: the prefix of tools/provision, then PATH."""

from __future__ import annotations

import os
import shutil
from typing import Final

from mountcr.errors import CapabilityError

__all__ = ["DEFAULT_PREFIX", "find_program", "locate_program", "prefix"]

DEFAULT_PREFIX: Final = "/opt/mountcr"
"""Where `tools/provision` puts programs unless $MOUNTCR_PREFIX says otherwise."""


def prefix() -> str:
    """Give the prefix whose `bin` is looked in first."""
    return os.environ.get("MOUNTCR_PREFIX") or DEFAULT_PREFIX


def find_program(name: str) -> str | None:
    """Give the path of a program, None when there is none."""
    places = [f"{prefix()}/bin", os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    return shutil.which(name, path=os.pathsep.join(places))


def locate_program(name: str) -> str:
    """Give the path of a program. Raises CapabilityError when there is none."""
    found = find_program(name)
    if found is None:
        raise CapabilityError(f"there is no {name} here", probe=name, hint="run tools/provision")
    return found
