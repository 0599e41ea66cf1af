# SPDX-License-Identifier: Apache-2.0
"""Documents of bundles with values that nobody would write are planned, or refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any, cast

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile
from fuzz.targets import TARGETS
from mountcr.bundle.document import to_json
from mountcr.errors import MountcrError
from mountcr.model import Facts, FileKind, InodeType, OpenFile, PathStat
from mountcr.paths import KPath

MOUNTS = """\
11 10 8:1 /srv/data /data rw master:1 - ext4 /dev/sda1 rw
12 10 0:30 /web /sys/fs/cgroup rw - cgroup2 cgroup2 rw
13 10 0:60 / /merged rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
14 10 0:70 / /tmp rw - tmpfs tmpfs rw
15 10 0:71 /3 /dev/console rw shared:7 - devpts devpts rw"""

TERMINAL = PathStat(
    dev="0:71", ino=6, mode=0o20620, nlink=1, size=0, type=InodeType.CHARACTER, rdev="136:3"
)
FILES = (
    OpenFile(kind=FileKind.FD, shown=KPath("/dev/pts/3"), fd=0, mnt_id=99, stat=TERMINAL),
    OpenFile(kind=FileKind.FD, shown=KPath("/data/log (deleted)"), fd=1, mnt_id=11),
)


def known() -> Facts:
    """Facts of a container with mounts and files that the plan looks at more closely."""
    found = hostile.facts(MOUNTS)
    task = msgspec.structs.replace(found.tasks[0], files=FILES)
    return msgspec.structs.replace(found, tasks=(task,))


DOCUMENT = to_json(
    msgspec.structs.replace(
        found := hostile.document(known=known()),
        dump=msgspec.structs.replace(found.dump, extra=("--ghost-limit", "1M")),
    )
)

VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        *("/web/", "/./web", "//web"),
        *("", "/", "..", "/..", "/../../etc", "/etc/shadow", "a/b", "/a\0b", "\x1b[2J", "\n", "\\"),
        *(r"\056", r"\040", "/\udcff".encode(errors="ignore").decode(), "é", "x" * 300, "/a" * 200),
        *("overlay", "vfs", "aufs", "unionfs", "cgroup", "tmpfs", "nothing", "directory", "file"),
        *("lowerdir=/etc", "lowerdir+=/etc", "rw,lowerdir=/etc:/x,upperdir=/y,workdir=/z", "0:0"),
        *("8:1", "-1:1", "a:b", "sha256:" + "0" * 64, "--action-script", "mnt[/]:x"),
        *("/" + "9" * 5000, "9" * 5000 + ":1", "9" * 5000, "9" * 30 + ":" + "9" * 30),
        *("shared:", "shared:1..", "master:-1", "master:²", "shared:" + "9" * 5000),
        *(0, -1, 1, 1 << 31, 1 << 32, 1 << 63, -(1 << 63), 0.5, True, False, None),
        *([], {}, [[]], [""], {"": ""}),
    ]
)  # fmt: skip


def _places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Give the paths of all values below one."""
    inside: list[tuple[object, object]] = []
    if isinstance(value, dict):
        inside = list(cast("dict[object, object]", value).items())
    elif isinstance(value, list):
        inside = list(enumerate(cast("list[object]", value)))
    found = [path] if path else []
    for key, each in inside:
        found += _places(each, (*path, key))
    return found


# nothing is made of the plan
PLACES = [path for path in _places(json.loads(DOCUMENT)) if path[0] != "plan"]

take = TARGETS["document"].make("")


def test_the_document_is_planned() -> None:
    """What the others are made of is taken."""
    take(DOCUMENT)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=6))
def test_a_document_is_planned_or_refused(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    """Whatever its values are, what comes out is a plan of paths that are ours, or an error."""
    document = json.loads(DOCUMENT)
    for (*above, last), value in changes:
        at = document
        try:
            for key in above:
                at = at[key]
            if type(at[last]) is type(value) or not isinstance(at[last], str | int):
                at[last] = value  # of another type it would be refused before it is anything
        except (KeyError, IndexError, TypeError):
            continue  # another change took its place away
    with contextlib.suppress(MountcrError):
        take(json.dumps(document, ensure_ascii=False).encode())
