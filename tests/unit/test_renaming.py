# SPDX-License-Identifier: Apache-2.0
"""A container under another id is in control groups of that id, and else as it was."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

import builders
from mountcr.model import CgroupMember, Facts
from mountcr.paths import KPath
from mountcr.planning.renaming import groups_of, rename

LINES = """
    1 0 0:50 / / rw - overlay overlay rw,lowerdir=/l
    2 1 0:60 /engine/web /sys/fs/cgroup rw - cgroup2 cgroup2 rw
    3 1 8:1 /engine/web /data rw - ext4 /dev/sda1 rw
"""


def member(path: str) -> CgroupMember:
    return CgroupMember(hierarchy=0, controllers="", path=KPath(path))


def container(*paths: str) -> Facts:
    facts = builders.facts(LINES)
    tasks = tuple(
        msgspec.structs.replace(each, cgroups=tuple(map(member, paths))) for each in facts.tasks
    )
    return msgspec.structs.replace(facts, tasks=tasks)


def test_control_groups_bear_the_new_id() -> None:
    """Those of tasks, with what lies below, and the roots of mounted ones; no other mount."""
    found = rename(container("/engine/web", "/engine/web/sub"), "new")
    assert found.container.id == "new"
    assert [each.path for each in found.tasks[0].cgroups] == ["/engine/new", "/engine/new/sub"]
    assert [each.root for each in found.namespaces[0].mounts] == ["/", "/engine/new", "/engine/web"]


def test_groups_without_the_id_stay() -> None:
    """Somebody chose them; and a container under its own id keeps all."""
    facts = container("/shared")
    assert groups_of(facts, "new") == ()
    assert rename(facts, "new").tasks == facts.tasks
    assert groups_of(container("/engine/web"), "web") == ()


def test_an_id_with_a_slash_names_no_group() -> None:
    """As a document may have one: what is moved stays an absolute path."""
    facts = container("/engine/web")
    named = msgspec.structs.replace(facts.container, id="/engine/")
    assert groups_of(msgspec.structs.replace(facts, container=named), "new") == ()


@given(new=st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True))
def test_back_again_is_as_before(new: str) -> None:
    """A container that gets another id and its own again is the one that it was."""
    facts = container("/engine/web", "/engine/web/sub")
    assert rename(rename(facts, f"x{new}"), "web") == facts
