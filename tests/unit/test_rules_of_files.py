# SPDX-License-Identifier: Apache-2.0
"""
Every rule about tasks, files and restores is found on facts that break it.

What CRIU really says to such containers is asked of CRIU elsewhere.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

import builders
from mountcr.model import (
    Capabilities,
    Criu,
    Facts,
    FileKind,
    InodeType,
    Mark,
    OpenFile,
    PathStat,
    Severity,
    Task,
)
from mountcr.paths import KPath
from mountcr.planning.choices import Choices
from mountcr.planning.files import NamedFile
from mountcr.planning.planner import make_plan
from mountcr.rules import versions
from mountcr.rules.table import table
from mountcr.target import Target, TargetFile
from unit.test_rules import (
    BIND,
    DIRECTORY,
    FILE,
    HOST,
    NAMED,
    PROC,
    ROOT,
    Case,
    found,
    given,
    nested,
    target,
    with_mounts,
)

MIB: Final = 1 << 20
GONE: Final = KPath(r"/f\040(deleted)")
OTHER: Final = msgspec.structs.replace(FILE, ino=99)
UNKNOWN: Final = "10 5 0:50 / / rw - fuse.unknown u rw"
CARVED: Final = ROOT.replace("10 5 0:50 / /", "11 10 0:50 /etc /m")
DEVPTS: Final = "12 10 0:61 / /dev/pts rw - devpts devpts rw"
CONSOLE: Final = "13 10 0:61 /3 /console rw - devpts devpts rw"
NULL: Final = PathStat(
    dev="0:6", ino=3, mode=0o20666, nlink=1, size=0, rdev="1:3", type=InodeType.CHARACTER
)
WATCH: Final = Mark(kind="inotify", dev="0:50", ino=7, handle=0xF8)


def held(*lines: str, **fields: Any) -> Facts:
    """Facts of a container that holds one file, on its root unless told otherwise."""
    file = OpenFile(kind=FileKind.FD, shown=KPath("/f"), fd=7, mnt_id=10, stat=FILE, at_path=FILE)
    mounts = "\n".join([ROOT, PROC, *lines])
    return builders.facts(mounts, HOST, files=(msgspec.structs.replace(file, **fields),))


def ghost(blocks: int) -> Facts:
    """Facts of a container that holds an unlinked file of some blocks."""
    stat = msgspec.structs.replace(FILE, nlink=0, blocks=blocks)
    return held(shown=GONE, stat=stat, at_path=None)


def root_task(facts: Facts, **fields: Any) -> Facts:
    """The same with another root task."""
    first, *others = facts.tasks
    return msgspec.structs.replace(facts, tasks=(msgspec.structs.replace(first, **fields), *others))


def child(**namespaces: int) -> Facts:
    """Facts of a container with a second task, in some namespaces of its own."""
    facts = root_task(with_mounts(), namespaces={"mnt": builders.CONTAINER_NS, "uts": 5})
    task = Task(pid=101, parent=100, start_time=2, command="sh", namespaces=namespaces)
    return msgspec.structs.replace(facts, tasks=(*facts.tasks, task))


def entries(line: str, number: int | None) -> Facts:
    """Facts of a container with one mount more, in which some names are."""
    *others, last = builders.table(f"{ROOT}\n{PROC}\n{line}")
    return builders.facts((*others, msgspec.structs.replace(last, entries=number)), HOST)


def master(mnt_id: int) -> OpenFile:
    """The master of a pseudoterminal."""
    return OpenFile(
        kind=FileKind.FD, shown=KPath("/dev/pts/ptmx"), fd=3, mnt_id=mnt_id, tty_index=3
    )


def with_terminal(*files: OpenFile) -> Facts:
    """Facts of a container with a console, and of a task in a nested namespace of it."""
    facts = nested(DEVPTS.replace("12 10", "32 30"))
    tables = (builders.namespace(f"{ROOT}\n{PROC}\n{DEVPTS}\n{CONSOLE}"), *facts.namespaces[1:])
    return root_task(msgspec.structs.replace(facts, namespaces=tables), files=files)


def on_host(facts: Facts, *, criu: Criu | None = None, kernel: str = "", user: int = 0) -> Facts:
    """The same on another host."""
    host = msgspec.structs.replace(
        facts.host,
        criu=criu or facts.host.criu,
        capabilities=Capabilities(kernel=kernel) if kernel else None,
        namespaces={**facts.host.namespaces, **({"user": user} if user else {})},
    )
    return msgspec.structs.replace(facts, host=host)


def there(criu: str, kernel: str) -> Target:
    """A host of a restore with some CRIU and kernel."""
    facts = on_host(with_mounts(), criu=Criu(command=("criu",), version=criu), kernel=kernel)
    return target(host=facts.host)


def told(*words: str, now: tuple[str, ...] = ()) -> Choices:
    """What the user told CRIU at the dump, and at the restore."""
    return Choices(dumped=words, extra=now)


OWNERS: Final = {"user": 1, "uts": 1, "mnt": 1, "net": 8}
USER: Final = {"user": 9, "uts": 5, "mnt": builders.CONTAINER_NS, "net": 6}
BUILD: Final = NamedFile(
    path=NAMED.path, mountpoint=KPath("/"), size=5, mode=0o100644, build_id="aa"
)

CASES: Final = (
    Case("R14", "criu", on_host(with_mounts(), criu=Criu(command=("criu",), problem="vdso"))),
    Case("T3", "/c", held(kind=FileKind.ROOT, shown=KPath("/c"), fd=-1)),
    Case("T4", "uts:[6]", child(uts=6)),
    Case("T5", "fdinfo", msgspec.structs.replace(
        nested(), tasks=held(mnt_id=-1).tasks)),
    Case("T6", "uts:[5]", on_host(
        root_task(with_mounts(), namespaces=USER, owners={"uts": 1, "mnt": 9}), user=1)),
    Case("L0", "/f", held(kind=FileKind.MAP, fd=-1, mnt_id=77)),
    Case("L0", "/f", held(kind=FileKind.EXE, fd=-1, mnt_id=77)),
    Case("L0", "/f", held(kind=FileKind.MAP, fd=-1, mnt_id=77), cured=True,
         choices=given("--external", "file[4d:3]")),
    Case("L1", GONE, held(shown=GONE, at_path=None), cured=True),
    Case("L1", "/t/f", held(
        "11 10 0:60 / /t rw - tmpfs t rw", shown=KPath("/t/f"), at_path=None, missing=True)),
    Case("L1", GONE, held(shown=GONE, at_path=None, stat=DIRECTORY)),
    Case("L1", "/t/f", held("11 10 0:60 / /t rw - fuse.fuse-overlayfs f rw",
                            shown=KPath("/t/f"), mnt_id=11, at_path=None, missing=True)),
    Case("L2", GONE, ghost(2 * MIB // 512 + 8), cured=True),
    Case("L2", GONE, ghost(1 << 23)),
    Case("L2", GONE, ghost(3 * MIB // 512), choices=given("--ghost-limit", "2M")),
    Case("L2", GONE, ghost(3 * MIB // 512), choices=given("--ghost-limit=3M"), cured=True),
    Case("L3", "/f", held(at_path=OTHER)),
    Case("L3", "/f", held(stat=NULL, at_path=msgspec.structs.replace(NULL, ino=4))),
    Case("L3", "/f", held(stat=NULL, at_path=msgspec.structs.replace(NULL, ino=4)),
         choices=given("--evasive-devices"), cured=True),
    Case("L3", "/f", held(at_path=OTHER), choices=given("--external", "file[a:3]:x"), cured=True),
    Case("L4", "/t/f", held(
        "11 10 0:60 / /t rw - tmpfs t rw", "12 11 0:61 / /t rw - tmpfs t rw",
        shown=KPath("/t/f"), mnt_id=11)),
    Case("L5", "net:[7]", held(shown=KPath("net:[7]"), at_path=None)),
    Case("L6", "/f", held(locked=True), cured=True),
    Case("N1", "inode 7 on /", held(shown=KPath("anon_inode:inotify"), stat=None, marks=(WATCH,))),
    Case("N1", "inode 7 on /p", held("11 10 0:61 / /p rw - pstore p rw",
         shown=KPath("anon_inode:inotify"), stat=None,
         marks=(Mark(kind="inotify", dev="0:61", ino=7, handle=0x81),))),
    Case("N1", "inode 7 on /", held(shown=KPath("anon_inode:inotify"), stat=None, marks=(WATCH,)),
         choices=given("--irmap-scan-path", "/w"), cured=True),
    Case("F5", GONE, held(shown=GONE, at_path=None)),
    Case("C2", "/mq", entries("11 10 0:60 / /mq rw - mqueue q rw", 2)),
    Case("C4", "/console", with_terminal()),
    Case("C5", "/console", with_terminal(master(32))),
    Case("R0", "/", builders.facts(f"{UNKNOWN}\n{PROC}", HOST), target()),
    Case("R1", "/etc/hosts", with_mounts(BIND), target(),
         told("--external", "mnt[/etc/hosts]:h")),
    Case("R2", "/m", with_mounts(CARVED, host=f"{HOST}\n{ROOT.replace('10 5', '2 1')}"),
         target(), told("--external", "mnt[]", "--external", "mnt[/x]:x")),
    Case("R3", "dev[disk]", with_mounts("11 10 8:2 / /mnt rw - ext4 /dev/sdb1 rw"), target(),
         told("--external", "dev[8/2]:disk")),
    Case("R12", "/etc/hosts", with_mounts(BIND.replace("rw -", "rw master:1 -")),
         there("4.1", "6.18.44-fc")),
    Case("R12", "/etc/hosts", with_mounts(BIND.replace("rw -", "rw master:1 -")),
         there("4.1", "6.18.44-fc"), given("--mntns-compat-mode"), cured=True),
    Case("R13", "/", on_host(root_task(with_mounts(), namespaces=USER), user=1),
         there("4.2", "7.1")),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.where}")
def test_a_rule_is_found_where_it_is_broken(case: Case) -> None:
    """At the task, file or mount that breaks it, with what it means and whether it is cured."""
    rule = table()[case.rule]
    (finding,) = (each for each in case.plan().findings if each.rule == case.rule)
    assert finding.mount == case.where
    assert finding.cured is case.cured
    assert finding.severity is rule.severity
    assert finding.message.endswith(f": {rule.sentence}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.where}")
def test_what_is_not_cured_refuses(case: Case) -> None:
    """A refusal without a cure refuses the plan, one with a cure does not."""
    refused = case.rule in {each.rule for each in case.plan().refusals}
    assert refused is (table()[case.rule].severity is Severity.REFUSAL and not case.cured)


def test_a_mountpoint_of_another_type() -> None:
    """R5: what was a file is a directory on the target."""
    *others, last = builders.table(f"{ROOT}\n{PROC}\n{BIND}")
    facts = builders.facts((*others, msgspec.structs.replace(last, type=InodeType.FILE)), HOST)
    there = {KPath("/etc/hosts"): DIRECTORY}
    plan = make_plan(facts, target=target(mountpoints=there), files=(NAMED,))
    (finding,) = found(plan, "R5")
    assert (finding.mount, finding.cured) == ("/etc/hosts", False)
    assert "a directory, it was a file" in finding.message


@pytest.mark.parametrize(
    ("now", "rules"),
    [
        ({"build_id": "aa"}, []),
        ({"build_id": "bb"}, ["R10"]),
        ({"build_id": "bb", "stat": msgspec.structs.replace(FILE, size=6)}, ["R8"]),
        ({"build_id": ""}, []),
    ],
)
def test_another_build_of_a_program(now: dict[str, Any], rules: list[str]) -> None:
    """R10, where the size is as it was; then nobody says that CRIU would not notice."""
    named = msgspec.structs.replace(BUILD, digest="a" * 64)
    there = msgspec.structs.replace(
        TargetFile(path=NAMED.path, stat=FILE, digest=("b" if rules else "a") * 64), **now
    )
    plan = make_plan(with_mounts(BIND), target=target(files=(there,)), files=(named,))
    assert [each.rule for each in plan.refusals] == rules


SOUND: Final = {
    "as it was": held(),
    "an older facts file": held(at_path=None),
    "a file of the kernel": held(
        kind=FileKind.MAP, shown=KPath(r"/memfd:x\040(deleted)"), mnt_id=77, at_path=None
    ),
    "a shared mapping": held(
        kind=FileKind.MAP, shown=KPath(r"/dev/zero\040(deleted)"), mnt_id=77, at_path=None
    ),
    "proc": held(mnt_id=9, at_path=OTHER),
    "a small ghost": ghost(8),
    "a ghost of unknown size": ghost(-1),
    "a watch that CRIU finds": held(
        shown=KPath("anon_inode:inotify"),
        stat=None,
        marks=(msgspec.structs.replace(WATCH, path=KPath("/etc/x")),),
    ),
    "a watch with a handle": held(
        "11 10 8:1 / /v rw - ext4 /dev/sda1 rw",
        shown=KPath("anon_inode:inotify"),
        stat=None,
        marks=(Mark(kind="inotify", dev="8:1", ino=7, handle=1),),
    ),
    "a watch on a tmpfs": held(
        "11 10 0:60 / /t rw - tmpfs t rw",
        shown=KPath("anon_inode:inotify"),
        stat=None,
        marks=(Mark(kind="inotify", dev="0:60", ino=7, handle=1),),
    ),
    "a watch on an xfs": held(
        "11 10 8:1 / /x rw - xfs /dev/x rw",
        shown=KPath("anon_inode:inotify"),
        stat=None,
        marks=(Mark(kind="inotify", dev="8:1", ino=7, handle=0x81),),
    ),
    "a fanotify mark on a mount": held(
        shown=KPath("anon_inode:fanotify"), stat=None, marks=(Mark(kind="fanotify", mnt_id=10),)
    ),
    "an empty queue": entries("11 10 0:60 / /mq rw - mqueue q rw", 0),
    "a queue that nobody looked into": entries("11 10 0:60 / /mq rw - mqueue q rw", None),
    "a console that a task holds": with_terminal(master(12)),
    "the namespaces of the root task": child(uts=5),
    "the namespace of CRIU": on_host(child(user=1), user=1),
}


@pytest.mark.parametrize("facts", SOUND.values(), ids=SOUND.keys())
def test_what_breaks_no_rule(facts: Facts) -> None:
    """Nothing is refused where CRIU would not refuse."""
    assert make_plan(facts).refusals == ()
    assert not {"L1", "L2", "L3", "N1"} & {each.rule for each in make_plan(facts).findings}


def test_an_overlay_that_gives_handles() -> None:
    """N1 does not hold for an overlay that was mounted with nfs_export."""
    facts = held(shown=KPath("anon_inode:inotify"), stat=None, marks=(WATCH,))
    root = builders.table(ROOT.replace("rw,lowerdir", "rw,nfs_export=on,lowerdir"))
    tables = (builders.namespace((*root, *builders.table(PROC))),)
    assert make_plan(msgspec.structs.replace(facts, namespaces=tables)).refusals == ()


def test_one_check_of_a_file_fails_at_most() -> None:
    """A file on a mount that is hidden is said to be just that, whatever is at its path."""
    facts = held(
        "11 10 0:60 / /t rw - tmpfs t rw",
        "12 11 0:61 / /t rw - tmpfs t rw",
        shown=KPath("/t/f"),
        mnt_id=11,
        at_path=None,
        missing=True,
    )
    assert [each.rule for each in make_plan(facts).refusals] == ["L4"]


def test_what_is_cured_is_an_option_of_the_dump() -> None:
    """--link-remap, --ghost-limit and --file-locks are planned, each with its reason."""
    plans = {
        "--link-remap": held(shown=GONE, at_path=None),
        f"--ghost-limit {6 * MIB}": ghost(3 * MIB // 512),
        "--file-locks": held(locked=True),
    }
    for option, facts in plans.items():
        criu = make_plan(facts).criu
        assert set(option.split()) <= set(criu.dump)
        assert option in {each.option for each in criu.reasons}
    assert make_plan(ghost(8)).criu.dump_options.ghost_limit is None


def test_what_was_told_again_is_cured() -> None:
    """R1 to R3 are not found, or are cured, where the restore is told what the dump was."""
    plans = (
        (BIND, ("--external", "mnt[/etc/hosts]:h"), ("--external", "mnt[h]:/srv/hosts")),
        (
            "11 10 8:2 / /mnt rw - ext4 /dev/sdb1 rw",
            ("--external", "dev[8/2]:disk"),
            ("--external", "dev[disk]:/dev/sdc1"),
        ),
    )
    for line, before, now in plans:
        choices = told(*before, now=now)
        plan = make_plan(with_mounts(line), choices, target=target(), files=(NAMED,))
        assert plan.refusals == ()


def test_a_root_that_the_user_names() -> None:
    """R0 is cured by CRIU's own option."""
    facts = builders.facts(f"{UNKNOWN}\n{PROC}", HOST)
    plan = make_plan(facts, given("--root", "/r"), target=target(), files=(NAMED,))
    assert [each.cured for each in found(plan, "R0")] == [True]


