# SPDX-License-Identifier: Apache-2.0
"""Claims about two hosts compared, whatever hosts they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mountcr.hosts.compatibility import RULES, CompatDocument, compare, findings
from mountcr.hosts.features import CRIU_FEATURES, FEATURES
from mountcr.hosts.known import table
from mountcr.hosts.profile import Needs, Profile
from mountcr.hosts.records import Answer, CgroupReport, CpuReport
from mountcr.model import Severity
from mountcr.planning.records import Verdict

if TYPE_CHECKING:
    from mountcr.model import Finding

NAMES: Final = [*FEATURES, *(f"criu {each}" for each in CRIU_FEATURES)]
DRIVERS: Final = ["overlay", "vfs", "aufs", "unionfs", "fuse-overlayfs"]
OPTIONS: Final = ["metacopy", "redirect_dir", "index", "nfs_export", "xino", "userxattr"]
INSTRUCTIONS: Final = ["avx2", "avx512f", "fpu", "sse2", "xsave"]
PARAMETERS: Final = ["index", "metacopy", "redirect_dir", "redirect_always_follow", "xino_auto"]

VERSIONS: Final = st.sampled_from(["", "3.15", "3.17.1", "4.1.1", "4.2"])
KERNELS: Final = st.sampled_from(["", "4.1.6", "5.10.0-30", "6.1", "6.18.44", "7.2"])
ANSWERS: Final = st.sampled_from(Answer)
FEATURE_SETS: Final = st.dictionaries(st.sampled_from(NAMES), st.booleans())
PARTS: Final = st.lists(st.sampled_from(["cpu", "memory", "pids"]), unique=True).map(tuple)
CGROUPS: Final = st.builds(
    CgroupReport, layout=st.sampled_from(["v1", "v2", "hybrid", "none"]), v1=PARTS, v2=PARTS
)
CPUS: Final = st.builds(
    CpuReport,
    told_by=st.just("criu"),
    features=st.lists(st.sampled_from(INSTRUCTIONS), unique=True).map(tuple),
)
NEEDS: Final = st.builds(
    Needs,
    driver=st.sampled_from(["", *DRIVERS]),
    options=st.dictionaries(st.sampled_from(OPTIONS), st.sampled_from(["on", "off"])),
    features=st.lists(
        st.sampled_from(["time namespaces", "user namespaces", "cgroup namespaces"]), unique=True
    ).map(tuple),
    cgroups=st.booleans(),
)
HOSTS: Final = st.builds(
    Profile,
    document=st.just("mountcr/doctor/1"),
    kernel=KERNELS,
    machine=st.sampled_from(["", "x86_64", "aarch64"]),
    criu=VERSIONS,
    restore=st.none() | ANSWERS,
    drivers=st.dictionaries(st.sampled_from(DRIVERS), ANSWERS),
    features=FEATURE_SETS,
    parameters=st.dictionaries(st.sampled_from(PARAMETERS), st.sampled_from(["Y", "N"])),
    cgroups=st.none() | CGROUPS,
    cpu=st.none() | CPUS,
    known=st.none() | st.lists(st.sampled_from(sorted(table())), unique=True).map(tuple),
    needs=st.none() | NEEDS,
)


def keys(found: tuple[Finding, ...]) -> set[tuple[str, str]]:
    """Give what findings are about, without their words."""
    return {(each.rule, each.mount) for each in found}


@given(HOSTS)
def test_a_host_and_itself(host: Profile) -> None:
    """There is nothing between them."""
    assert findings(host, host) == ()


@given(HOSTS, HOSTS, st.sampled_from(NAMES))
def test_a_feature_that_is_missing_too(source: Profile, target: Profile, name: str) -> None:
    """What the target lacks more takes no finding away."""
    worse = msgspec.structs.replace(target, features={**target.features, name: False})
    assert keys(findings(source, target)) <= keys(findings(source, worse))


@given(HOSTS, HOSTS, st.sampled_from(DRIVERS))
def test_a_driver_that_is_missing_too(source: Profile, target: Profile, name: str) -> None:
    """Nor does a driver that cannot be mounted."""
    worse = msgspec.structs.replace(target, drivers={**target.drivers, name: Answer.NO})
    assert keys(findings(source, target)) <= keys(findings(source, worse))


@given(HOSTS, HOSTS, CPUS)
def test_a_processor_with_less(source: Profile, target: Profile, cpu: CpuReport) -> None:
    """Nor does an instruction that is not there."""
    target = msgspec.structs.replace(target, cpu=cpu)
    less = msgspec.structs.replace(cpu, features=cpu.features[1:])
    worse = msgspec.structs.replace(target, cpu=less)
    assert keys(findings(source, target)) <= keys(findings(source, worse))


@given(HOSTS, HOSTS)
def test_what_every_finding_has(source: Profile, target: Profile) -> None:
    """A rule of the table, something that it is about, words, and a rule's only once about it."""
    found = findings(source, target)
    assert all(each.rule in RULES and each.mount and each.message for each in found)
    assert len(keys(found)) == len(found)


@given(HOSTS, HOSTS)
def test_the_verdict_is_that_of_the_worst(source: Profile, target: Profile) -> None:
    """And the document goes to JSON and back."""
    found = compare(source, target, files=("a", "b"))
    severities = {each.severity for each in found.findings}
    assert (found.verdict is Verdict.REFUSED) == (Severity.REFUSAL in severities)
    assert (found.verdict is Verdict.OK) == (severities <= {Severity.NOTE})
    assert msgspec.json.decode(msgspec.json.encode(found), type=CompatDocument) == found
