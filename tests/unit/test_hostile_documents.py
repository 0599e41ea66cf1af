# SPDX-License-Identifier: Apache-2.0
"""Whatever an archive says, reading it gives what it is or one line with the rule it breaks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hostile import DOCUMENTS, SPOILED, bundle
from mountcr.bundle.reader import opened
from mountcr.errors import MountcrError
from mountcr.model import Facts, Imported
from mountcr.operations.importing import ImportChoices, plan_bundle
from mountcr.operations.verify import verify_bundle
from mountcr.paths import KPath
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path


def written(data: bytes, into: Path) -> str:
    path = into / "a.bundle"
    path.write_bytes(data)
    return str(path)


def test_what_is_right_is_taken(tmp_path: Path) -> None:
    """The bundle that the others are made of has no difference."""
    assert verify_bundle(written(bundle(), tmp_path)).differences == ()


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_wrong_is_refused_by_a_rule(name: str, tmp_path: Path) -> None:
    """Each thing that a hostile archive does is refused, by name, in one line."""
    spoiled = SPOILED[name]
    with pytest.raises(MountcrError) as caught:
        verify_bundle(written(spoiled.make(), tmp_path))
    message = caught.value.message
    assert "\n" not in message
    assert len(message) < 1000
    assert message.startswith(str(tmp_path / "a.bundle"))
    assert spoiled.said in message
    assert re.search(rf"\(rule: .*({spoiled.rule})", message) or not spoiled.rule
    assert caught.value.hint


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_wrong_is_not_planned(name: str, tmp_path: Path) -> None:
    """Who reads nothing but the document finds what is wrong in it."""
    spoiled = DOCUMENTS[name]
    with pytest.raises(MountcrError, match=re.escape(spoiled.said)):
        plan_bundle(written(spoiled.make(), tmp_path), ImportChoices(), Choices())


def test_the_plan_of_a_bundle_reaches_nobody(tmp_path: Path) -> None:
    """Plans and words for CRIU in a document are shown, and are not what a restore is made of."""

    def change(decoded: dict[str, Any]) -> None:
        dump = decoded["dump"]
        dump["extra"] = ["--action-script", "/tmp/x", "--config", "/tmp/y", "--lsm-profile", "none"]
        dump["facts"]["host"]["criu"]["command"] = ["/tmp/evil", "--exec-cmd"]

    with opened(written(bundle(change), tmp_path)) as reader:
        dump = reader.bundle.dump
    facts = _imported(dump.facts)
    plan = make_plan(facts, Choices(dumped=dump.extra))
    told = (*plan.criu.restore, *plan.criu.restore_options.extra, *plan.criu.dump)
    assert not any("/tmp/" in word or "action" in word for word in told)
    assert plan.criu.restore[0] == "criu"


def _imported(facts: Facts) -> Facts:
    stack = Stack(driver="vfs", upper=KPath("/here/upper"))
    return msgspec.structs.replace(facts, imported=Imported(at=KPath("/here"), stack=stack))
