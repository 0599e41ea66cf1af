# SPDX-License-Identifier: Apache-2.0
"""Device numbers, spelled `major:minor` in decimal as mountinfo has them; pure."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["number_of_stat", "of_kernel", "of_stat"]

_MINOR_BITS: Final = 20


def of_stat(number: int) -> str:
    """
    Spell a number of stat(2).

    >>> of_stat(0x803)
    '8:3'
    """
    return f"{os.major(number)}:{os.minor(number)}"


def number_of_stat(device: str) -> int:
    """
    Give the number of stat(2) that is spelled so.

    >>> hex(number_of_stat("8:3"))
    '0x803'
    """
    major, _, minor = device.partition(":")
    return os.makedev(int(major), int(minor))


def of_kernel(number: int) -> str:
    """
    Spell a number as the kernel keeps it (`MINORBITS`, include/linux/kdev_t.h).

    Marks in fdinfo and CRIU's images have that one.

    >>> of_kernel(0x800003)
    '8:3'
    """
    return f"{number >> _MINOR_BITS}:{number & ((1 << _MINOR_BITS) - 1)}"
