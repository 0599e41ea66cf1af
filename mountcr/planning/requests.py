# SPDX-License-Identifier: Apache-2.0
"""
Paths of a host that a container brought from elsewhere: requests, and who answers them.

A bundle says which paths of its own host were mounted into the container, and which files of it
were open. What came with it, what the user names for a mountpoint, and what lies in a directory
that the user allows, is taken; of the rest only what every host has and nobody can do harm with.
(CVE-2024-8676: mounts of an archive that nobody had asked for.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import devices, paths
from mountcr.model import InodeType
from mountcr.paths import KPath
from mountcr.planning.descriptors import STANDARD_STREAMS
from mountcr.planning.names import Names
from mountcr.planning.steps import Directory, Fill, Mountpoint, Scratch, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountcr.model import Facts
    from mountcr.planning.choices import Choices
    from mountcr.planning.records import External, Inherited, Plan
    from mountcr.target import Target

__all__ = [
    "answered",
    "answered_files",
    "lying",
    "made_sources",
    "request_steps",
    "requested_paths",
]

_DEVICES: Final = frozenset(KPath(f"/dev/{name}") for name in devices.COMMON)

_KERNELS: Final = frozenset({"cgroup", "cgroup2"})
"""File systems of the kernel, of which CRIU's own images tell what the tasks may do with them."""

_CGROUPS: Final = KPath("/sys/fs/cgroup")
"""Where every host has them; anywhere else a bundle only says that it is one."""

_MADE: Final = "made"
"""The directory beside an imported container for what is made for its mounts."""


def answered(
    facts: Facts, externals: tuple[External, ...], choices: Choices, target: Target | None = None
) -> tuple[External, ...]:
    """
    Give externals with the sources that they may have; those of a dump on this host as are.

    With a `target` they are where symbolic links lead to.
    """
    if facts.imported is None:
        return externals
    names = Names()
    made = paths.join(facts.imported.at, _MADE)
    return tuple(
        _answered(facts, each, choices, target, paths.join(made, names.give(each.mountpoint)))
        for each in externals
    )


def _answered(
    facts: Facts, external: External, choices: Choices, target: Target | None, made: KPath
) -> External:
    if external.mountpoint in choices.binds:
        return external
    brought = _brought(facts, external)
    if brought is not None:
        return msgspec.structs.replace(
            external, source=made if external.fstype == "tmpfs" else brought, stack=None
        )
    wanted = external.source
    if wanted is not None and external.stack is None:
        source = _allowed(wanted, choices, target)
        if _is_everywhere(external, wanted):
            source = wanted
        if source is not None:
            return msgspec.structs.replace(external, source=source)
    if choices.create_missing or _is_torn_down(facts, wanted):
        return msgspec.structs.replace(external, source=made, stack=None)
    return msgspec.structs.replace(
        external, source=None, stack=None, requested=wanted or external.mountpoint
    )


def _brought(facts: Facts, external: External) -> KPath | None:
    """Give what came with a bundle for a mount."""
    return facts.imported.sources.get(external.mountpoint) if facts.imported else None


def lying(facts: Facts, externals: Iterable[External]) -> tuple[External, ...]:
    """
    Give externals with the sources at which their content can be looked at before a restore.

    What came in a bundle for a tmpfs lies on the disk until it is copied into one.
    """
    made = dict(made_sources(facts, externals))
    return tuple(
        msgspec.structs.replace(each, source=_brought(facts, each) or each.source)
        if each in made
        else each
        for each in externals
    )


def _is_everywhere(external: External, wanted: KPath) -> bool:
    """Tell what every host has, whatever the bundle says that it is."""
    if external.fstype in _KERNELS:
        return paths.is_beneath(wanted, _CGROUPS) and not _goes_up(wanted)
    return wanted in _DEVICES and external.type is InodeType.CHARACTER


def _allowed(wanted: KPath, choices: Choices, target: Target | None) -> KPath | None:
    """Give what is in an allowed directory, where links lead to if that is known; else None."""
    if _goes_up(wanted) or not any(paths.is_beneath(wanted, each) for each in choices.allowed):
        return None
    if target is None:
        return wanted
    real = target.real.get(wanted, wanted)
    places = [target.real.get(each, each) for each in choices.allowed]
    return real if any(paths.is_beneath(real, each) for each in places) else None


def _goes_up(path: KPath) -> bool:
    return b".." in paths.decode(path).split(b"/")


def answered_files(
    facts: Facts,
    descriptors: tuple[Inherited, ...],
    choices: Choices,
    target: Target | None = None,
) -> tuple[Inherited, ...]:
    """
    Give descriptors that lead out with the files that they may have, as `answered` does externals.

    Standard streams that are no regular files go where the user says, see `--stdio`.
    """
    if facts.imported is None:
        return descriptors
    return tuple(_answered_file(each, choices, target) for each in descriptors)


def _answered_file(each: Inherited, choices: Choices, target: Target | None) -> Inherited:
    wanted = each.source or each.shown
    device = each.type is InodeType.CHARACTER and wanted in _DEVICES
    stream = each.fd in STANDARD_STREAMS and each.type is not InodeType.FILE and not each.source
    if device or stream:
        return each
    source = _allowed(wanted, choices, target)
    if source is None or each.type not in {InodeType.FILE, InodeType.DIRECTORY}:
        return msgspec.structs.replace(each, source=None, requested=wanted)
    return msgspec.structs.replace(each, source=source)


def _is_torn_down(facts: Facts, wanted: KPath | None) -> bool:
    """Tell of a tmpfs that is empty in a new container, and goes when it ends."""
    torn = facts.container.torn_down
    return any(each.type == "tmpfs" and each.path == wanted for each in torn)


def requested_paths(facts: Facts, plan: Plan, choices: Choices) -> Iterator[KPath]:
    """Give the paths of the host of which it matters where symbolic links lead."""
    if facts.imported is None or not choices.allowed:
        return
    yield from choices.allowed
    yield from (each.source for each in plan.externals if each.source)
    yield from (each.source for each in plan.inherited if each.source)


def made_sources(facts: Facts, externals: Iterable[External]) -> Iterator[tuple[External, KPath]]:
    """Give the externals that get something empty, and where it is made."""
    if facts.imported is None:
        return
    made = paths.join(facts.imported.at, _MADE)
    for external in externals:
        if external.source is not None and paths.is_beneath(external.source, made):
            yield external, external.source


def request_steps(facts: Facts, externals: Iterable[External]) -> Iterator[Step]:
    """Make what is empty: of the type that it was, and a tmpfs where it was one."""
    made = paths.join(facts.imported.at, _MADE) if facts.imported else paths.ROOT
    for external, source in made_sources(facts, externals):
        because = f"{external.mountpoint} comes from what is made for it"
        yield Directory(path=made, because=because)
        if external.type not in {InodeType.DIRECTORY, None}:
            name = KPath(f"/{paths.name(source)}")
            yield Mountpoint(root=made, path=name, type=InodeType.FILE, because=because)
            continue
        yield Directory(path=source, because=because)
        if external.fstype == "tmpfs":
            yield Scratch(at=source, options=_options(external), because=because)
            brought = _brought(facts, external)
            if brought is not None:
                yield Fill(source=brought, at=source, because="it was in memory, and is again")


def _options(external: External) -> str:
    mode = 0o1777 if external.mode is None else external.mode & 0o7777
    return f"mode={mode:o}"
