# SPDX-License-Identifier: Apache-2.0
"""Releases of CRIU and of the kernel, as far as rules are only true for some of them."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse", "within"]

_NUMBERS: Final = re.compile(r"v?([0-9]{1,9}(?:\.[0-9]{1,9})*)")


def parse(version: str) -> tuple[int, ...]:
    """
    Give the numbers that a version begins with, without zeros at the end; empty if it has none.

    >>> parse("6.18.44-fc"), parse("4.1.0"), parse("unknown")
    ((6, 18, 44), (4, 1), ())
    """
    match = _NUMBERS.match(version)
    numbers = [int(each) for each in match[1].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def within(version: str, since: str, until: str) -> bool:
    """
    Tell whether a version is `since` or later and before `until`; empty ones are no limit.

    A version that is not known may be any.
    """
    found = parse(version)
    if not found:
        return True
    if since and found < parse(since):
        return False
    return not until or found < parse(until)
