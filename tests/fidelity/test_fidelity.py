# SPDX-License-Identifier: Apache-2.0
"""
What a container's files are, they are on every other storage driver.

`python -m fidelity` (tox environment `fidelity`) judges more containers and prints the table.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fidelity import ground, unions
from fidelity.generator import generate
from fidelity.ground import FIELDS
from fidelity.judge import TARGETS, Outcome, Verdict, judge
from fidelity.perform import perform
from fidelity.recipe import (
    KINDS,
    Chmod,
    Directory,
    File,
    Layer,
    Link,
    Node,
    Recipe,
    Remove,
    SetXattr,
    Symlink,
    Times,
    Write,
    from_json,
    show,
    to_json,
)
from fidelity.shrink import shrink
from fidelity.strategies import recipes
from fidelity.unions import DRIVERS, SOURCES
from mountcr.kernel import syscalls

if TYPE_CHECKING:
    from pathlib import Path

    from fidelity.unions import Source

pytestmark = [pytest.mark.privileged, pytest.mark.requires("overlay", "unionfs")]

BATCH = 8
SEEDS = range(0, 40, BATCH)


def wrong(outcome: Outcome) -> str:
    """Give what is wrong with a container and how to make it, to be read."""
    told = [
        f"{each.source} to {each.target}: {line}"
        for each in outcome.verdicts
        if not each.right
        for line in (*map(str, each.differences), each.refused, each.trouble, each.unfinished)
        if line
    ]
    return "\n".join([*told, show(outcome.recipe)])


def is_held(outcome: Outcome) -> bool:
    """Tell whether a container was given back by each target, rather than refused."""
    return outcome.right and not any(each.refused for each in outcome.verdicts)


@pytest.mark.parametrize("first", SEEDS)
@pytest.mark.parametrize("source", DRIVERS)
def test_no_path_differs(source: str, first: int) -> None:
    """A container's merged view is the same on each driver, in every field of every path."""
    outcomes = [judge(generate(seed), source) for seed in range(first, first + BATCH)]
    failed = [wrong(each) for each in outcomes if not each.right]
    assert not failed, "\n\n".join(failed)
    assert sum(map(is_held, outcomes)) > BATCH // 2


RARE = {
    "overlay-metacopy": (112, 130, 406),  # hard links of what a lower layer has moved
    "overlay-index": (5022, 5028),  # a changed file of which only other names are left
    "unionfs": (90, 395, 10486, 10979, 11873),  # marks beside files, in or of odd directories
    "aufs": (90,),
    "fuse-overlayfs": (5008, 5119, 5123),  # an opaque root
}
"""Containers that have what others hardly ever have, by the seed."""


@pytest.mark.requires("fuse-overlayfs")
@pytest.mark.parametrize("source", RARE)
def test_no_path_differs_in_rare_containers(source: str) -> None:
    """Nor where something is met that few layers have."""
    outcomes = [judge(generate(seed), source) for seed in RARE[source]]
    failed = [wrong(each) for each in outcomes if not each.right]
    assert not failed, "\n\n".join(failed)


@pytest.mark.requires("fuse-overlayfs")
@pytest.mark.parametrize("first", [0, 8])
def test_no_path_differs_coming_from_fuse_overlayfs(first: int) -> None:
    """What fuse-overlayfs shows of its layers, strays of its own left out, is on each driver."""
    outcomes = [judge(generate(seed), "fuse-overlayfs") for seed in range(first, first + BATCH)]
    failed = [wrong(each) for each in outcomes if not each.right]
    assert not failed, "\n\n".join(failed)


def test_no_path_differs_with_300_layers() -> None:
    """The number of layers is no matter, with as many open files as a login may have."""
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    outcome = judge(generate(7, layers=300), "overlay")
    assert outcome.right, wrong(outcome)


@given(recipes(), st.sampled_from(DRIVERS), st.sampled_from(TARGETS))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_container_goes_anywhere(recipe: Recipe, source: str, target: str) -> None:
    """Whatever is made and changed, in whatever order, is the same on another driver."""
    outcome = judge(recipe, source, [target])
    assert outcome.right, wrong(outcome)


# --- The harness itself ---------------------------------------------------------------------------


@given(recipes())
def test_a_recipe_is_plain_data(recipe: Recipe) -> None:
    """A recipe goes to JSON and comes back."""
    assert from_json(to_json(recipe)) == recipe


def test_a_seed_is_a_container() -> None:
    """A seed means the same container at any time, and another seed another one."""
    assert [generate(seed) for seed in range(50)] == [generate(seed) for seed in range(50)]
    assert len({show(generate(seed)).partition(":")[2] for seed in range(50)}) == 50


def place(tmp_path: Path) -> bytes:
    """Mount a tmpfs, which goes with the namespace of the test."""
    syscalls.mount(b"tmpfs", bytes(tmp_path), b"tmpfs", 0, b"mode=755")
    return bytes(tmp_path)


def source_of(recipe: Recipe, driver: str, base: bytes) -> Source:
    """Make a container in a directory of its own."""
    directory = os.path.join(base, b"%s%d" % (driver.encode(), recipe.seed))
    os.mkdir(directory)
    return unions.build(recipe, driver, directory)


