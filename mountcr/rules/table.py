# SPDX-License-Identifier: Apache-2.0
"""The table of rules, read from `table.toml`; what each means is said there."""

from __future__ import annotations

import functools
import pkgutil
import tomllib

import msgspec

from mountcr.model import Severity

__all__ = ["Rule", "table"]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule: `message` is a regular expression, the other texts are for people."""

    stage: str
    severity: Severity
    cure: str
    sentence: str
    message: str = ""
    since: str = ""
    until: str = ""


@functools.cache
def table() -> dict[str, Rule]:
    """Give every rule by its id."""
    text = pkgutil.get_data("mountcr.rules", "table.toml") or b""
    return msgspec.convert(tomllib.loads(text.decode()), dict[str, Rule])
