# SPDX-License-Identifier: Apache-2.0
"""
Known pairs of CRIU and kernel that do not get along, of `known.toml`; read as JSON.

They explain what a trial showed, and warn where nothing can be tried, as of another host. What a
trial says of a host is never overruled by them.
"""

from __future__ import annotations

import functools
import os
import re

import msgspec

from mountcr.rules.versions import parse, within

__all__ = ["Known", "explained", "known_pairs", "sign", "table"]


class Known(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pair; `known.toml` says what each field means."""

    affects: str
    sentence: str
    cure: str
    source: str
    criu_since: str = ""
    criu_until: str = ""
    kernel_since: str = ""
    kernel_until: str = ""
    libc_since: str = ""
    message: str = ""
    limited: bool = False

    @property
    def by_versions(self) -> bool:
        """Whether versions alone tell of it."""
        return bool(self.criu_since or self.criu_until or self.kernel_since or self.kernel_until)

    def applies(self, criu: str, kernel: str, libc: str = "") -> bool:
        """
        Tell whether a host with these versions has it, as far as versions tell.

        A libc that is not known may be any, because a container has its own.
        """
        return (
            self.by_versions
            and bool(parse(criu) and parse(kernel))
            and within(criu, self.criu_since, self.criu_until)
            and within(kernel, self.kernel_since, self.kernel_until)
            and within(libc, self.libc_since, "")
        )


@functools.cache
def table() -> dict[str, Known]:
    """Give every pair by its id."""
    with open(os.path.join(os.path.dirname(__file__), "known.json"), "rb") as file:
        return msgspec.json.decode(file.read(), type=dict[str, Known])


def known_pairs(criu: str, kernel: str, libc: str = "") -> dict[str, Known]:
    """Give the pairs that these versions have, by id."""
    return {name: each for name, each in table().items() if each.applies(criu, kernel, libc)}


def sign(message: str) -> str:
    """Give the part of what CRIU said that is the sign of a known pair, all of it if none is."""
    for each in table().values():
        if each.message and (match := re.search(each.message, message)):
            return match[0]
    return message


def explained(message: str) -> dict[str, Known]:
    """Give the pairs that something CRIU said is the sign of."""
    return {
        name: each
        for name, each in table().items()
        if each.message and re.search(each.message, message)
    }
