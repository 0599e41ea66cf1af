# SPDX-License-Identifier: Apache-2.0
"""The pairs of CRIU and kernel that are known not to get along."""

from __future__ import annotations

import re

import pytest

from mountcr.hosts.known import Known, explained, known_pairs, sign, table
from mountcr.rules.versions import parse

EVERY = pytest.mark.parametrize("known", table().values(), ids=table())


@EVERY
def test_a_pair_has_a_source_and_a_cure(known: Known) -> None:
    """Who says so is a commit, a thread or a measurement, and never an address."""
    assert re.search(r"commit [0-9a-f]{12} \(v|criu#[0-9]+|CRIU [0-9.]+ on Linux", known.source)
    assert "://" not in known.source
    assert known.cure
    assert known.affects in {"dump", "restore", "both"}


@EVERY
def test_a_pair_is_found_by_something(known: Known) -> None:
    """By versions or by what CRIU says; the expression is one, and so are the releases."""
    assert known.by_versions or known.message
    re.compile(known.message)
    for lowest, highest in (
        (known.criu_since, known.criu_until),
        (known.kernel_since, known.kernel_until),
    ):
        assert not lowest or parse(lowest)
        assert not (lowest and highest) or parse(lowest) < parse(highest)


# What was run, and what came of it: CRIU, kernel, libc of the host, and the pairs that it has.
SEEN = [
    ("4.1.1", "6.18.44", "2.36", set[str]()),
    ("4.1.1", "5.10.223", "2.36", {"rseq-unseen"}),
    ("4.1.1", "5.10.223", "2.31", set[str]()),
    ("4.1.1", "6.1.176", "2.41", set[str]()),
    ("4.1.1", "4.1.6", "2.31", {"membarrier-missing"}),
    ("3.17.1", "6.18.44", "2.36", {"vdso-bounds", "slave-refused"}),
]


@pytest.mark.parametrize(("criu", "kernel", "libc", "wanted"), SEEN)
def test_hosts_that_were_tried(criu: str, kernel: str, libc: str, wanted: set[str]) -> None:
    """The table says of them what they were seen to do."""
    assert known_pairs(criu, kernel, libc).keys() == wanted


def test_a_libc_that_is_not_known_may_be_any() -> None:
    """Because a container has its own."""
    assert "rseq-unseen" in known_pairs("4.1.1", "5.10", "")


@pytest.mark.parametrize(("criu", "kernel"), [("", "5.10"), ("3.17", ""), ("unknown", "mine")])
def test_versions_that_are_not_known_tell_nothing(criu: str, kernel: str) -> None:
    """Or every host would have every problem."""
    assert known_pairs(criu, kernel) == {}


def test_what_criu_said_is_explained() -> None:
    """Whatever the versions are."""
    assert explained("137 has rseq but kernel lacks get_rseq_conf feature").keys() == {
        "rseq-unseen"
    }
    assert explained("vdso: Unexpected rt vDSO area bounds").keys() == {"vdso-bounds"}
    assert explained("all is well") == {}
    assert sign("137 has rseq but kernel lacks get_rseq_conf feature").startswith("has rseq")
    assert sign("all is well") == "all is well"
