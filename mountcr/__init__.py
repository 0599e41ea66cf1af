# SPDX-License-Identifier: Apache-2.0
"""Where a container's files come from, and how to put them back."""

__version__ = "0.1.0"
