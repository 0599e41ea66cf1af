# SPDX-License-Identifier: Apache-2.0
"""What a plan announces as a loss is no surprise after the restore."""

from __future__ import annotations

import pytest

import builders
from mountcr.graph.diff import Difference
from mountcr.model import Severity
from mountcr.operations.restored import ANNOUNCED, is_announced
from mountcr.paths import KPath
from mountcr.planning.planner import make_plan
from mountcr.rules.table import table

FACTS = builders.facts(
    """
    10 5 0:50 / / rw - overlay o rw,lowerdir=/l,upperdir=/u,workdir=/w
    11 10 8:1 /srv/vol /data rw shared:4 - ext4 d rw
    """,
    "1 0 8:1 / / rw shared:4 - ext4 d rw",
)
"""A volume whose peer group has a member on the host."""


@pytest.mark.parametrize(
    ("path", "what", "namespace", "expected"),
    [
        ("/data", "host peers", 0, True),
        ("/data", "host peers", 1, True),
        ("/data", "shared", 0, False),
        ("/", "host peers", 0, False),
    ],
)
def test_a_loss_announces_what_it_does(
    path: str, what: str, namespace: int, expected: bool
) -> None:
    """A difference is announced where a loss names its mountpoint and means what differs."""
    plan = make_plan(FACTS)
    assert ("F1", "/data") in {(each.rule, each.mount) for each in plan.losses}
    found = Difference(path=KPath(path), what=what, before="x", namespace=namespace)
    assert is_announced(plan, found) == expected


def test_what_announces_is_a_loss() -> None:
    """Every rule that announces a difference is in the table of rules, as a loss."""
    for rule in ANNOUNCED:
        assert table()[rule].severity is Severity.LOSS
