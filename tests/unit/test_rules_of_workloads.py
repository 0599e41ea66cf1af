# SPDX-License-Identifier: Apache-2.0
"""
Every rule about what tasks use is found on facts that break it, and not on a later kernel or CRIU.

What CRIU really says to such containers is asked of CRIU elsewhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

import builders
from mountcr.model import Capabilities, Criu, FileKind, InodeType, PathStat, Severity
from mountcr.paths import KPath
from mountcr.planning.planner import make_plan
from mountcr.rules.table import table
from unit import test_rules, test_rules_of_files, test_rules_of_networks
from unit.test_rules import HOST, NAMED, Case, found, target, with_mounts
from unit.test_rules_of_files import held, root_task

if TYPE_CHECKING:
    from mountcr.model import Facts, Host
    from mountcr.target import Target

HUGE: Final = 2 << 20
RING: Final = KPath(r"/[aio]\040(deleted)")
KVM: Final = PathStat(
    dev="0:6", ino=9, mode=0o20666, nlink=1, size=0, rdev="10:232", type=InodeType.CHARACTER
)


def using(**fields: Any) -> Facts:
    """Facts of a container whose task uses something."""
    return root_task(with_mounts(), **fields)


def mapping(shown: str) -> Facts:
    """Facts of a container whose task has something mapped that is on no mount."""
    return held(kind=FileKind.MAP, fd=-1, mnt_id=-1, shown=KPath(shown), stat=None, at_path=None)


def descriptor(shown: str, **fields: Any) -> Facts:
    """Facts of a container whose task has something open that is on no mount."""
    return held(**{"mnt_id": -1, "stat": None, "at_path": None, **fields}, shown=KPath(shown))


def on(facts: Facts, kernel: str = "", *, criu: str = "4.1.1", **fields: Any) -> Facts:
    """The same on a host with some kernel, CRIU, and features of the kernel."""
    return msgspec.structs.replace(facts, host=host(facts.host, kernel, criu=criu, **fields))


def host(
    base: Host, kernel: str = "", *, criu: str = "4.1.1", features: Any = None, **fields: Any
) -> Host:
    """A host with some kernel, CRIU, and features of the kernel."""
    return msgspec.structs.replace(
        base,
        criu=Criu(command=("criu",), version=criu),
        capabilities=Capabilities(kernel=kernel, features=features or {}),
        **fields,
    )


def there(kernel: str = "", **fields: Any) -> Target:
    """A host of a restore."""
    return target(host=host(with_mounts().host, kernel, **fields))


def in_time(inside: int) -> Facts:
    """Facts of a container in a time namespace, of a host whose own is 7."""
    facts = using(namespaces={"mnt": builders.CONTAINER_NS, "time": inside})
    return on(facts, namespaces={**facts.host.namespaces, "time": 7})


def sharing(ipc: int) -> Facts:
    """Facts of a container with shared memory in an IPC namespace, of a host whose own is 7."""
    facts = root_task(
        mapping(r"/SYSV00001234\040(deleted)"),
        namespaces={"mnt": builders.CONTAINER_NS, "ipc": ipc},
    )
    return on(facts, namespaces={**facts.host.namespaces, "ipc": 7})


PAGE: Final = {"vsyscall": True}
CASES: Final = (
    Case("W1", "ptrace", using(tracer=4711)),
    Case("W2", "anon_inode:[io_uring]", mapping("anon_inode:[io_uring]")),
    Case("W2", r"/secretmem\040(deleted)", mapping(r"/secretmem\040(deleted)")),
    Case("W3", r"/SYSV00001234\040(deleted)", sharing(7)),
    Case("W4", "seccomp", on(using(seccomp=2), "4.3.6")),
    Case("W5", "hugetlb", on(using(huge=HUGE), huge=0)),
    Case("W6", "anon_inode:[userfaultfd]", descriptor("anon_inode:[userfaultfd]")),
    Case("W6", "anon_inode:kvm-vm", descriptor("anon_inode:kvm-vm")),
    Case("W6", "/dev/kvm", held(shown=KPath("/dev/kvm"), stat=KVM, at_path=KVM)),
    Case("W6", "anon_inode:[pidfd]", on(
        descriptor("anon_inode:[pidfd]", pidfd=100), criu="4.0")),
    Case("W7", "pidfd of 1", descriptor("anon_inode:[pidfd]", pidfd=1)),
    Case("W7", "pidfd of 0", descriptor("pidfd:[7]", pidfd=0)),
    Case("W8", "rseq", on(using(rseq=True), "5.10.0-32-amd64", features={"get_rseq_conf": False})),
    Case("W8", "rseq", on(using(rseq=True), "5.10.0-32-amd64")),
    Case("W9", "madvise", on(using(guarded=True), "6.18")),
    Case("W10", "time:[8]", in_time(8), there(namespaces={"mnt": 5})),
    Case("W11", "hugetlb", using(huge=HUGE), there(huge=HUGE - 1)),
    Case("W12", "aio", on(mapping(RING), "3.18.140")),
    Case("W12", "aio", mapping(RING), there("3.18.140")),
    Case("W13", "vsyscall", on(using(), features=PAGE), there(features={"vsyscall": False})),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.where}")
def test_a_rule_is_found_where_it_is_broken(case: Case) -> None:
    """With what it means, and nothing cures it; a refusal refuses the plan."""
    rule = table()[case.rule]
    plan = case.plan()
    (finding,) = found(plan, case.rule)
    assert (finding.mount, finding.cured) == (case.where, False)
    assert finding.severity is rule.severity
    assert finding.message.endswith(f": {rule.sentence}")
    refused = [each.rule for each in plan.refusals]
    assert refused == ([case.rule] if rule.severity is Severity.REFUSAL else [])


def test_every_rule_has_a_case() -> None:
    """No rule is without facts that it is found on."""
    more = {"R5", "R10"}  # of one file or mountpoint on the target: with those of files
    networks = test_rules_of_networks.CASES
    cases = (*test_rules.CASES, *test_rules_of_files.CASES, *networks, *CASES)
    assert {case.rule for case in cases} | more == set(table())


SOUND: Final = {
    "nothing at all": using(),
    "an older facts file": on(using(huge=HUGE)),
    "filters": on(using(seccomp=2), "4.4"),
    "strict seccomp": on(using(seccomp=1), "4.3"),
    "rseq, told to tracers": on(using(rseq=True), "5.10", features={"get_rseq_conf": True}),
    "rseq of a later kernel": on(using(rseq=True), "5.13"),
    "rseq with a CRIU that does not look": on(using(rseq=True), "5.10", criu="3.16.1"),
    "guards with a later CRIU": on(using(guarded=True), "6.18", criu="4.2"),
    "huge pages, others free": on(using(huge=HUGE), huge=HUGE),
    "no huge pages": on(using(), huge=0),
    "a ring": on(mapping(RING), "3.19"),
    "its own IPC namespace": sharing(8),
    "a process of the container": descriptor("anon_inode:[pidfd]", pidfd=100),
    "a process that was reaped": descriptor("pidfd:[7]", pidfd=-1),
    "eventfd": descriptor("anon_inode:[eventfd]"),
    "inotify": descriptor("anon_inode:inotify"),
    "tun": held(
        shown=KPath("/dev/net/tun"),
        stat=msgspec.structs.replace(KVM, rdev="10:200"),
        at_path=msgspec.structs.replace(KVM, rdev="10:200"),
    ),
    "its own time namespace": in_time(8),
}


@pytest.mark.parametrize("facts", SOUND.values(), ids=SOUND.keys())
def test_what_breaks_no_rule(facts: Facts) -> None:
    """Nothing is found where CRIU would not refuse."""
    assert make_plan(facts).findings == ()


@pytest.mark.parametrize(
    ("facts", "now"),
    [
        (in_time(8), there(namespaces={"mnt": 5, "time": 6})),
        (in_time(8), there(namespaces={})),
        (in_time(7), there(namespaces={"mnt": 5})),
        (using(huge=HUGE), there(huge=HUGE)),
        (using(huge=HUGE), there()),
        (on(mapping(RING), "3.18"), there("4.1")),
        (on(using(), features=PAGE), there(features=PAGE)),
        (using(), there(features={"vsyscall": False})),
    ],
)
def test_a_restore_that_breaks_no_rule(facts: Facts, now: Target) -> None:
    """What is used is there on the host of the restore, or nobody knows."""
    assert make_plan(facts, target=now, files=(NAMED,)).findings == ()


def test_a_map_of_bpf_may_be_known() -> None:
    """To a CRIU with libbpf, which nothing tells."""
    plan = make_plan(descriptor("anon_inode:bpf-map"))
    assert [(each.rule, each.severity) for each in plan.findings] == [("W6", Severity.NOTE)]


def test_criu_may_remember_the_device_of_huge_pages() -> None:
    """W5: where it has a cache, it may have been made while there were some."""
    facts = on(using(huge=HUGE), huge=0, features={"criu cache": True})
    assert [each.severity for each in make_plan(facts).findings] == [Severity.NOTE]


def test_a_thing_that_many_tasks_use_is_found_once() -> None:
    """The first of them is named, and how many there are."""
    facts = on(using(rseq=True), "5.10")
    (task,) = facts.tasks
    more = tuple(msgspec.structs.replace(task, pid=pid) for pid in (101, 102))
    (finding,) = make_plan(msgspec.structs.replace(facts, tasks=(task, *more))).findings
    assert finding.message.startswith("pid 100 and 2 more: ")


def test_the_cure_of_rseq() -> None:
    """W8 says how to start the program on that kernel, and since which one it need not."""
    (finding,) = make_plan(on(using(rseq=True), "5.10")).findings
    assert "GLIBC_TUNABLES=glibc.pthread.rseq=0" in finding.cure
    assert "Linux 5.13" in finding.cure


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ("Unseizable non-zombie 26995 found, state t, err -1/10", "W1"),
        ("Unable to detach from 9194: No such process", "W1"),
        ("Unknown shit 600 (anon_inode:[io_uring])", "W2"),
        ("Unknown shit 100600 (/secretmem (deleted))", "W2"),
        ("Task 27046 with SysVIPC shmem map @7f0978975000 doesn't live in IPC ns", "W3"),
        ("Can't dump file 3 of that type [600] (anon anon_inode:bpf-map)", "W6"),
        ("Can't dump file 3 of that type [20600] (chr 10:232)", "W6"),
        ("send_fds failed (-22)", "W6"),
        ("Can't retrieve FDs from socket", "W6"),
        ("pidfd: pidfd pid 1 is not a part of process tree..", "W7"),
        ("137 has rseq but kernel lacks get_rseq_conf feature", "W8"),
        ("Can't splice all pages to pipe (45056/32)", "W9"),
        ("Can't splice pages to pipe (-14/1/1)", "W9"),
        ("Can't mmap shmem 0x6d8d0b size=2097152: Cannot allocate memory", "W11"),
        ("Can't restore 0x7f7558000000 mapping with 0xfffffffffffffff4", "W11"),
    ],
)
def test_a_message_of_criu_is_recognised(message: str, rule: str) -> None:
    """What CRIU 4.1.1 printed in experiments fits the expression of its rule and of no other."""
    fitting = [
        name for name, each in table().items() if each.message and re.search(each.message, message)
    ]
    assert [name for name in fitting if name != "E2"] == [rule]


@pytest.mark.parametrize("path", ["/memfd:x (deleted)", "/anon_hugepage (deleted)"])
def test_a_huge_page_that_is_taken_for_a_file(path: str) -> None:
    """W5 has the message of other rules, about what is no file."""
    message = f"Can't lookup mount=18 for fd=-3 path={path}"
    assert re.search(table()["W5"].message, message)
    assert not re.search(table()["W5"].message, "Can't lookup mount=18 for fd=3 path=/etc/x")


def test_facts_of_an_older_version_are_read() -> None:
    """What they do not tell is nothing that a rule is found on."""
    facts = builders.facts(test_rules.ROOT, HOST)
    text = msgspec.json.encode(facts)
    for name in (b"tracer", b"seccomp", b"huge", b"rseq", b"guarded", b"pidfd"):
        assert b'"%s"' % name not in text
    assert msgspec.json.decode(text, type=type(facts)) == facts
