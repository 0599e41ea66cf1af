# SPDX-License-Identifier: Apache-2.0
"""
Device numbers, spelled `major:minor` in decimal as mountinfo has them; pure.

What is spelled otherwise, as in a document that anybody wrote, is 0:0, which no device has.
"""

from __future__ import annotations

import os
import re
from typing import Final

__all__ = ["COMMON", "major_of", "number_of_stat", "of_kernel", "of_stat"]

_SPELLED: Final = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")

_MINOR_BITS: Final = 20

COMMON: Final = {
    "null": "1:3",
    "zero": "1:5",
    "full": "1:7",
    "random": "1:8",
    "urandom": "1:9",
    "tty": "5:0",
}
"""
Character devices that every container has, and may use, by their names.

Default Devices in config-linux.md of the OCI runtime specification, with the numbers of
admin-guide/devices.txt of Linux.
"""


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

    >>> hex(number_of_stat("8:3")), number_of_stat("8")
    ('0x803', 0)
    """
    return os.makedev(*_parts(device))


def major_of(device: str) -> int:
    """
    Give the major number.

    >>> major_of("8:3")
    8
    """
    return _parts(device)[0]


def _parts(device: str) -> tuple[int, int]:
    match = _SPELLED.fullmatch(device)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def of_kernel(number: int) -> str:
    """
    Spell a number as the kernel keeps it (`MINORBITS`, include/linux/kdev_t.h).

    Marks in fdinfo and CRIU's images have that one.

    >>> of_kernel(0x800003)
    '8:3'
    """
    return f"{number >> _MINOR_BITS}:{number & ((1 << _MINOR_BITS) - 1)}"
