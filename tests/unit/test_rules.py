# SPDX-License-Identifier: Apache-2.0
"""
Every rule is found on a table that breaks it, and is cured where the plan has the cure.

What CRIU really says to such tables is asked of CRIU elsewhere.
"""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import pytest

import builders
from mountcr.model import (
    Capabilities,
    CgroupMember,
    Damage,
    FileKind,
    InodeType,
    OpenFile,
    PathStat,
    Severity,
    TornDown,
    Unseen,
)
from mountcr.overlayopts import parse_options
from mountcr.paths import KPath
from mountcr.planning.choices import Choices
from mountcr.planning.files import NamedFile
from mountcr.planning.planner import make_plan
from mountcr.rules import predicates
from mountcr.rules.table import Rule, table
from mountcr.stack import Stack
from mountcr.target import Holder, Survey, Target, TargetFile

if TYPE_CHECKING:
    from mountcr.model import Facts, Finding
    from mountcr.planning.records import Plan

ROOT: Final = "10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w"
PROC: Final = "9 10 0:49 / /proc rw - proc proc rw"
HOST: Final = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw"

DIRECTORY: Final = PathStat(
    dev="8:1", ino=2, mode=0o40755, nlink=2, size=4096, type=InodeType.DIRECTORY
)
FILE: Final = PathStat(dev="8:1", ino=3, mode=0o100644, nlink=1, size=5, type=InodeType.FILE)
NAMED: Final = NamedFile(
    path=KPath("/etc/conf"), mountpoint=KPath("/"), size=5, mode=0o100644, digest="a" * 64
)
BIND: Final = "11 10 8:1 /srv/hosts /etc/hosts rw - ext4 /dev/sda1 rw"


def with_mounts(*lines: str, host: str = HOST, root: str = ROOT) -> Facts:
    """Facts of a container with an overlay root, a proc and some mounts."""
    return builders.facts("\n".join([root, PROC, *lines]), host)


def recorded(
    *lines: str,
    host: str = HOST,
    stack: Stack | None = None,
    damage: Damage | None = None,
    torn: TornDown | None = None,
) -> Facts:
    """Facts of such a container, with what its engine says of it."""
    facts = with_mounts(*lines, host=host)
    container = msgspec.structs.replace(
        facts.container,
        stack=stack,
        damages=(damage,) if damage else (),
        torn_down=(torn,) if torn else (),
    )
    return msgspec.structs.replace(facts, container=container)


def with_last_changed(*lines: str, **fields: object) -> Facts:
    """Facts of such a container, with something of its last mount that no line tells."""
    *others, last = builders.table("\n".join([ROOT, PROC, *lines]))
    return builders.facts((*others, msgspec.structs.replace(last, **fields)), HOST)


def removed_group(line: str) -> Facts:
    """Facts of a container with a control group that is empty, and the whole of its hierarchy."""
    whole = "12 10 0:60 / /c rw - cgroup2 cgroup2 rw"
    return with_last_changed(whole, line, entries=0)


def with_layers(line: str) -> Facts:
    """Facts of a container with an overlay in it whose directories are on the host."""
    options = parse_options(builders.mount(line).super_options)
    layers = tuple(filter(None, (*options.lowers, options.upper, options.work)))
    return with_last_changed(line, layers_outside=layers)


def with_file(**fields: object) -> Facts:
    """Facts of a container that holds one descriptor."""
    file = OpenFile(kind=FileKind.FD, shown=KPath("/x"), fd=7, stat=FILE)
    return builders.facts(ROOT, HOST, files=(msgspec.structs.replace(file, **fields),))


def facts_with(line: str, kind: InodeType) -> Facts:
    """Facts of a container with one mount more, whose mountpoint is of some type."""
    return with_last_changed(line, type=kind)


def nested(*lines: str) -> Facts:
    """Facts of a container in which a task has a mount namespace of its own."""
    table = [ROOT.replace("10 5", "30 29"), PROC.replace("9 10", "28 30"), *lines]
    namespace = builders.namespace("\n".join(table), identity=4026532777, pid=101)
    return builders.facts(f"{ROOT}\n{PROC}", HOST, nested=(namespace,))


def target(**fields: object) -> Target:
    """A host on which everything is as it has to be, but for what is given."""
    good = Target(
        host=builders.facts(ROOT, HOST).host,
        layers={KPath(layer): DIRECTORY for layer in ("/u", "/l")},
        sources={KPath("/srv/hosts"): FILE},
        mountpoints={KPath("/etc/hosts"): FILE},
        files=(TargetFile(path=NAMED.path, stat=FILE, digest=NAMED.digest),),
    )
    return msgspec.structs.replace(good, **fields)


