# SPDX-License-Identifier: Apache-2.0
"""Two mounts are of one superblock exactly if CRIU takes them for it."""

from __future__ import annotations

import pytest

import builders
from mountcr.graph.superblock import SUPPORTED, short_type, superblock

BASE = "1 0 8:1 /a /x rw - ext4 /dev/sda1 rw,errors=continue"


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("2 0 8:1 /b /y ro,nosuid shared:1 - ext4 /dev/sda1 rw,errors=continue", True),
        ("2 0 8:1 / /y rw - ext4 /dev/sda1 ro,sync,errors=continue", True),
        ("2 0 8:2 /a /x rw - ext4 /dev/sda1 rw,errors=continue", False),
        ("2 0 8:1 /a /x rw - ext4 /dev/other rw,errors=continue", False),
        ("2 0 8:1 /a /x rw - ext3 /dev/sda1 rw,errors=continue", False),
        ("2 0 8:1 /a /x rw - ext4 /dev/sda1 rw,errors=panic", False),
        ("2 0 8:1 /a /x rw - ext4 /dev/sda1 rw", False),
    ],
)
def test_what_makes_a_superblock(other: str, same: bool) -> None:
    """Device, source, type and options count; flags, root and propagation do not."""
    assert (superblock(builders.mount(BASE)) == superblock(builders.mount(other))) is same


def test_subvolumes_of_btrfs_are_one_superblock() -> None:
    """What a mount of btrfs shows is in its root; the subvolume option says it again."""
    one = "1 0 0:39 /a /x rw - btrfs /dev/loop0 rw,space_cache=v2,subvolid=5,subvol=/"
    other = "2 0 0:39 /b /y rw - btrfs /dev/loop0 rw,space_cache=v2,subvolid=256,subvol=/b"
    assert superblock(builders.mount(one)) == superblock(builders.mount(other))


def test_types_are_compared_up_to_the_dot() -> None:
    """All of FUSE is one type for CRIU."""
    one = builders.mount("1 0 0:5 / /x rw - fuse.sshfs s rw,user_id=0")
    other = builders.mount("1 0 0:5 / /x rw - fuse.other s rw,user_id=0")
    assert short_type(one) == "fuse"
    assert short_type(one) in SUPPORTED
    assert superblock(one) == superblock(other)


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs", "nfs4", "9p", "ramfs", "bpf", "nsfs"])
def test_types_that_criu_cannot_mount(fstype: str) -> None:
    """Only virtual file systems and unions are CRIU's to mount."""
    assert short_type(builders.mount(f"1 0 0:5 / /x rw - {fstype} s rw")) not in SUPPORTED
