# SPDX-License-Identifier: Apache-2.0
"""
What layers hold: trees of inodes, the marks of each union file system, and the normal form.

A `Tree` is a tree as it is stored. A dialect reads it as a `Layer`: names, removals, opaque
directories. Layers on top of each other are a `View`, which is a tree again. What one layer
changes of what lies below it are `Entry` records, the same for every dialect, and a writer puts
them into a new tree in the marks of any other.

Paths in here are bytes, relative to the root of the tree, without a leading slash; `b""` is the
root itself.
"""