def test_a_host_without_criu_is_worth_a_note() -> None:
    """A plan may be for another host."""
    plan = make_plan(on_host(with_mounts(), criu=Criu(problem="no CRIU that runs was found")))
    assert [(each.rule, each.severity) for each in plan.findings] == [("R14", Severity.NOTE)]


@pytest.mark.parametrize(
    ("criu", "kernel", "rules"),
    [
        ("4.1.1", "6.18", []),
        ("4.1", "6.12.9", []),
        ("4.1", "6.18", ["R12"]),
        ("3.16.1", "6.18", []),
        ("", "", ["R12"]),
    ],
)
def test_a_rule_is_for_some_releases(criu: str, kernel: str, rules: list[str]) -> None:
    """It holds from `since` to before `until`; what is not known may be any."""
    facts = with_mounts(BIND.replace("rw -", "rw master:1 -"))
    plan = make_plan(facts, target=there(criu, kernel), files=(NAMED,))
    assert [each.rule for each in plan.refusals] == rules


@pytest.mark.parametrize(
    ("version", "since", "until", "expected"),
    [
        ("4.1.1", "", "", True),
        ("4.1.1", "4.1.1", "", True),
        ("4.1.1", "", "4.1.1", False),
        ("4.1", "", "4.1.1", True),
        ("4.1.0", "", "4.1", False),
        ("v3.17.1-12-gabc", "3.17", "3.18", True),
        ("6.18.44-fc", "6.16", "", True),
        ("10.0", "9.9", "", True),
        ("", "4.0", "4.1", True),
        ("unknown", "4.0", "4.1", True),
    ],
)
def test_versions(version: str, since: str, until: str, *, expected: bool) -> None:
    """They are compared number by number; zeros at the end do not count."""
    assert versions.within(version, since, until) is expected
