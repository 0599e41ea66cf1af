# SPDX-License-Identifier: Apache-2.0
"""Which tests are run in a guest, and how."""

from __future__ import annotations

from typing import Final

__all__ = ["WORDS"]

WORDS: Final = (
    "-q", "-m", "privileged", "--timeout=300", "tests/privileged",
    "--ignore=tests/privileged/test_mishaps.py", "--ignore=tests/privileged/test_image_sets.py",
)  # fmt: skip
"""Words of pytest, in a directory with pyproject.toml and the tests."""
