# SPDX-License-Identifier: Apache-2.0
"""
OCI bundles: a directory with config.json and a root file system, running or not.

A bundle says what a container is to be, never whether one runs: that is for the runtimes to tell.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Final

from mountcr.engines.records import OciSpec, load, namespace_paths
from mountcr.engines.spec import with_spec
from mountcr.errors import NotFoundError
from mountcr.model import Container
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.container import Damage
    from mountcr.engines.roots import Roots

__all__ = ["Bundle", "is_bundle", "read"]

_CONFIG: Final = "config.json"


class Bundle:
    """Bundles are found by their path only."""

    name: ClassVar[str] = "bundle"

    def containers(self, roots: Roots) -> Iterator[Container]:  # noqa: ARG002 -- the Protocol's
        """Give nothing: nobody keeps a list of bundles."""
        return iter(())

    def describe(self, container: Container, roots: Roots) -> Container:  # noqa: ARG002
        """Add the mounts and annotations of config.json."""
        return with_spec(container)

    def damages(self) -> Sequence[Damage]:
        """Give nothing: what is damaged is a container's."""
        return ()

    def lookup(self, reference: str, roots: Roots) -> Sequence[Container] | None:  # noqa: ARG002
        """
        Take the path of a bundle; None for a word without a slash that is none.

        Raises NotFoundError when there is no bundle, DocumentError when its config.json is damaged,
        PrivilegeError when it may not be read.
        """
        return (read(reference),) if "/" in reference or is_bundle(reference) else None


def is_bundle(path: str) -> bool:
    """Tell whether `path` is a directory with a config.json."""
    return os.path.lexists(os.path.join(path, _CONFIG))


def read(path: str) -> Container:
    """
    Read a bundle as a container that does not run: its id is the name of the directory.

    Raises NotFoundError when there is no config.json, DocumentError naming the file and the byte or
    field when it is damaged, PrivilegeError when it may not be read.
    """
    bundle = os.path.abspath(path)
    config = f"{bundle}/{_CONFIG}"
    if not is_bundle(bundle):
        raise NotFoundError(
            f"{bundle} is no OCI bundle: it has no {_CONFIG}",
            hint="give the directory that holds config.json, or an id, a name or a pid",
        )
    spec = load(config, OciSpec)
    pinned = namespace_paths(spec.linux.namespaces if spec.linux else None)
    provenance = [f"{config}: root.path"]
    if spec.hostname:
        provenance.append(f"{config}: hostname")
    if pinned:
        provenance.append(f"{config}: linux.namespaces")
    return Container(
        id=os.path.basename(bundle),
        engine=Bundle.name,
        name=spec.hostname,
        bundle=encode(bundle),
        rootfs=encode(os.path.normpath(os.path.join(bundle, spec.root.path))),
        namespace_paths=pinned,
        provenance=tuple(provenance),
    )
