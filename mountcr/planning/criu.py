# SPDX-License-Identifier: Apache-2.0
"""What CRIU is told, at dump and at restore, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr import paths
from mountcr.criu.options import CriuOptions, Kind, to_argv
from mountcr.criu.rewriting import OrdinaryFile
from mountcr.model import FileKind
from mountcr.planning.cgroups import choose_mode
from mountcr.planning.choices import Tcp
from mountcr.planning.descriptors import external_file_keys
from mountcr.planning.records import CriuPlan, Reason
from mountcr.planning.remaps import is_linked, needed_ghost_limit, size_on_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.criu.rewriting import Operation
    from mountcr.model import Facts, OpenFile
    from mountcr.paths import KPath
    from mountcr.planning.choices import Choices
    from mountcr.planning.network import NetworkPlan
    from mountcr.planning.records import Engine, External, Inherited

__all__ = ["plan_criu"]


def plan_criu(
    facts: Facts,
    externals: tuple[External, ...],
    descriptors: tuple[Inherited, ...],
    choices: Choices,
    *,
    root: KPath | None,
    rewrites: tuple[Operation, ...] = (),
    engine: Engine | None = None,
    network: NetworkPlan | None = None,
) -> CriuPlan:
    """
    Give the options of both directions; `root` is where a restore finds the root, if any.

    Files that the `rewrites` make ordinary again are declared external at the dump.

    The older engine is asked for only where CRIU would not take it by itself or is told already.
    """
    mode, why_mode = choose_mode(facts, choices.cgroups)
    held = _descriptors(facts)
    lock = next((file for file in held if file.locked), None)
    linked = next((file for file in _files(facts) if is_linked(file)), None)
    ghost = needed_ghost_limit(_files(facts))
    dump = CriuOptions(
        kind=Kind.DUMP,
        pid=facts.container.pid,
        images=choices.images,
        root=facts.container.rootfs,
        externals=(
            *(f"mnt[{each.mountpoint}]:{each.key}" for each in externals),
            *external_file_keys(descriptors),
            *(each.key for each in rewrites if isinstance(each, OrdinaryFile)),
            *_external_network(facts, network),
        ),
        manage_cgroups=mode,
        leave_running=choices.leave_running,
        tcp_established=choices.tcp is Tcp.ESTABLISHED,
        tcp_close=choices.tcp is Tcp.CLOSE,
        file_locks=lock is not None,
        link_remap=linked is not None,
        ghost_limit=ghost[0] if ghost else None,
        extra=choices.extra,
    )
    restore = CriuOptions(
        kind=Kind.RESTORE,
        images=choices.images,
        root=root,
        externals=tuple(
            dict.fromkeys(
                f"mnt[{each.key}]:{each.source}" for each in externals if each.source is not None
            )
        ),
        inherit_fds=(
            *((each.number, each.key) for each in descriptors),
            *(((network.number, network.key),) if network and network.external else ()),
        ),
        manage_cgroups=mode,
        cgroup_roots=(("", choices.cgroup_root),) if choices.cgroup_root else (),
        tcp_established=choices.tcp is Tcp.ESTABLISHED,
        tcp_close=choices.tcp is Tcp.CLOSE,
        file_locks=lock is not None,
        link_remap=linked is not None,
        mntns_compat=engine is not None and engine.asked_for,
        extra=choices.extra,
    )
    # facts from elsewhere name a program of theirs, and people run what a plan prints
    ours = facts.host.criu if facts.imported is None else None
    command = (ours.command if ours else ()) or ("criu",)
    reasons = [Reason(option=f"--manage-cgroups={mode}", because=why_mode)]
    reasons += _reasons(externals, descriptors)
    reasons += (
        Reason(option=f"--external {each.key}", because=each.because)
        for each in rewrites
        if isinstance(each, OrdinaryFile)
    )
    reasons += _file_reasons(lock, linked, ghost)
    reasons += _network_reasons(facts, network, choices)
    if restore.mntns_compat and engine:
        reasons.append(Reason(option="--mntns-compat-mode", because=engine.because))
    return CriuPlan(
        dump=tuple(map(paths.encode, to_argv(dump, command))),
        restore=tuple(map(paths.encode, to_argv(restore, command))),
        dump_options=dump,
        restore_options=restore,
        reasons=tuple(reasons),
    )


def _external_network(facts: Facts, network: NetworkPlan | None) -> tuple[str, ...]:
    """Name the network namespace by its inode number, as the dump wants it."""
    if facts.network is None or network is None or not network.external:
        return ()
    return (f"net[{facts.network.id}]:{network.key}",)


def _network_reasons(
    facts: Facts, network: NetworkPlan | None, choices: Choices
) -> Iterator[Reason]:
    if network and network.external:
        for external in _external_network(facts, network):
            yield Reason(option=f"--external {external}", because=network.because)
        option = f"--inherit-fd fd[{network.number}]:{network.key}"
        yield Reason(option=option, because=network.because)
    if choices.tcp:
        yield Reason(option=f"--tcp-{choices.tcp}", because="it was asked for")


def _descriptors(facts: Facts) -> list[OpenFile]:
    return [file for task in facts.tasks for file in task.files if file.kind is FileKind.FD]


def _files(facts: Facts) -> list[OpenFile]:
    """Give the files that CRIU opens again by their path: mapped ones and executables too."""
    return [file for task in facts.tasks for file in task.files]


def _reasons(
    externals: tuple[External, ...], descriptors: tuple[Inherited, ...]
) -> Iterator[Reason]:
    for external in externals:
        option = f"--external mnt[{external.mountpoint}]:{external.key}"
        yield Reason(option=option, because=external.because)
    for each in descriptors:
        yield Reason(option=f"--inherit-fd fd[{each.number}]:{each.key}", because=each.because)


def _file_reasons(
    lock: OpenFile | None, linked: OpenFile | None, ghost: tuple[int, OpenFile] | None
) -> Iterator[Reason]:
    if lock:
        yield Reason(option="--file-locks", because=f"a task holds a lock on {lock.shown}")
    if linked:
        because = f"{linked.shown} is open, its name is gone and another link is left"
        yield Reason(option="--link-remap", because=because)
    if ghost:
        limit, file = ghost
        because = f"{file.shown} is open and unlinked, and takes {size_on_disk(file)} bytes"
        yield Reason(option=f"--ghost-limit {limit}", because=because)