class Case(NamedTuple):
    """A situation, what is found in it by a rule, and whether the plan cures it."""

    rule: str
    where: str
    facts: Facts
    target: Target | None = None
    choices: Choices = Choices()
    cured: bool = False

    def plan(self) -> Plan:
        """Plan it."""
        files = (NAMED,) if self.target else ()
        return make_plan(self.facts, self.choices, target=self.target, files=files)


def in_group() -> Facts:
    """A container that has its own control group mounted, as engines do."""
    facts = with_mounts(
        "11 10 0:60 /own /c rw - cgroup cgroup rw,cpu",
        host=f"{HOST}\n2 1 0:60 / /g rw - cgroup cgroup rw,cpu",
    )
    group = CgroupMember(hierarchy=1, controllers="cpu", path=KPath("/own"))
    task = msgspec.structs.replace(facts.tasks[0], cgroups=(group,))
    return msgspec.structs.replace(facts, tasks=(task,))


def restoring(
    rule: str, where: str, *, cured: bool = False, facts: Facts | None = None, **fields: object
) -> Case:
    """A restore of a container with one bind and one named file, or of another one."""
    if facts:
        fields["host"] = facts.host
    return Case(rule, where, facts or with_mounts(BIND), target(**fields), cured=cured)


def file_now(**fields: object) -> tuple[TargetFile, ...]:
    """The named file on the target, other than it was."""
    return (
        TargetFile(
            path=NAMED.path, stat=msgspec.structs.replace(FILE, **fields), digest=NAMED.digest
        ),
    )


LONG: Final = ROOT.replace("/l,", ":".join(f"/l{number:050}" for number in range(90)) + ",")
SHARED_HOST: Final = HOST + "\n2 1 8:1 /srv /srv rw shared:4 - ext4 /dev/sda1 rw"
SHM_HOST: Final = HOST + "\n2 1 0:60 / /dev/shm rw - tmpfs t rw"
ELSEWHERE: Final = builders.namespace(
    "90 89 0:77 / /m rw - overlay x rw,lowerdir=/l,upperdir=/u,workdir=/w", identity=9, pid=900
)

OVERLAY: Final = "overlay overlay rw,lowerdir=/p:/q,upperdir=/b,workdir=/w"
AUFS: Final = "10 5 0:50 / / rw - aufs none rw,si=12"
TMPFS: Final = "11 10 0:60 / /t rw - tmpfs t rw"
PEERS: Final = (
    "11 10 0:60 / /a rw shared:4 - tmpfs t rw",
    "12 10 0:60 / /b rw shared:4 - tmpfs t rw",
    "13 11 0:61 / /a/x rw - tmpfs one rw",
    "14 12 0:62 / /b/x rw - tmpfs two rw",
)


def given(*words: str) -> Choices:
    """What a user chose who gave CRIU some options."""
    return Choices(extra=words)


def with_features(facts: Facts, **features: bool) -> Facts:
    """The same on a host of which it is known what it can."""
    capabilities = Capabilities(kernel="6.1", features=features)
    host = msgspec.structs.replace(facts.host, capabilities=capabilities)
    return msgspec.structs.replace(facts, host=host)


def without_programs(facts: Facts) -> Facts:
    """The same on a host that has no gzip."""
    return with_features(facts, tar=True, gzip=False)


def on_aufs(*branches: str) -> Facts:
    """Facts of a container on AUFS, of which sysfs told the branches."""
    root, *others = with_mounts(root=AUFS).namespaces[0].mounts
    told = msgspec.structs.replace(root, branches=tuple(map(KPath, branches)))
    return builders.facts((told, *others), HOST)


def on_unionfs() -> Facts:
    """Facts of a container on unionfs-fuse, of a version that is known."""
    line = "10 5 0:50 / / rw - fuse.unionfs unionfs rw"
    root, *others = with_mounts(root=line).namespaces[0].mounts
    words = tuple(map(KPath, ("unionfs", "-o", "cow", "/u=RW:/l", "/m")))
    told = msgspec.structs.replace(root, server=words, dialect="unionfs-1.0")
    return builders.facts((told, *others), HOST)


