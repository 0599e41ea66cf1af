# SPDX-License-Identifier: Apache-2.0
"""A small container without an engine, and the demonstration that checkpoints and restores it."""