@pytest.mark.parametrize("driver", [each for each in SOURCES if each != "overlay"])
def test_every_kind_of_operation_works(driver: str, tmp_path: Path) -> None:
    """Each kind of operation occurs, the union does it, and every type of file is shown."""
    base = place(tmp_path)
    done: Counter[str] = Counter()
    types: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for seed in range(60):
        recipe = generate(seed)
        source = source_of(recipe, driver, base)
        done.update(source.done)
        for entry in source.truth.values():
            types[entry.type] += 1
            held["links"] += bool(entry.links) or driver == "fuse-overlayfs"
            held["holes"] += entry.type == "file" and entry.blocks * 512 < entry.size - 4096
            held["before 1970"] += entry.mtime < 0
            held["nanoseconds"] += bool(entry.mtime % 1000)
            held["xattrs"] += bool(entry.xattrs)
    lacking = UNABLE.get(driver, set())
    assert {kind.__name__ for kind in KINDS} - done.keys() == lacking
    wanted = {"directory", "file", "symlink", "fifo", "socket", "character", "block"}
    assert types.keys() >= wanted
    assert not [name for name, number in held.items() if not number]


UNABLE = {"unionfs": {"Punch", "SetXattr", "RemoveXattr"}, "fuse-overlayfs": {"Link"}}
"""What the real union refuses: unionfs-fuse 1.0 knows neither holes nor attributes. Or confuses."""


@pytest.mark.parametrize("driver", ["overlay-plain", "overlay-metacopy", "vfs"])
def test_a_copy_does_not_differ(driver: str, tmp_path: Path) -> None:
    """The judge calls what is the same the same: cp(1) makes it so."""
    base = place(tmp_path)
    for seed in range(10):
        source = source_of(generate(seed), driver, base)
        layers = unions.layers_of(source.stack)
        merged, copy = base + b"/merged%d" % seed, base + b"/copy%d" % seed
        os.mkdir(merged)
        with unions.mounted(driver, layers, merged):
            subprocess.run([b"cp", b"-a", b"--sparse=always", merged, copy], check=True)
        assert ground.compare(source.truth, ground.take(copy)) == []


BEFORE = (
    Directory(b"d"),
    File(b"d/file", 20_000, ((0, 10), (16_000, 10)), fill=1),
    File(b"d/other", 5, ((0, 5),), fill=1),
    Link(b"d/link", b"d/file"),
    Symlink(b"d/symlink", b"here"),
    Node(b"d/node", "character", 0o600, 5, 6),
    SetXattr(b"d", b"user.a", b"1"),
)

ALTERED = {
    "existence": (Remove(b"d/other"),),
    "type": (Remove(b"d/other"), Directory(b"d/other")),
    "mode": (Chmod(b"d/other", 0o640),),
    "mtime": (Times(b"d/symlink", 7),),
    "digest": (Write(b"d/other", 1, 1, 77),),
    "size": (Write(b"d/other", -1, 1, 0),),
    "rdev": (Remove(b"d/node"), Node(b"d/node", "character", 0o600, 5, 7)),
    "target": (Remove(b"d/symlink"), Symlink(b"d/symlink", b"gone")),
    "xattrs": (SetXattr(b"d", b"user.a", b"2"),),
    "links": (Remove(b"d/link"), File(b"d/link", 20_000, ((0, 10), (16_000, 10)), fill=1)),
    "blocks": (Write(b"d/file", 8000, 1, 0),),
}


@pytest.mark.parametrize("field", ALTERED)
def test_every_difference_is_seen(field: str, tmp_path: Path) -> None:
    """The judge names the path and the field in which two trees differ."""
    assert {*FIELDS, "existence"} - {"uid", "gid"} == ALTERED.keys()
    base = place(tmp_path)
    assert set(perform(base, BEFORE)) == {"ok"}
    before = ground.take(base)
    assert ground.compare(before, ground.take(base)) == []
    assert set(perform(base, ALTERED[field])) == {"ok"}
    found = ground.compare(before, ground.take(base))
    assert field in {each.field for each in found}
    assert {each.path for each in found} >= {operation.path for operation in ALTERED[field]}


def test_a_mutation_stays_beneath_the_root(tmp_path: Path) -> None:
    """A symbolic link leads nowhere out of the tree, and a fifo blocks nobody."""
    base = place(tmp_path)
    os.makedirs(base + b"/root/d")
    os.mkdir(base + b"/outside")
    os.symlink(b"../outside", base + b"/root/link")
    os.mkfifo(base + b"/root/fifo")
    operations = (File(b"link/file"), Chmod(b"link/file", 0o600), Write(b"fifo", 0, 1, 0))
    assert perform(base + b"/root", operations) == ["ENOTDIR", "ENOTDIR", "EINVAL"]
    assert os.listdir(base + b"/outside") == []


def test_shrinking_keeps_what_fails() -> None:
    """A recipe is shrunk to what its failure needs, and fails as before."""
    recipe = next(each for each in map(generate, range(1000)) if any(map(culprits, each.layers)))

    def run(smaller: Recipe) -> list[Verdict]:
        culprit = any(map(culprits, smaller.layers))
        return [Verdict("overlay", "vfs", 0.0, trouble="sockets")] if culprit else []

    smallest, verdict = shrink(recipe, run(recipe)[0], run)
    assert verdict.trouble == "sockets"
    assert not smallest.changes
    assert len(smallest.layers) == 1
    assert smallest.layers[0].operations == culprits(smallest.layers[0])


def culprits(layer: Layer) -> tuple[Node, ...]:
    """Give what is at fault in the test above."""
    nodes = (each for each in layer.operations if isinstance(each, Node))
    return tuple(each for each in nodes if each.kind == "socket")