CASES: Final = (
    Case("P1", "/", with_mounts(root=LONG)),
    Case(
        "P1",
        "/far",
        with_mounts(host=f"{HOST}\n{LONG.replace('10 5 0:50 / /', '2 1 0:50 / /far')}"),
        choices=given("--external", "mnt[]"),
    ),
    Case("P2", "/t", with_mounts(TMPFS.replace("rw -", "rw shared:1 tucked:2 -"))),
    *(
        Case("P2", "/t", with_mounts(TMPFS.replace("rw -", f"rw {field} -")))
        for field in ("shared:", "master:1..", "shared:-1", "shared:" + "9" * 11)
    ),
    Case("P3", r"/n\012l", with_mounts(TMPFS.replace("/t rw", r"/n\012l rw"))),
    Case("P3", "/s", with_mounts(TMPFS, r"12 10 0:60 /n\012l /s rw - tmpfs t rw")),
    Case("P4", "/", with_mounts(root=AUFS.replace(",si=12", ""))),
    Case(
        "T1",
        "/t/c",
        with_mounts(TMPFS, "12 11 0:61 / /t/c rw - tmpfs t rw"),
        choices=given("--skip-mnt", "/t/"),
    ),
    Case(
        "T1",
        "/t/c",
        with_mounts(TMPFS.replace("tmpfs", "tracefs"), "12 11 0:61 / /t/c rw - tmpfs t rw"),
    ),
    Case("T2", "/", with_mounts(), choices=given("--skip-mnt=/", "--skip-mnt=/proc")),
    Case("S1", "/t", with_mounts("11 10 0:60 / /t rw master:7 - tmpfs t rw"), cured=True),
    Case("S3", "/b/x", with_mounts(*PEERS)),
    Case("V1", "/t", with_mounts(TMPFS, "12 10 0:61 / /t rw - tmpfs t rw")),
    Case("V3", "/mnt", with_mounts("11 10 8:2 / /mnt rw - ext4 /dev/sdb1 rw"), cured=True),
    Case(
        "V3",
        "/mnt",
        with_mounts("11 10 8:2 / /mnt rw - ext4 /dev/sdb1 rw"),
        choices=given("--enable-fs", "xfs,ext4"),
        cured=True,
    ),
    Case(
        "V3",
        "/mnt",
        with_mounts("11 10 8:2 / /mnt rw - ext4 /dev/sdb1 rw"),
        choices=given("--external", "dev[8/2]:disk"),
        cured=True,
    ),
    Case("V4", "/etc/hosts", with_mounts(BIND), cured=True),
    Case(
        "V4",
        "/etc/hosts",
        with_mounts(BIND),
        choices=given("--external", "mnt[/etc/hosts]:h"),
        cured=True,
    ),
    Case("C1", "/far", with_mounts("11 10 0:60 / /far rw - fuse.sshfs s rw,user_id=0"), cured=True),
    Case("C3", "/t", without_programs(with_mounts(TMPFS))),
    Case("C6", "/a", with_mounts("11 10 0:60 / /a rw - autofs a rw,fd=5,pipe_ino=77"), cured=True),
    Case("E1", "mnt[/t/]:x", with_mounts(TMPFS), choices=given("--external", "mnt[/t/]:x")),
    Case("E2", "/in", nested("31 30 8:1 /srv/x /in rw - ext4 /dev/sda1 rw")),
    Case(
        "E2",
        "/in",
        nested("31 30 8:1 /srv/x /in rw - ext4 /dev/sda1 rw"),
        choices=given("--external=mnt[]"),
        cured=True,
    ),
    Case(
        "E2",
        "/in",
        nested("31 30 8:1 /srv/x /in rw master:1 - ext4 /dev/sda1 rw"),
        choices=given("--external=mnt[]"),
    ),
    Case(
        "E2",
        "/in",
        nested("31 30 8:1 /srv/x /in rw master:1 - ext4 /dev/sda1 rw"),
        choices=given("--external=mnt[]:m"),
        cured=True,
    ),
    Case("E2", "/in", nested("31 30 8:9 / /in rw - ext4 /dev/sdi1 rw")),
    Case(
        "E2",
        "/in",
        nested("31 30 8:9 / /in rw - ext4 /dev/sdi1 rw"),
        choices=given("--enable-fs", "all"),
        cured=True,
    ),
    Case("E3", "/a:b", with_mounts(BIND.replace("/etc/hosts", "/a:b"))),
    Case(
        "E4",
        "/mnt",
        with_mounts("11 10 8:2 / /mnt rw - ext4 /dev/sdb1 rw", "12 11 0:60 / /mnt rw - tmpfs t rw"),
    ),
    Case("E5", "mnt[]", with_mounts(), choices=given("-M", "auto")),
    Case("E6", "/far", with_mounts("11 10 0:60 / /far rw - fuse.sshfs s rw,user_id=0")),
    Case("O1", "/o", with_mounts(f"11 10 0:60 / /o rw - {OVERLAY}")),
    Case(
        "O2",
        "/o",
        with_mounts(f"11 10 0:60 / /o rw - {OVERLAY}".replace("/q", r"/q\0401")),
    ),
    Case("O1", "/o", with_layers(f"11 10 0:60 / /o rw - {OVERLAY}"), cured=True),
    Case(
        "O2",
        "/o",
        with_layers(f"11 10 0:60 / /o rw - {OVERLAY}".replace("/q", r"/q\0401")),
        cured=True,
    ),
    Case("O3", "/o", with_layers(f"11 10 0:60 / /o rw - {OVERLAY},uuid=on"), cured=True),
    Case(
        "O5",
        "/gone/bin/sh",
        builders.facts(
            AUFS,
            HOST,
            files=(OpenFile(kind=FileKind.MAP, shown=KPath("/gone/bin/sh"), missing=True),),
        ),
    ),
    Case("L0", "/x", with_file(mnt_id=77), cured=True),
    Case("L9", "/proc", builders.facts(ROOT.replace("/ / rw", "/ / ro"), HOST)),
    Case(
        "L9", "/proc", builders.facts(f"{ROOT}\n{PROC.replace('rw -', 'rw,nosymfollow -')}", HOST)
    ),
    Case("L7", "pipe:[12]", with_file(shown=KPath("pipe:[12]"), mnt_id=14, flags=1)),
    Case(
        "F1",
        "/data",
        with_mounts("11 10 8:1 /srv/v /data rw shared:4 - ext4 /dev/sda1 rw", host=SHARED_HOST),
    ),
    Case(
        "F10", "/shm", with_mounts("11 10 0:60 / /shm rw - tmpfs t rw", host=SHM_HOST), cured=True
    ),
    Case(
        "F10",
        "/shm",
        with_mounts(
            "11 10 0:60 / /shm rw - tmpfs t rw", "12 11 0:61 / /shm rw - tmpfs t rw", host=SHM_HOST
        ),
    ),
    Case("F3", "/t", with_mounts(TMPFS)),
    Case("F4", "/t", with_mounts(TMPFS.replace("/t rw", "/t rw,nosymfollow"))),
    Case("F4", "/t", with_mounts(TMPFS.replace("/t rw", "/t rw,idmapped"))),
    Case("F4", "/t", with_mounts(TMPFS.replace("tmpfs t rw", "tmpfs t rw,sync"))),
    Case("F4", "/etc/hosts", with_mounts(BIND.replace("hosts rw", "hosts rw,nosymfollow"))),
    Case(
        "F6",
        "/o/f",
        builders.facts(
            f"{ROOT}\n11 10 0:60 / /o rw - {OVERLAY}",
            f"{HOST}\n2 1 0:60 / /o rw - {OVERLAY}",
            files=(OpenFile(kind=FileKind.FD, shown=KPath("/o/f"), mnt_id=11, stat=FILE),),
        ),
    ),
    Case(
        "F7",
        "/t",
        with_mounts(TMPFS.replace("rw -", "rw master:7 unbindable -")),
        choices=given("--mntns-compat-mode"),
    ),
    Case("F8", "/t", with_mounts(TMPFS.replace("tmpfs t", r"tmpfs a\043b"))),
    Case("F11", "/t", with_mounts(TMPFS.replace("tmpfs t", "tracefs t"))),
    Case("F11", "/t", with_mounts(TMPFS), choices=given("--skip-mnt", "/t")),
    Case(
        "F12",
        "/t",
        with_mounts(TMPFS.replace("tmpfs", "ramfs")),
        choices=given("--enable-fs", "ramfs"),
    ),
    Case(
        "F13",
        "/f",
        facts_with(
            ROOT.replace("10 5 0:50 / /", "11 10 0:50 /gone//deleted /f"),
            InodeType.FILE,
        ),
    ),
    Case(
        "R6",
        "/t",
        with_mounts(
            TMPFS.replace("rw -", "rw master:7 -"), "12 10 0:60 /s /s rw shared:7 - tmpfs t rw"
        ),
    ),
    Case(
        "R6",
        "/t",
        with_mounts(
            TMPFS.replace("rw -", "rw master:7 -"), "12 10 0:60 /s /s rw shared:7 - tmpfs t rw"
        ),
        choices=given("--mntns-compat-mode"),
        cured=True,
    ),
    Case(
        "R7",
        "/u",
        with_mounts(
            TMPFS,
            "12 10 0:60 /s /s rw shared:7 - tmpfs t rw",
            "13 10 0:60 /u /u rw shared:7 - tmpfs t rw",
        ),
    ),
    Case(
        "R15",
        "/proc",
        builders.facts(f"{ROOT}\n11 10 0:60 / /t rw shared:7 - tmpfs t rw", HOST),
        cured=True,
    ),
    Case(
        "R15",
        "/proc",
        builders.facts(
            f"{ROOT}\n11 10 0:60 / /t rw shared:7 - tmpfs t rw\n"
            "12 10 0:60 / /u rw shared:7 - tmpfs t rw\n13 12 0:61 / /u/v rw - tmpfs t rw",
            HOST,
        ),
    ),
    Case(
        "R15",
        "/proc",
        builders.facts(f"{ROOT}\n11 10 0:60 / /t rw shared:7 - tmpfs t rw", HOST),
        choices=given("--mntns-compat-mode"),
        cured=True,
    ),
    Case(
        "R18",
        "/b",
        builders.facts(
            (ROOT + "\n" + ROOT.replace("10 5 0:50 / /", "11 10 0:50 /gone//deleted /b")),
            HOST,
            files=(OpenFile(kind=FileKind.CWD, shown=KPath("/b"), mnt_id=11, stat=DIRECTORY),),
        ),
    ),
    Case("R19", "/b", removed_group("11 10 0:60 /gone /b rw - cgroup2 cgroup2 rw")),
    Case("R16", "/tmp", with_mounts(TMPFS.replace("/t rw -", "/tmp rw unbindable -"))),
    Case(
        "R17",
        "/b",
        with_mounts(
            TMPFS.replace("/t rw", "/t ro"),
            TMPFS.replace("11 10 0:60 / /t", "12 10 0:60 /x//deleted /b"),
        ),
    ),
    Case("R16", "/", with_mounts(root=ROOT.replace("rw -", "rw unbindable -", 1))),
    Case(
        "R17",
        "/b",
        with_mounts(
            *(
                f"{number} 10 0:50 /gone//deleted /{name} rw - overlay overlay "
                "rw,lowerdir=/l,upperdir=/u,workdir=/w"
                for number, name in ((11, "a"), (12, "b"))
            )
        ),
    ),
    Case("F9", "/", with_mounts(root=ROOT.replace("rw -", "rw master:1 -", 1))),
    Case(
        "M4",
        "/bundle/rootfs",
        builders.facts(
            ROOT,
            HOST + "\n2 1 0:99 / /bundle/rootfs rw - overlay o rw,lowerdir=/q",
            rootfs=KPath("/bundle/rootfs"),
        ),
    ),
    Case(
        "M4", "/", recorded(stack=Stack(driver="overlay", lowers=(KPath("/q"),), upper=KPath("/u")))
    ),
    Case("M17", "/c.json", recorded(damage=Damage(file=KPath("/c.json"), what="no JSON"))),
    Case(
        "F14",
        "/dev/shm",
        recorded(
            "12 10 0:70 / /dev/shm rw master:9 - tmpfs shm rw",
            host=f"{HOST}\n2 1 0:70 / /d/shm rw shared:9 - tmpfs shm rw",
            torn=TornDown(path=KPath("/d/shm"), type="tmpfs"),
        ),
    ),
    Case("M6", "l/ABC", with_mounts(root=ROOT.replace("lowerdir=/l", "lowerdir=l/ABC"))),
    Case("M6", "/", with_mounts(root="10 5 0:50 / / rw - fuse.unknown u rw")),
    Case(
        "M8",
        "/proc/100/fd",
        msgspec.structs.replace(
            with_mounts(), unseen=(Unseen(what="/proc/100/fd", why="Permission denied"),)
        ),
    ),
    Case(
        "M9",
        "/",
        msgspec.structs.replace(
            with_mounts(),
            host=msgspec.structs.replace(
                with_mounts().host, namespaces={"mnt": builders.CONTAINER_NS}
            ),
        ),
    ),
    Case(
        "M10",
        "/",
        with_mounts(),
        target(host=with_features(with_mounts(), aufs=False).host),
        choices=Choices(driver="aufs", upper=KPath("/new")),
    ),
    Case("M11", "/u", on_aufs("/l=ro", "/u=rw", "/b=ro+wh")),
    Case("M12", "/u", on_aufs("/u=rw", "/l=ro+wh", "/v=rw")),
    Case("M13", "/", with_mounts(), choices=Choices(driver="unionfs", upper=KPath("/new"))),
    Case(
        "M14",
        "/",
        with_mounts(),
        target(host=with_features(with_mounts(), open_tree=False).host),
        choices=Choices(driver="fuse-overlayfs", upper=KPath("/new")),
    ),
    Case(
        "M15", "/new", with_mounts(), target(upper=DIRECTORY), choices=Choices(upper=KPath("/new"))
    ),
    Case("M16", "/", on_unionfs(), target(survey=Survey(dialect="unionfs"))),
    restoring("M1", "/l", layers={KPath("/u"): DIRECTORY, KPath("/l"): None}),
    restoring("M1", "/l", layers={KPath("/u"): DIRECTORY, KPath("/l"): FILE}),
    restoring("M2", "/u", elsewhere=(ELSEWHERE,)),
    restoring("M2", "/u", elsewhere=(msgspec.structs.replace(ELSEWHERE, pid=0),)),
    restoring(
        "M2",
        "/u",
        holders=(
            Holder(
                pid=7,
                command="sh",
                container="c" * 64,
                mountpoint=KPath("/other"),
                fstype="fuse.fuse-overlayfs",
                dev="0:99",
            ),
        ),
    ),
    restoring("M2", "/u", holders=(Holder(mountpoint=KPath("/m"), fstype="overlay", dev="0:98"),)),
    restoring("M3", "/etc/hosts", sources={KPath("/srv/hosts"): None}),
    restoring("M3", "/c", cured=True, facts=in_group(), sources={KPath("/g/own"): None}),
    restoring("R4", "/etc/hosts", cured=True, mountpoints={KPath("/etc/hosts"): None}),
    restoring("R8", "/etc/conf", files=file_now(size=6)),
    restoring("R9", "/etc/conf", files=file_now(mode=0o100600)),
    restoring("M5", "/etc/conf", files=(TargetFile(path=NAMED.path, stat=FILE, digest="b" * 64),)),
    restoring("M7", "/etc/conf", files=(TargetFile(path=NAMED.path),)),
    Case(
        "F2",
        "/etc/hosts",
        with_mounts(BIND.replace("rw -", "rw master:1 -")),
        target(host=builders.facts(ROOT, HOST.replace(" shared:1", "")).host),
    ),
)


