# SPDX-License-Identifier: Apache-2.0
"""What mountcr asks of the kernel: system calls, probes, and mounts made with them."""
