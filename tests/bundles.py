# SPDX-License-Identifier: Apache-2.0
"""
Documents of bundles, and manifests of dumps, for tests that plan.

Nothing here looks at the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import builders
from mountcr.bundle.document import Bundle, BundleLayer, Digested
from mountcr.bundle.names import UPPER
from mountcr.criu.options import CgroupMode
from mountcr.manifest import Manifest
from mountcr.paths import KPath
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.planning.records import Rootfs
from mountcr.stack import Stack

if TYPE_CHECKING:
    from mountcr.model import Facts
    from mountcr.planning.records import External

__all__ = ["STACK", "bundle", "manifest"]

STACK: Final = Stack(
    driver="overlay",
    lowers=(KPath("/l/1"), KPath("/l/2")),
    upper=KPath("/u"),
    work=KPath("/w"),
)

_ROOT: Final = "1 0 0:50 / / rw - overlay overlay rw,lowerdir=/l/1:/l/2,upperdir=/u,workdir=/w"


def manifest(
    *,
    stack: Stack | None = STACK,
    externals: tuple[External, ...] = (),
    facts: Facts | None = None,
) -> Manifest:
    """Give the manifest of a dump of a container on a stack."""
    return Manifest(
        created="",
        facts=facts or builders.facts(_ROOT),
        rootfs=_rootfs(stack) if stack else None,
        externals=externals,
        inherited=(),
        cgroups=CgroupMode.SOFT,
        files=(),
    )


def _rootfs(stack: Stack) -> Rootfs:
    return Rootfs(
        driver=stack.driver,
        origin=stack,
        layers=stack.lowers,
        data=stack.data,
        upper=stack.upper,
        work=stack.work,
        options=stack.options,
        steps=(),
        provenance=(),
    )


def bundle(
    *, layers: tuple[BundleLayer, ...], driver: str = "overlay", options: tuple[str, ...] = ()
) -> Bundle:
    """Give the document of a bundle with some lower layers, top first."""
    stack = Stack(driver=driver, upper=KPath("/u"), options=options)
    dump = manifest(stack=stack)
    members = (UPPER, *filter(None, (each.member for each in layers)))
    return Bundle(
        mountcr="0",
        kernel="",
        criu="",
        plan=make_plan(dump.facts, Choices()),
        dump=dump,
        layers=layers,
        members=tuple(Digested(name=each, size=0, sha256=f"sha-of-{each[7:]}") for each in members),
    )
