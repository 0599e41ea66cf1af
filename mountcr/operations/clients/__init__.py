# SPDX-License-Identifier: Apache-2.0
"""The engines that can take a container of theirs over again, each asked by its own client."""