STAGES: Final = (
    "parse", "tree", "sharing", "external", "file", "content", "restore", "rootfs",
)  # fmt: skip


def found(plan: Plan, rule: str) -> list[Finding]:
    """The findings of a rule."""
    return [each for each in plan.findings if each.rule == rule]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.where}")
def test_a_rule_is_found_where_it_is_broken(case: Case) -> None:
    """At the mount, layer or file that breaks it, with what it means and whether it is cured."""
    (finding,) = found(case.plan(), case.rule)
    rule = table()[case.rule]
    assert finding.mount == case.where
    assert finding.cured is case.cured
    assert finding.severity is rule.severity
    assert finding.cure == rule.cure.replace("MOUNTPOINT", finding.mount)
    assert finding.message.endswith(f": {rule.sentence}")
    assert "\n" not in finding.message


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.where}")
def test_what_is_not_cured_decides(case: Case) -> None:
    """A refusal without a cure refuses the plan; what is cured does not count."""
    plan = case.plan()
    if case.cured:
        assert case.rule not in {each.rule for each in plan.refusals + plan.losses}
    elif table()[case.rule].severity is Severity.REFUSAL:
        assert plan.verdict == "refused"
        assert case.rule in {each.rule for each in plan.refusals}
    elif table()[case.rule].severity is Severity.LOSS:
        assert plan.verdict == "ok-with-losses"
        assert case.rule in {each.rule for each in plan.losses}
    else:
        assert plan.verdict == "ok"


