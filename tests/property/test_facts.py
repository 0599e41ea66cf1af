# SPDX-License-Identifier: Apache-2.0
"""Laws of facts and plans: JSON loses nothing, any table has a plan, no external is too many."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st

import builders
from mountcr import paths
from mountcr.graph.superblock import SUPPORTED, superblock
from mountcr.model import Facts, FileKind, Mount, OpenFile
from mountcr.paths import ROOT
from mountcr.planning.planner import make_plan
from mountcr.planning.records import Plan
from mountcr.render.plan import outline_plan
from strategies import containers, tables

if TYPE_CHECKING:
    from collections.abc import Collection

FILES = st.builds(
    OpenFile,
    kind=st.sampled_from(FileKind),
    shown=st.binary(max_size=20).map(paths.encode),
    fd=st.integers(-1, 2**31 - 1),
    start=st.integers(0, 2**64 - 1),
    mnt_id=st.integers(-1, 20),
    flags=st.integers(0, 2**31 - 1),
)


@given(tables(), tables(), st.lists(FILES, max_size=4))
def test_facts_and_plans_go_to_json_and_back(
    mounts: list[Mount], host: list[Mount], files: list[OpenFile]
) -> None:
    """Any facts give a plan; both are the same after a trip through JSON."""
    facts = builders.facts(tuple(mounts), tuple(host), files=tuple(files))
    copy = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)
    assert copy == facts
    plan = make_plan(facts)
    assert make_plan(copy) == plan
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    assert outline_plan(plan, explain=True).plain()


# What CRIU asks of each mount (criu/mount.c, `validate_mounts()`, `resolve_shared_mounts()`), and
# mountcr of an overlay, word by word and without any index.


def holds(wide: Mount, narrow: Mount) -> bool:
    """Whether a mount shows all that another one shows."""
    return superblock(wide) == superblock(narrow) and paths.is_beneath(narrow.root, wide.root)


def is_refused(mount: Mount, mounts: list[Mount], external: Collection[Mount]) -> bool:
    """Whether CRIU refuses a mount where some are external."""
    sources = [mounts[0], *(each for each in external if each is not mounts[0])]
    held = [each for each in sources if holds(each, mount)]
    inside = any(each.shared == mount.master for each in mounts)
    if mount.master and not inside and not any(each.master == mount.master for each in held):
        return True
    if held:
        return False
    if mount.root != ROOT:
        wholes = (each for each in mounts if each.root == ROOT)
        if not any(superblock(each) == superblock(mount) for each in wholes):
            return True
    elif mount.fstype.partition(".")[0] not in SUPPORTED:
        return True
    return mount.fstype in {"fuse.far", "overlay"}


def is_enough(mounts: list[Mount], external: Collection[Mount]) -> bool:
    """Whether CRIU refuses nothing where some mounts are external."""
    return not any(is_refused(mount, mounts, external) for mount in mounts[1:])


def chosen(mounts: list[Mount], host: tuple[Mount, ...] = ()) -> list[Mount]:
    """The mounts that the plan names external."""
    plan = make_plan(builders.facts(tuple(mounts), host))
    named = {each.mountpoint for each in plan.externals}
    return [mount for mount in mounts if mount.mountpoint in named]


@given(tables(), tables())
def test_the_externals_are_enough(mounts: list[Mount], host: list[Mount]) -> None:
    """With them, no mount of the container is left that CRIU refuses for its root or master."""
    external = chosen(mounts, tuple(host))
    others = [mount for mount in mounts[1:] if mount.mountpoint != ROOT]
    assert not any(is_refused(mount, mounts, external) for mount in others)


MOST: Final = 5


@given(containers(MOST))
def test_no_smaller_set_of_externals_is_enough(mounts: list[Mount]) -> None:
    """What the plan names is enough, and no set with fewer mounts is, whichever they are."""
    external = chosen(mounts)
    assert is_enough(mounts, external)
    for size in range(len(external)):
        for fewer in itertools.combinations(mounts[1:], size):
            assert not is_enough(mounts, fewer)
