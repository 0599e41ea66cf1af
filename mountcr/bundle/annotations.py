# SPDX-License-Identifier: Apache-2.0
"""
What an image says of the checkpoint in it, by the names that other tools look for.

Podman's names are those of libpod/define/annotations.go, CRI-O's of pkg/annotations, and
`org.criu.checkpoint.*` those of checkpointctl (lib/metadata.go), by which containerd knows a
checkpoint too. They are for people and for tools that list images: mountcr itself reads the
document of the bundle and believes none of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mountcr.bundle.document import BUNDLE_SCHEMA
from mountcr.bundle.layout import ARTIFACT, Image, architecture_of

if TYPE_CHECKING:
    from mountcr.bundle.document import Bundle

__all__ = ["BUNDLE_DIGEST", "CHECKPOINTS", "annotations_of", "image_of", "reference_of"]

BUNDLE_DIGEST: Final = "mountcr.bundle.digest"
"""The SHA-256 of the document of the bundle, in hexadecimal."""

BUNDLE_SCHEMA_NAME: Final = "mountcr.bundle.schema"

_OCI: Final = "org.opencontainers.image"
_PODMAN: Final = "io.podman.annotations.checkpoint"
_CRIO: Final = "io.kubernetes.cri-o.annotations.checkpoint"
_CHECKPOINTCTL: Final = "org.criu.checkpoint"

CHECKPOINTS: Final = frozenset(
    {f"{_PODMAN}.name", f"{_CRIO}.name", f"{_CHECKPOINTCTL}.container.name"}
)
"""Each of them makes an image one of a checkpoint, by one tool or another."""

_RUNTIMES: Final = frozenset({"runc", "crun", "youki"})

_REFERENCE: Final = re.compile(r"[A-Za-z0-9]+(?:[-._][A-Za-z0-9]+)*")
"""One component of the grammar of annotations.md of the OCI image specification."""

_POD: Final = {
    "io.kubernetes.pod.name": "pod.name",
    "io.kubernetes.pod.uid": "pod.id",
    "io.kubernetes.pod.namespace": "pod.namespace",
}
"""Labels that the kubelet gives to containers, and what checkpointctl calls that."""


def image_of(bundle: Bundle, machine: str, *, digest: str = "", runtime: str = "") -> Image:
    """
    Say what the image of a checkpoint is; `machine` is that of uname(2).

    `digest` is that of the document where there is a bundle in it, and empty for an archive of
    another tool; `runtime` what podman calls the OCI runtime that is to restore it, if that can.
    """
    architecture = architecture_of(machine)
    return Image(
        reference=reference_of(bundle),
        created=bundle.dump.created,
        architecture=architecture,
        annotations=annotations_of(bundle, architecture, digest=digest, runtime=runtime),
        artifact=ARTIFACT if digest else "",
    )


def annotations_of(
    bundle: Bundle, architecture: str, *, digest: str = "", runtime: str = ""
) -> dict[str, str]:
    """Give the annotations of an image: names to values, none of them empty."""
    container = bundle.dump.facts.container
    name = container.name or container.id
    known = runtime or (container.engine if container.engine in _RUNTIMES else "")
    given = {
        f"{_OCI}.created": bundle.dump.created,
        f"{_OCI}.title": f"a checkpoint of {name}",
        f"{_OCI}.base.name": container.image,
        BUNDLE_DIGEST: digest,
        BUNDLE_SCHEMA_NAME: digest and BUNDLE_SCHEMA,
        f"{_PODMAN}.name": name,
        f"{_PODMAN}.rawImageName": container.image,
        f"{_PODMAN}.rootfsImageName": container.image,
        f"{_PODMAN}.criu.version": bundle.criu,
        f"{_PODMAN}.host.arch": architecture,
        f"{_PODMAN}.host.kernel": bundle.kernel,
        f"{_PODMAN}.runtime.name": runtime,
        f"{_CRIO}.name": name,
        f"{_CRIO}.rootfsImageName": container.image,
        f"{_CHECKPOINTCTL}.engine.name": container.engine,
        f"{_CHECKPOINTCTL}.container.name": name,
        f"{_CHECKPOINTCTL}.rootfsImageName": container.image,
        f"{_CHECKPOINTCTL}.criu.version": bundle.criu,
        f"{_CHECKPOINTCTL}.host.arch": architecture,
        f"{_CHECKPOINTCTL}.host.kernel": bundle.kernel,
        f"{_CHECKPOINTCTL}.runtime.name": known,
        **{f"{_CHECKPOINTCTL}.{to}": container.labels.get(label, "") for label, to in _POD.items()},
    }
    return {key: value for key, value in sorted(given.items()) if value}


def reference_of(bundle: Bundle) -> str:
    """Give what an image is called in its layout: as its container where that can be."""
    container = bundle.dump.facts.container
    for each in (container.name, container.id):
        if _REFERENCE.fullmatch(each):
            return each[:128]
    return "checkpoint"