def test_a_sound_container_breaks_no_rule() -> None:
    """Nothing is found where nothing is wrong, neither at a dump nor at a restore."""
    facts = with_mounts("11 10 0:51 / /sys rw - sysfs sysfs rw")
    assert make_plan(facts).findings == ()
    assert make_plan(facts, target=target(), files=(NAMED,)).findings == ()
    assert make_plan(facts).verdict == "ok"
    (note,) = make_plan(with_mounts("11 10 0:52 / /dev rw - tmpfs tmpfs rw")).findings
    assert (note.rule, note.severity) == ("F3", "note")


def test_rules_and_predicates_are_one_to_one() -> None:
    """A rule has a predicate, a predicate has a rule."""
    assert set(predicates()) == set(table())


@pytest.mark.parametrize("rule", table().values(), ids=table().keys())
def test_a_rule_says_what_it_means_and_what_helps(rule: Rule) -> None:
    """One sentence and one cure, each of one line; the message of CRIU is a regular expression."""
    for text in (rule.sentence, rule.cure):
        assert text
        assert text == " ".join(text.split())
        assert not text.endswith(".")
    re.compile(rule.message)
    assert rule.stage in STAGES


def test_findings_come_in_the_order_of_the_table() -> None:
    """That is CRIU's order, so that the first finding is what CRIU would say first."""
    text = resources.files("mountcr.rules").joinpath("table.toml").read_text("utf-8")
    assert list(table()) == list(tomllib.loads(text))
    lines = [BIND, "12 10 8:2 / /mnt rw - ext4 /dev/sdb1 rw", "13 10 0:9 / /f rw - fuse.x x rw"]
    rules = [each.rule for each in make_plan(with_mounts(*lines)).findings]
    assert rules == ["V3", "V4", "E6", "E6", "C1"]
    assert rules == sorted(rules, key=list(table()).index)


