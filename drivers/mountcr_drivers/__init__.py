# SPDX-License-Identifier: Apache-2.0
"""The storage drivers that come with mountcr, in the entry-point group `mountcr.drivers`."""
