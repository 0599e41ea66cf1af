# SPDX-License-Identifier: Apache-2.0
"""
What is known of a host, and of the container that comes from it, whoever told; pure.

A doctor tells all of a host and of no container. The manifest of a dump, and facts, tell of one
container and, of its host, what a plan takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.criu.options import CgroupMode
from mountcr.hosts.records import Answer, CgroupReport, CpuReport, DoctorDocument
from mountcr.planning.cgroups import choose_mode, layout
from mountcr.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.manifest import Manifest
    from mountcr.model import Facts
    from mountcr.stack import Stack

__all__ = ["Needs", "Profile", "of_doctor", "of_facts", "of_manifest"]

_KINDS: Final = {
    "time": "time namespaces",
    "user": "user namespaces",
    "cgroup": "cgroup namespaces",
}
"""Namespaces that a kernel may lack, and the feature that it then has not."""


class Needs(Record, frozen=True, kw_only=True):
    """
    What one container takes to come back.

    `driver` is the storage driver of its root, empty where that is not known. `options` are those
    of its overlays, by name, with the value that they have; `data-only layers` among them.
    `cgroups` tells whether CRIU brings its control groups back.
    """

    driver: str = ""
    options: dict[str, str] = {}
    features: tuple[str, ...] = ()
    cgroups: bool = False


class Profile(Record, frozen=True, kw_only=True):
    """
    What is known of a host; what is empty or missing is not known.

    `features` has the names of doctor's checks. `restore` is the verdict on the host as a whole,
    `drivers` are the verdicts on a restore on each, `known` the ids of the pairs of CRIU and
    kernel that the host is said to have and that did not turn out otherwise.
    """

    document: str
    kernel: str = ""
    machine: str = ""
    criu: str = ""
    restore: Answer | None = None
    because: str = ""
    hint: str = ""
    drivers: dict[str, Answer] = {}
    reasons: dict[str, str] = {}
    features: dict[str, bool] = {}
    parameters: dict[str, str] = {}
    cgroups: CgroupReport | None = None
    cpu: CpuReport | None = None
    known: tuple[str, ...] | None = None
    needs: Needs | None = None


def of_doctor(found: DoctorDocument) -> Profile:
    """Give what a doctor says of its host."""
    return Profile(
        document=found.schema,
        kernel=found.kernel,
        machine=found.machine,
        criu=found.criu.version,
        restore=found.restore.verdict,
        because=found.restore.because,
        hint=found.restore.hint,
        drivers={each.driver: each.restore.verdict for each in found.drivers},
        reasons={each.driver: each.restore.because for each in found.drivers},
        features={each.name: each.works for each in found.checks},
        parameters=found.overlay.parameters,
        cgroups=found.cgroups,
        cpu=found.cpu if found.cpu.told_by else None,
        known=tuple(each.id for each in found.criu.known if not each.contradicted),
    )


def of_facts(facts: Facts, origin: Stack | None) -> Profile:
    """Give what facts say of a container, whose root is `origin`, and of its host."""
    mode, _ = choose_mode(facts, None)
    return _observed(facts, facts.schema, (origin,) if origin else (), mode)


def of_manifest(manifest: Manifest) -> Profile:
    """Give what the manifest of a dump says of the container and of the host it was on."""
    stacks = [each.stack for each in manifest.externals if each.stack]
    if manifest.rootfs:
        stacks.insert(0, manifest.rootfs.origin)
    return _observed(manifest.facts, manifest.schema, stacks, manifest.cgroups)


def _observed(facts: Facts, document: str, stacks: Iterable[Stack], mode: CgroupMode) -> Profile:
    host, found = facts.host, tuple(stacks)
    known = host.capabilities
    return Profile(
        document=document,
        kernel=known.kernel if known else "",
        criu=host.criu.version if host.criu else "",
        features=known.features if known else {},
        parameters=host.overlay,
        cgroups=CgroupReport(layout=layout(host.mounts)) if host.mounts else None,
        needs=Needs(
            driver=found[0].driver if found else "",
            options=_options(found),
            features=tuple(_namespaces(facts)),
            cgroups=mode not in {CgroupMode.IGNORE, CgroupMode.NONE},
        ),
    )


def _options(stacks: Iterable[Stack]) -> dict[str, str]:
    """Give the options of all overlays by name; a flag has the value `on`."""
    found: dict[str, str] = {}
    for stack in stacks:
        if stack.driver == "overlay":
            pairs = (each.partition("=") for each in stack.options)
            found |= {name: value or "on" for name, _, value in pairs}
            if stack.data:
                found["data-only layers"] = "on"
    return found


def _namespaces(facts: Facts) -> list[str]:
    """Name the features behind the namespaces that some task does not share with the host."""
    own = facts.host.namespaces
    return [
        feature
        for kind, feature in _KINDS.items()
        if any(
            kind in own and task.namespaces.get(kind, own[kind]) != own[kind]
            for task in facts.tasks
        )
    ]
