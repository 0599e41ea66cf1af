# SPDX-License-Identifier: Apache-2.0
"""
Which tests are run in a guest, and how.

What is the same on any kernel is left out, for all takes long in a guest. What a kernel truly lacks
is a skip with its reason.
"""

from __future__ import annotations

from typing import Final

__all__ = ["WORDS"]

WORDS: Final = (
    "-q", "-m", "privileged and not any_kernel", "--timeout=300", "tests/privileged",
    # pytest compiles anew every module of a package with a plugin that it finds by itself
    "--disable-plugin-autoload", "-p", "pytest_timeout",
)  # fmt: skip
"""Words of pytest, in a directory with pyproject.toml and the tests."""
