# SPDX-License-Identifier: Apache-2.0
"""Facts to `Plan`: pure, no file is opened and nothing is changed."""
