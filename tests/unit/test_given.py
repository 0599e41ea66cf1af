# SPDX-License-Identifier: Apache-2.0
"""What a user tells CRIU is understood as CRIU understands it."""

from __future__ import annotations

import pytest

import builders
from mountcr.planning.given import Given, drop, dropped, orphans, parse_given

ROOT = "10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), Given()),
        (("--external", "mnt[/a]:b"), Given(externals=("mnt[/a]:b",))),
        (("--external=mnt[/a]:b", "-v4"), Given(externals=("mnt[/a]:b",))),
        (("-M", "/a:b"), Given(externals=("mnt[/a]:b",))),
        (("-lM/a:b:c",), Given(externals=("mnt[/a]:b:c",), file_locks=True)),
        (("--ext-mount-map", "auto"), Given(autodetect=True)),
        (("--external", "mnt[]"), Given(autodetect=True)),
        (("--external", "mnt[]:m"), Given(autodetect=True, autodetect_masters=True)),
        (("--external", "mnt[]:s"), Given(autodetect=True, autodetect_sharing=True)),
        (("--external", "mnt[]:ms"), Given(autodetect=True, autodetect_masters=True)),
        (("--enable-external-masters",), Given(autodetect_masters=True)),
        (("--skip-mnt", "//a/b/"), Given(skip_mnt=(b"/a/b",))),
        (("--enable-fs", "ext4,xfs", "--enable-fs=nfs4"), Given(enable_fs=("ext4", "xfs", "nfs4"))),
        (("--ghost-limit", "2M"), Given(ghost_limit=2 << 20)),
        (("--ghost-limit=512",), Given(ghost_limit=512)),
        (("--ghost-limit", "much"), Given()),
        (("--link-remap", "--mntns-compat-mode"), Given(link_remap=True, compat=True)),
        (("--force-irmap", "--irmap-scan-path", "/v"),
         Given(force_irmap=True, irmap_scan_paths=("/v",))),
        (("--evasive-devices", "-j", "--skip-file-rwx-check"),
         Given(evasive_devices=True, shell_job=True, skip_file_rwx_check=True)),
        (("--tcp-established", "--timeout", "5"), Given(tcp_established=True)),
        (("--tcp-close", "--external", "net[5]:x"),
         Given(tcp_close=True, externals=("net[5]:x",), network=True)),
        (("--empty-ns", "net"), Given(network=True)),
        (("--join-ns=net:/run/netns/x",), Given(network=True)),
        (("--join-ns", "ipc:7"), Given()),
    ],
)  # fmt: skip
def test_words(words: tuple[str, ...], expected: Given) -> None:
    """Options with their value behind or in the word, short ones, older ones; no others."""
    assert parse_given(words) == expected


def test_the_last_of_words_with_one_key_counts() -> None:
    """As CRIU keeps them; a bracket and a colon in a mountpoint give two keys."""
    assert Given(externals=("mnt[/a]:b", "mnt[/a]:c")).keys() == {b"/a": "mnt[/a]:c"}
    assert set(Given(externals=("mnt[/a]:b]:x",)).keys()) == {b"/a", b"/a]:b"}
    assert set(Given(externals=("mnt[/a]",)).keys()) == {b"/a"}
    assert Given(externals=("dev[8/1]:x", "file[7f:2]")).keys() == {}


def test_mounts_that_are_left_out() -> None:
    """Every tracefs, and what --skip-mnt names, but nothing where that orphans others."""
    table = builders.namespace(
        rf"""
        {ROOT}
        11 10 0:60 / /trace rw - tracefs t rw
        12 10 0:61 / /my\040dir rw - tmpfs t rw
        13 12 0:62 / /my\040dir/c rw - tmpfs t rw
        """
    )

    def left(*words: str) -> list[int]:
        (kept,) = drop((table,), parse_given(words))
        return [mount.id for mount in kept.mounts]

    assert left() == [10, 12, 13]
    assert left("--skip-mnt", "/my dir/c") == [10, 12]
    assert left("--skip-mnt", "/my dir", "--skip-mnt", "/my dir/c/") == [10]
    given = parse_given(("--skip-mnt", "/my dir"))
    assert [mount.id for mount in orphans(table, given)] == [13]
    assert [mount.id for mount in dropped(table, given)] == [11, 12]
    assert left("--skip-mnt", "/my dir") == [10, 11, 12, 13]
