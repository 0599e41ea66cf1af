# SPDX-License-Identifier: Apache-2.0
"""
Where engines look: what the user named, what the environment names, and the usual places.

Each engine knows its own usual places, configuration files and variables, and whether a directory
that was named has its layout; here is only what was said to all of them.
"""

from __future__ import annotations

import os
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from mountcr.paths import KPath, encode, fsdecode
from mountcr.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Place", "Roots"]

_RUNTIMES: Final = ("runc", "crun", "youki")
_EXTRA_ROOTS: Final = "MOUNTCR_RUNTIME_ROOT"


class Place(Record, frozen=True, kw_only=True):
    """
    Where one instance of an engine keeps its state.

    `data` is the directory that survives a boot: the data root of Docker, the graph root of
    containers/storage, the root of containerd. `run` is the other one, None for the engine's
    usual: the exec root of Docker, the run root of containers/storage, the state of containerd.
    """

    data: KPath
    run: KPath | None = None


class Roots(Record, frozen=True, kw_only=True):
    """
    Where engines look.

    `runtime` are root directories of OCI runtimes, each of any runtime. `places` are what the user
    named for engines; without any, and with `usual`, they look where they keep their state unless
    told otherwise, which `environ` may do. `engine` is the only one that is asked, `namespace` the
    only one of containerd that is looked into.
    """

    runtime: tuple[KPath, ...] = ()
    places: tuple[Place, ...] = ()
    usual: bool = False
    environ: dict[str, str] = {}
    engine: str = ""
    namespace: str = ""

    @classmethod
    def of_host(
        cls,
        extra: Iterable[str] = (),
        environ: Mapping[str, str] | None = None,
        *,
        data: Iterable[str] = (),
        run: Iterable[str] = (),
        engine: str = "",
        namespace: str = "",
    ) -> Roots:
        """
        Give the roots of this host: those that were named, and the usual ones.

        Runtime roots are `extra` and, separated by colons, the variable MOUNTCR_RUNTIME_ROOT, then
        those that the runtimes take unless told otherwise. Those of a user who is not root lie in
        $XDG_RUNTIME_DIR, or /run/user/<uid> where that is not set. `data` are the data roots of
        engines; `run` are what belongs to them, in their order, as far as it is given.
        """
        environ = os.environ if environ is None else environ
        named = [*extra, *environ.get(_EXTRA_ROOTS, "").split(":")]
        bases = ["/run"]
        user = os.geteuid()
        if user:
            bases.append(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
        usual = [f"{base}/{runtime}" for base in bases for runtime in _RUNTIMES]
        found = [*(os.path.abspath(root) for root in named if root), *usual]
        pairs = zip_longest(data, run)
        return cls(
            runtime=tuple(encode(root) for root in found),
            places=tuple(
                Place(data=_absolute(place), run=_absolute(own) if own else None)
                for place, own in pairs
                if place
            ),
            usual=True,
            environ=dict(environ),
            engine=engine,
            namespace=namespace,
        )

    def directories(self) -> Iterator[str]:
        """Give the runtime roots that are there, each once however it is spelled."""
        seen: set[tuple[int, int]] = set()
        for root in self.runtime:
            path = fsdecode(root)
            try:
                found = os.stat(path)
            except OSError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                yield path

    @property
    def looks_everywhere(self) -> bool:
        """Whether an engine shall look in its usual places."""
        return self.usual and not self.places


def _absolute(path: str) -> KPath:
    return encode(os.path.abspath(path))
