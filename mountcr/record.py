# SPDX-License-Identifier: Apache-2.0
"""The base of all records."""

from __future__ import annotations

import msgspec

__all__ = ["Record"]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all records: immutable, hashable, JSON without the fields that hold defaults."""
