# SPDX-License-Identifier: Apache-2.0
"""Hosts: what was tried on one, what that means for dumps and restores, two of them compared."""
