# SPDX-License-Identifier: Apache-2.0
"""The dialects that come with mountcr, one module each."""
