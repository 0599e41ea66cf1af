# SPDX-License-Identifier: Apache-2.0
"""
How the plan and the graph grow with the number of mounts, up to 50 000 real ones.

    python benchmarks/graph.py [--runs N] [--mounts N]

Needs root. The mounts are made in a mount namespace of its own, that of a container on a tmpfs,
and end with it; nothing is mounted on the host. A plan of many mounts is held to the time of
`cat /proc/self/mountinfo` in that namespace, fork and exec included, and to its own time for a
tenth of the mounts; a ratio is the median of N, each of two runs one after the other.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Final

from mountcr import api
from mountcr.cli.output import to_json
from mountcr.graph import MountGraph
from mountcr.graph.diff import diff
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.private import in_namespace_of
from mountcr.paths import ROOT, encode
from mountcr.planning.planner import make_plan
from mountcr.render.dot import dot
from mountcr.render.graph import document, outline_graph
from mountcr.render.marks import marks_of
from mountcr.render.plan import outline_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from mountcr.model import Facts

LIMIT: Final = 12.0
"""Of the plan against `cat`, and of anything for the whole against a tenth of the mounts."""

_PER_DIRECTORY: Final = 250
"""Mountpoints in one directory."""

_KINDS: Final = (
    "bind", "bind", "bind", "bind", "same", "same", "tmpfs", "shared", "slave", "readonly",
)  # fmt: skip
"""What the mounts are, in turn: four in ten are binds of a directory of the host of their own."""


# --- A container with many mounts -----------------------------------------------------------------


class Crowd:
    """A container with so many mounts in its namespace, of sources in a directory of the host."""

    def __init__(self, top: str, count: int) -> None:
        self.top = top
        self.count = count
        reader, writer = os.pipe()
        os.mkdir(top)
        started = time.perf_counter()
        self.pid = os.fork()
        if self.pid == 0:
            _be_container(self.top, self.count, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read(4096)
        if said != b"ready":
            self.end()
            raise OSError(f"the container did not start: {os.fsdecode(said)}")
        self.seconds = time.perf_counter() - started

    def observe(self) -> Facts:
        """Give the facts, as of any other container."""
        return api.observe(api.find(str(self.pid)))

    def read(self) -> float:
        """Give the seconds that `cat /proc/self/mountinfo` takes in the namespace."""
        with open(os.devnull, "wb") as null:
            words = ["/bin/cat", "/proc/self/mountinfo"]
            cat = functools.partial(subprocess.run, words, check=True, stdout=null)
            return in_namespace_of(self.pid, lambda: timed(cat))

    def end(self) -> None:
        """End the container, and with it all that it has mounted."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _be_container(top: str, count: int, writer: int) -> None:
    """Make the mounts, say so, and wait for the end. Never returns."""
    try:
        syscalls.prctl_set_pdeathsig(signal.SIGKILL)
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWCGROUP)
        mounts.set_propagation(ROOT, "private", recursive=True)
        os.makedirs(f"{top}/root")
        os.makedirs(f"{top}/sources")
        _mount_root(f"{top}/root")
        _mount_many(f"{top}/root", f"{top}/sources", count)
        os.chdir(f"{top}/root")
        syscalls.pivot_root(b".", b".")
        syscalls.umount2(b".", syscalls.MNT_DETACH)
        os.chdir("/")
        null = os.open("/null", os.O_RDWR | os.O_CREAT)
        for number in range(3):
            os.dup2(null, number)
        os.write(writer, b"ready")
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        while True:
            signal.pause()
    except BaseException as error:  # noqa: BLE001  # it travels home as text
        os.write(writer, os.fsencode(repr(error)))
    finally:
        os._exit(1)


