# SPDX-License-Identifier: Apache-2.0
"""
Container to `Facts`: everything that is looked at on a live host is looked at here.

Collectors read and decide nothing. What they may not see is recorded as `Unseen`, so that a plan
made with less privilege says what it does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr import __version__
from mountcr.errors import GoneError, PrivilegeError
from mountcr.model import Container, Facts, Task, Unseen
from mountcr.observation.host import observe_host
from mountcr.observation.layers import with_layers_of_root
from mountcr.observation.namespaces import observe_namespaces
from mountcr.observation.network import observe_network
from mountcr.observation.places import Places
from mountcr.observation.tasks import descendants, task
from mountcr.resolution.symptoms import is_suspicious, mounted_in

if TYPE_CHECKING:
    from mountcr.model import Host
    from mountcr.observation.rseq import Programs

__all__ = ["observe", "observe_host"]


def _gone(container: Container) -> GoneError:
    return GoneError(
        f"container {container.id} has ended: pid {container.pid} is gone",
        hint="start it again, or plan from a facts file that was written while it ran",
    )


def _check_identity(container: Container, root: Task) -> None:
    if container.start_time and root.start_time != container.start_time:
        msg = (
            f"pid {container.pid} of container {container.id} was reused: it started at tick "
            f"{root.start_time}, the container at {container.start_time}"
        )
        raise GoneError(msg, hint="the engine's record is stale; look the container up again")


def _programs(host: Host) -> Programs | None:
    """Give what looks into programs, where the kernel does not tell what they registered."""
    if host.capabilities and host.capabilities.features.get("get_rseq_conf"):
        return None
    from mountcr.observation.rseq import Programs  # what plans on most kernels have no use for

    return Programs()


def _tasks(
    container: Container, host: Host, places: Places
) -> tuple[tuple[Task, ...], tuple[Unseen, ...]]:
    """Observe the process tree; a child that ends meanwhile is left out."""
    found: list[Task] = []
    unseen: list[Unseen] = []
    programs = _programs(host)
    for pid in descendants(container.pid):
        try:
            each, missing = task(
                pid, places, user=host.namespaces.get("user", 0), programs=programs
            )
        except (FileNotFoundError, ProcessLookupError):
            if pid == container.pid:
                raise _gone(container) from None
            continue
        found.append(each)
        unseen.extend(missing)
    return tuple(found), tuple(unseen)


def observe(container: Container, *, host: Host | None = None, thorough: bool = False) -> Facts:
    """
    Observe a container and its host.

    With `thorough`, every file is looked up in the layers, and other names of those whose own is
    gone are searched for; without, only files that the kernel misreports are.

    A container that does not run gives facts without tasks and namespaces. Raises GoneError when
    the process ended or its pid was reused, PrivilegeError when its mount table may not be read.
    """
    host = host or observe_host()
    if not container.pid:
        return Facts(mountcr=__version__, container=container, host=host)
    with Places() as places:
        facts = _observe(container, host, places)
        if not thorough and not _has_suspicious(facts):
            return facts
        from mountcr.observation.evidence import with_evidence  # of no use on most kernels

        return with_evidence(facts, places, thorough=thorough)


def _has_suspicious(facts: Facts) -> bool:
    """Tell whether the kernel shows a file otherwise than it is."""
    mounted = mounted_in(facts)
    return any(
        is_suspicious(file, mounted[task.mount_namespace])
        for task in facts.tasks
        if task.mount_namespace in mounted
        for file in task.files
    )


def _observe(container: Container, host: Host, places: Places) -> Facts:
    """Observe tasks and mounts."""
    tasks, unseen = _tasks(container, host, places)
    _check_identity(container, tasks[0])
    try:
        namespaces = observe_namespaces(tasks)
    except PermissionError:
        msg = f"reading /proc/{container.pid}/mountinfo needs the right to trace that process"
        raise PrivilegeError(
            msg,
            hint="run as root (CAP_SYS_PTRACE), or plan from a file that `mountcr facts` wrote",
        ) from None
    except OSError:
        raise _gone(container) from None
    network, unseen_network = observe_network(tasks, host)
    return Facts(
        mountcr=__version__,
        container=container,
        tasks=tasks,
        namespaces=with_layers_of_root(namespaces, container, host),
        host=host,
        unseen=(*unseen, *unseen_network),
        network=network,
    )
