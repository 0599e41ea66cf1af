# SPDX-License-Identifier: Apache-2.0
"""What every engine of the harness can do, and what is known of a container that it runs."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from live.ground import cgroups_of
from live.images import archive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from live.ground import Ground

__all__ = ["CGROUP", "SAYING", "Engine", "Reference", "Running", "busybox", "limit", "parent"]

CGROUP = "cgroup "
"""What the words for parts that are control groups begin with."""


SAYING = ("/bin/busybox", "echo", "here")
"""A program that prints `here`."""


@dataclass(frozen=True)
class Running:
    """
    A container that runs.

    `keeper` is the process that outlives it: conmon or a shim; 0 where there is none. `parts` are
    what an engine made for it on the host, by a word for each: directories and mountpoints.
    """

    id: str
    name: str
    pid: int
    keeper: int = 0
    parts: Mapping[str, Path] = field(default_factory=dict[str, Path])


@dataclass(frozen=True)
class Reference:
    """How mountcr is told which container is meant: the word, and options where to look for it."""

    word: str
    options: tuple[str, ...]


class Engine(ABC):
    """
    An engine with private roots below the scratch directory of a ground.

    `word` is what mountcr calls it, `programs` are what it needs on PATH, `outside` what they make
    elsewhere, a directory before what is in it. One with storage of its own `keeps_mounted` what
    the root of a dead container is, or not. One that `forgets` a container has no record of it when
    it was tidied. `environment` is what tells a client of the engine which one it is. Those of a
    `script` are restored by `mountcr docker-cr`.
    """

    word: str
    programs: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    keeps_mounted: bool = False
    forgets: bool = False
    script: bool = False
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        ground.outside(*map(Path, self.outside))
        self.volume = ground.top / "volume"
        self.volume.mkdir(exist_ok=True)

    @abstractmethod
    def version(self) -> str:
        """Ask the engine for its version; only while it is up."""

    @abstractmethod
    def start(self) -> None:
        """Start its daemons, if it has any, and load the image. Raises Trouble."""

    @abstractmethod
    def run(self, name: str) -> Running:
        """Start a container of the image with the volume at /data/vol. Raises Trouble."""

    @abstractmethod
    def runtime_root(self) -> Path:
        """Where the OCI runtime of this engine keeps the state of its containers."""

    @abstractmethod
    def status(self, running: Running) -> str:
        """Ask the engine what it thinks of a container."""

    def stop(self, running: Running) -> None:
        """Have the engine stop a container that it has taken over. Raises Trouble."""
        raise NotImplementedError(f"{self.word} takes none over: {running.name}")

    def says(self, running: Running) -> str:
        """Have the engine start a program in a container, which prints what this gives."""
        raise NotImplementedError(f"{self.word} takes none over: {running.name}")

    def stop_daemon(self) -> None:  # noqa: B027 - not every engine has one
        """End the daemons of the engine, and no container."""

    def tidy(self, running: Running) -> str:  # noqa: ARG002 - for those that leave something
        """
        Remove what is left of a dead container, but not its files, as a person would.

        Gives how that is called; nothing where the engine does it by itself.
        """
        return ""

    def images(self, running: Running) -> Path:  # noqa: ARG002 - for those that have a place each
        """Give where the images of a container go."""
        return self.ground.top / "images"

    def dumping(self, running: Running, reference: Reference) -> tuple[object, ...]:
        """Give the words for mountcr that dump a container."""
        place = (reference.word, *reference.options)
        return ("dump", *place, "--images", self.images(running), "--json")

    def reference(self, running: Running, *, by_name: bool) -> Reference:
        """Give how mountcr is told which container is meant: by its pid, or as its engine does."""
        if by_name:
            return Reference(f"{self.word}:{running.name}", self.roots())
        return Reference(str(running.pid), ("--runtime-root", str(self.runtime_root())))

    def diff_ids(self) -> tuple[str, ...]:
        """Ask for the DiffIDs of the image, the lowest first; none where no engine keeps it."""
        return ()

    def roots(self) -> tuple[str, ...]:
        """Give the options that say where this engine keeps its state."""
        return ("--runtime-root", str(self.runtime_root()))

    @classmethod
    def missing(cls, *more: str) -> str:
        """Say which programs are missing, `more` included; nothing if none is."""
        wanted = (*cls.programs, "busybox", *more)
        lacking = [program for program in wanted if not shutil.which(program)]
        return f"there is no {', '.join(lacking)}; tools/provision --engines" if lacking else ""

    # What the engines share

    def archive(self) -> Path:
        """Write the image to load."""
        path = self.ground.top / "image.tar"
        archive(path, busybox())
        return path

    def running(self, id_: str, name: str, pid: int, keeper: int, **parts: Path) -> Running:
        """Remember the processes of a container; give it with its control groups as parts."""
        for process in (pid, keeper):
            if process:
                self.ground.remember(process)
        groups = {f"{CGROUP}{name}": group for name, group in cgroups_of(pid).items()}
        return Running(id_, name, pid, keeper, {**parts, **groups})


def busybox() -> Path:
    """Give the static busybox of the image."""
    found = shutil.which("busybox")
    assert found, "the engine was asked for what is missing"
    return Path(found)


def limit() -> str:
    """Give a limit on open files that an engine without CAP_SYS_RESOURCE can set."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 1024 if hard == resource.RLIM_INFINITY else min(1024, hard)
    return f"nofile={most}:{most}"


def parent(pid: int) -> int:
    """Give the parent of a process."""
    stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return int(stat.rpartition(")")[2].split()[1])
