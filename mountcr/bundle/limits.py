# SPDX-License-Identifier: Apache-2.0
"""What an archive may have at most: numbers that no honest one comes near."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Limits"]


class Limits(NamedTuple):
    """
    Bytes, unless said otherwise.

    `size` is that of all that it unpacks to, `ratio` how many bytes one compressed byte may stand
    for once there are more than `small`. `members` is their number, `name` the length of a name,
    `header` that of what describes one member, `document` that of a JSON document and `values` how
    many that has: each takes some hundred bytes of memory.
    """

    size: int = 1 << 44
    ratio: int = 2000
    small: int = 1 << 24
    members: int = 100_000
    name: int = 1024
    header: int = 1 << 20
    document: int = 1 << 26
    values: int = 3_000_000
