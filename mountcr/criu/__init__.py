# SPDX-License-Identifier: Apache-2.0
"""
CRIU's formats: its options, its RPC, its image files and its log.

Nothing here decides what CRIU is told, and nothing here knows engines or storage drivers.
"""
