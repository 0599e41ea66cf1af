# SPDX-License-Identifier: Apache-2.0
"""Bundles: a container in one file or directory that another host can restore, and its format."""
