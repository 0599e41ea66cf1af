# SPDX-License-Identifier: Apache-2.0
"""The bases of all records."""

from __future__ import annotations

import msgspec

__all__ = ["Passing", "Record"]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all records: immutable, hashable, JSON without the fields that hold defaults."""


class Passing(msgspec.Struct, frozen=True, kw_only=True, eq=False, dict=True):
    """
    Base of what is handed on within a plan and goes to no JSON: its types are never looked at.

    The module dataclasses would do, but loads `inspect`, which takes longer than a plan.
    """
