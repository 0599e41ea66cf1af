# SPDX-License-Identifier: Apache-2.0
"""What files really are that the kernel shows by branches, private mounts and stale paths."""
