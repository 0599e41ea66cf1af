# SPDX-License-Identifier: Apache-2.0
"""Plans and graphs as text for people; pure, they take records and give outlines."""
