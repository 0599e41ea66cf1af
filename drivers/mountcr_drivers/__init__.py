# SPDX-License-Identifier: Apache-2.0
"""The storage drivers that come with mountcr, plug-ins in the entry-point group `mountcr.drivers`."""