def _mount_root(root: str) -> None:
    """Mount a tmpfs with what `cat` needs: a proc, and the programs and libraries of the host."""
    syscalls.mount(b"tmpfs", root.encode(), b"tmpfs", 0, b"mode=755")
    for name in ("usr", "bin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            os.mkdir(f"{root}/{name}")
            _bind(f"/{name}", f"{root}/{name}")
    os.mkdir(f"{root}/proc")
    syscalls.mount(b"proc", f"{root}/proc".encode(), b"proc", 0)


def _mount_many(root: str, sources: str, count: int) -> None:
    os.mkdir(f"{sources}/same")
    os.mkdir(f"{root}/shared")
    syscalls.mount(b"tmpfs", f"{root}/shared".encode(), b"tmpfs", 0)
    mounts.set_propagation(encode(f"{root}/shared"), "shared")
    for number in range(count):
        at = f"{root}/d/{number // _PER_DIRECTORY}/{number}"
        os.makedirs(at)
        _mount_one(_KINDS[number % len(_KINDS)], number, at, root=root, sources=sources)


def _mount_one(kind: str, number: int, at: str, *, root: str, sources: str) -> None:
    match kind:
        case "tmpfs":
            syscalls.mount(b"tmpfs", at.encode(), b"tmpfs", 0, b"size=64k")
        case "shared" | "slave":
            _bind(f"{root}/shared", at)
            if kind == "slave":
                mounts.set_propagation(encode(at), "slave")
        case "bind":
            source = f"{sources}/{number // _PER_DIRECTORY}/{number}"
            os.makedirs(source)
            _bind(source, at)
        case _:
            _bind(f"{sources}/same", at)
            if kind == "readonly":
                mounts.set_attributes(encode(at), ["ro"])


def _bind(source: str, at: str) -> None:
    syscalls.mount(source.encode(), at.encode(), b"", syscalls.MS_BIND)


# --- Measuring ------------------------------------------------------------------------------------


def timed(work: Callable[[], object]) -> float:
    """Give the seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def growing(facts: Facts) -> dict[str, Callable[[], object]]:
    """Give everything whose time grows with the mounts."""
    plan = make_plan(facts)
    graph = MountGraph(facts.namespaces)
    marks = marks_of(graph, facts, plan.externals)
    mounts_of_both = facts.namespaces[0].mounts
    return {
        "facts to plan": lambda: make_plan(facts),
        "graph alone": lambda: MountGraph(facts.namespaces),
        "graph with its edges": lambda: list(MountGraph(facts.namespaces).edges()),
        "order of CRIU's engine": graph.build_order,
        "difference of two tables": lambda: diff(mounts_of_both, mounts_of_both),
        "plan as lines": lambda: outline_plan(plan, explain=True).plain(),
        "plan as JSON": lambda: to_json(plan),
        "graph as lines": lambda: outline_graph(graph, marks).plain(),
        "graph as JSON": lambda: to_json(document(graph, marks)),
        "graph for Graphviz": lambda: dot(graph, marks),
    }


def report(name: str, ours: list[float], theirs: list[float]) -> bool:
    """Print the median of the ratios, pair by pair, beside the limit; tell whether it keeps it."""
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    kept = ratio <= LIMIT
    mark = "ok" if kept else "OVER"
    print(
        f"{name:<48} {ratio:6.2f}x  at most {LIMIT:.2f}x  {mark:<4} "
        f"({statistics.median(ours):.4f} s against {statistics.median(theirs):.4f} s)",
        flush=True,
    )
    return kept


def against_cat(crowd: Crowd, runs: int) -> bool:
    """Hold the plan to the time of reading the table, in turn."""
    facts = crowd.observe()
    make_plan(facts)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(runs):
        theirs.append(crowd.read())
        ours.append(timed(lambda: make_plan(facts)))
    return report(f"{crowd.count} mounts: facts to plan / cat mountinfo", ours, theirs)


def against_tenth(few: Facts, many: Facts, runs: int) -> list[bool]:
    """Hold everything to its own time for a tenth of the mounts, in turn."""
    small = growing(few)
    kept: list[bool] = []
    for name, work in growing(many).items():
        pairs = [(timed(work), timed(small[name])) for _ in range(runs)]
        ours, theirs = map(list, zip(*pairs, strict=True))
        kept.append(report(f"{name}, ten times the mounts", ours, theirs))
    return kept


def main() -> int:
    """Measure everything; 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(description="How mountcr grows with the number of mounts.")
    parser.add_argument("--runs", type=int, default=5, help="measured runs; default: 5")
    parser.add_argument("--mounts", type=int, default=50_000, help="default: 50000")
    arguments = parser.parse_args()
    runs: int = arguments.runs
    count: int = arguments.mounts
    if os.geteuid() != 0:
        print("benchmarks/graph.py: mounting needs root", file=sys.stderr)
        return 7
    with tempfile.TemporaryDirectory(prefix="mountcr-bench-") as top:
        many = Crowd(f"{top}/many", count)
        try:
            print(f"{count} mounts made in {many.seconds:.1f} s")
            kept = against_cat(many, runs)
            all_facts = many.observe()
        finally:
            many.end()
        few = Crowd(f"{top}/few", count // 10)
        try:
            few_facts = few.observe()
        finally:
            few.end()
    return 0 if all([kept, *against_tenth(few_facts, all_facts, runs)]) else 1


if __name__ == "__main__":
    sys.exit(main())