def test_the_table_is_in_the_order_of_the_stages() -> None:
    """Every stage is known, and rules of an earlier one come first."""
    stages = [rule.stage for rule in table().values()]
    assert set(stages) == set(STAGES)
    assert stages == sorted(stages, key=STAGES.index)


UNREACHABLE: Final = "has unreachable sharing. Try --enable-external-masters."


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ("Error (criu/proc_parse.c:1): Bad format in 21445 mountinfo: 'x'", "P1"),
        ("mnt: FS mnt ./mnt dev 0xfe00000 root / unsupported id 82", "V3"),
        ("mnt: 86:./etc/hosts doesn't have a proper root mount", "V4"),
        (f"mnt: Mount 8 ./m (master_id: 1 shared_id: 0) {UNREACHABLE}", "S1"),
        ("mnt: No parent found for mountpoint 50 (@./v/t/u)", "T1"),
        ("mnt: BUG at criu/mount.c:1115", "S3"),
        ("mnt: Can't open ./v/n\\012l: No such file or directory", "P3"),
        ("Master 24489 doesn't have a read end of the pipe with inode 4023924 opened", "C6"),
        ("mnt: Unable to mount overlay /tmp/m/mnt-0000000053 (id=53): No such file", "O1"),
        ("Can't retrieve FD from socket", "L9"),
        ("mnt-v2: Failed to make mount 49 shared: No such file or directory", "R15"),
        ("mnt-v2: Failed to copy sharing from 6: to 4: Invalid argument", "R6"),
        ("mnt-v2: Failed to copy sharing from -1:/h/B to 6: Invalid argument", "R6"),
        ("mnt-v2: Can't copy sharing from 70[/srv/file] to 71[/srv/dir]", "R7"),
        ("mnt: Unable to mount tmpfs in crtools-put-root.lCcYVJ: Invalid argument", "R16"),
        ("mnt-v2: Can't re-create deleted directory /tmp/x/v/d/g: File exists", "R17"),
        ("mnt: failed to dump fs ./far (fuse.sshfs): always fail", "C1"),
        ("Can't lookup mount=127 for fd=3 path=/etc/hosts", "L0"),
        ("mnt-v2: Can't stat mountpoint /newmp", "R4"),
        ("File etc/hosts has bad size 5 (expect 2)", "R8"),
        ("File etc/hosts has bad mode 0100600 (expect 0100644)", "R9"),
    ],
)  # fmt: skip
def test_a_message_of_criu_is_recognised(message: str, rule: str) -> None:
    """
    What CRIU 4.1.1 printed in experiments fits the expression of its rule and of no other.

    E2 is what other rules are in a nested namespace.
    """
    fitting = [
        name for name, each in table().items() if each.message and re.search(each.message, message)
    ]
    assert [name for name in fitting if name != "E2"] == [rule]


