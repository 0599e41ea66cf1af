# SPDX-License-Identifier: Apache-2.0
"""What people do: dump, rebuild, restore. Each lets others observe, plan and execute."""