@pytest.mark.parametrize(("length", "expected"), [(4095, []), (4096, ["P1"])])
def test_the_longest_line_that_criu_reads(length: int, expected: list[str]) -> None:
    """CRIU reads 4095 bytes of a line, the newline among them."""
    line = ROOT.replace("lowerdir=/l,", "lowerdir=/l{},")
    root = line.format("x" * (length - len(line.format("")) - 1))
    assert len(root) + 1 == length
    findings = make_plan(with_mounts(root=root)).findings
    assert [each.rule for each in findings] == expected


def test_a_bind_of_what_is_carved_from_the_root_breaks_nothing() -> None:
    """What the container's own root holds comes back with it."""
    line = "11 10 0:50 /etc /etc2 rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w"
    assert make_plan(with_mounts(line)).findings == ()


def test_a_file_of_which_only_the_permissions_changed() -> None:
    """With CRIU's --skip-file-rwx-check they do not count, but the other bits of the mode do."""
    choices = Choices(extra=("--skip-file-rwx-check",))
    for mode, rules in ((0o100600, []), (0o104644, ["R9"])):
        case = restoring("R9", "/etc/conf", files=file_now(mode=mode))._replace(choices=choices)
        assert [each.rule for each in case.plan().refusals] == rules


def test_allowed_changes_are_not_looked_for() -> None:
    """Content that may change is no refusal; a size that CRIU would refuse still is."""
    now = TargetFile(path=NAMED.path, stat=FILE, digest="b" * 64)
    case = restoring("M5", "/etc/conf", files=(now,))._replace(choices=Choices(allow_changed=True))
    assert case.plan().refusals == ()


def test_a_mountpoint_cannot_be_made_in_a_read_only_view() -> None:
    """What is only looked at gets no mountpoint, so that the finding stays open."""
    case = restoring("R4", "/etc/hosts", mountpoints={KPath("/etc/hosts"): None})
    (finding,) = found(case._replace(choices=Choices(readonly=True)).plan(), "R4")
    assert not finding.cured


def test_a_given_source_cures_a_missing_one() -> None:
    """`--bind` names another source, which is then looked for."""
    choices = Choices(binds={KPath("/etc/hosts"): KPath("/other")})
    case = restoring("M3", "/etc/hosts", sources={KPath("/other"): FILE})
    assert found(case._replace(choices=choices).plan(), "M3") == []
    gone = restoring("M3", "/etc/hosts", sources={KPath("/other"): DIRECTORY})
    facts = gone.facts
    typed = builders.table(BIND)[0]
    typed = msgspec.structs.replace(typed, type=InodeType.FILE)
    mounts = (facts.namespaces[0].mounts[0], typed)
    case = gone._replace(facts=builders.facts(mounts, HOST), choices=choices)
    (finding,) = found(case.plan(), "M3")
    assert "/other is a directory, it was a file" in finding.message


def test_a_root_on_the_host_keeps_its_master() -> None:
    """`--root` leaves the root mounted on the host, so that its peer group goes on."""
    facts = with_mounts(root=ROOT.replace("rw -", "rw master:1 -", 1))
    assert found(make_plan(facts, Choices(root_at=KPath("/r"))), "F9") == []


def test_a_nested_namespace_that_shows_what_the_container_shows() -> None:
    """A bind of an external of the container needs no key of its own in a nested namespace."""
    root = ROOT.replace("10 5", "30 29")
    copy = BIND.replace("11 10", "31 30")
    namespace = builders.namespace(f"{root}\n{copy}", identity=4026532777, pid=101)
    plan = make_plan(builders.facts(f"{ROOT}\n{BIND}", HOST, nested=(namespace,)))
    (finding,) = found(plan, "E2")
    assert finding.cured
    assert plan.refusals == ()


@pytest.mark.parametrize(
    "name",
    ["runc-overlay", "docker-overlay2", "podman-overlay", "crun-overlay", "docker26-overlay2"],
)
def test_recorded_containers_that_criu_did_dump_are_not_refused(name: str) -> None:
    """These containers were dumped and restored by their engines: nothing is left uncured."""
    plan = make_plan(builders.facts(builders.recorded(name), builders.recorded(f"{name}.host")))
    assert plan.refusals == ()
    assert {each.rule for each in plan.findings if each.cured} >= {"V4"}
