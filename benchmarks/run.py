# SPDX-License-Identifier: Apache-2.0
"""
Ratios of mountcr against its peers, measured in one run on one machine.

    python benchmarks/run.py [--runs N]

`benchmarks/graph.py` measures how the plan grows with the number of mounts.

Needs root, CRIU and busybox. Every figure is the median of N runs, mountcr and its peer in turn.
A ratio holds on a noisy machine; the seconds beside it are of this run only.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from mountcr import api
from mountcr.criu import binary
from mountcr.criu.images import ImageSet
from mountcr.demo.launch import BindMount, Recipe, Tmpfs, launch, stop
from mountcr.kernel.live import LiveKernel
from mountcr.model import Facts, Mount, MountId
from mountcr.observation import observe
from mountcr.operations.rebuild import plan_rebuild, rebuild
from mountcr.overlayopts import OverlayOptions
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable


def timed(work: Callable[[], object]) -> float:
    """Give the seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def report(name: str, ours: list[float], theirs: list[float], limit: float) -> None:
    """Print the median of the ratios, pair by pair, beside the limit."""
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    mark = "ok" if ratio <= limit else "OVER"
    print(
        f"{name:<44} {ratio:6.2f}x  at most {limit:.2f}x  {mark:<4} "
        f"({statistics.median(ours):.4f} s against {statistics.median(theirs):.4f} s)"
    )


class Box:
    """A container on an overlay, in a directory of its own."""

    def __init__(self, top: str) -> None:
        self.top = top
        self.root = f"{top}/root"
        for name in ("base/bin", "middle", "upper", "work", "root", "data"):
            os.makedirs(f"{top}/{name}")
        busybox = shutil.which("busybox") or "/bin/busybox"
        shutil.copy(busybox, f"{top}/base/bin/busybox")
        with open(f"{top}/hosts", "w", encoding="ascii") as file:
            file.write("10.0.0.1 db\n")
        self.options = OverlayOptions(
            lowers=(encode(f"{top}/middle"), encode(f"{top}/base")),
            upper=encode(f"{top}/upper"),
            work=encode(f"{top}/work"),
        )
        self.mount()

    def mount(self) -> None:
        """Mount the root."""
        LiveKernel().mount_overlay(encode(self.root), self.options)

    def unmount(self) -> None:
        """Unmount the root."""
        LiveKernel().unmount(encode(self.root))

    def start(self, memory: int) -> int:
        """Start the container, holding so many MiB, and give its pid."""
        doublings = max((memory << 20).bit_length() - 1, 1)
        hold = f'BEGIN {{ s = "x"; for (i = 0; i < {doublings}; i++) s = s s; '
        script = hold + 'print "ready" > "/data/ready"; close("/data/ready"); getline }'
        ready = f"{self.top}/data/ready"
        if os.path.exists(ready):
            os.unlink(ready)
        never = f"{self.top}/data/never"
        if not os.path.exists(never):
            os.mkfifo(never)  # awk waits for somebody to write into it
        pid = launch(
            Recipe(
                root=self.root,
                command=["/bin/busybox", "awk", script, "/data/never"],
                mounts=[
                    BindMount(f"{self.top}/hosts", "/etc/hosts"),
                    BindMount(f"{self.top}/data", "/data"),
                    Tmpfs("/run"),
                ],
            )
        )
        while not os.path.exists(ready):
            time.sleep(0.01)
        return pid


class Trip:
    """A dump and a restore of a box, by mountcr or by hand."""

    def __init__(self, box: Box, memory: int) -> None:
        self.box = box
        self.images = f"{box.top}/images"
        self.command = binary.require().command
        self.pid = box.start(memory)
        self.plan = api.plan(api.observe(api.find(str(self.pid))))

    def by_mountcr(self) -> int:
        """Run the two commands of mountcr; give the pid of what was restored."""
        mountcr = [sys.executable, "-m", "mountcr"]
        quiet = [*mountcr, "dump", str(self.pid), "--images", self.images]
        subprocess.run(quiet, check=True, stdout=subprocess.DEVNULL)
        words = [*mountcr, "restore", self.images, "--json"]
        told = subprocess.run(words, check=True, capture_output=True)
        return int(json.loads(told.stdout)["pid"])

    def by_hand(self) -> int:
        """Run CRIU twice, on the mounted root, with the options that somebody found out before."""
        os.mkdir(self.images)
        where = ["--images-dir", self.images, "-v4", "--manage-cgroups=ignore"]
        outside = [f"mnt[{each.mountpoint}]:{each.key}" for each in self.plan.externals]
        inside = [f"mnt[{each.key}]:{each.source}" for each in self.plan.externals]
        self._criu("dump", "-t", str(self.pid), *where, "-o", "dump.log", *_externals(outside))
        back = ["-d", "--root", self.box.root, "--pidfile", f"{self.images}/pid", "-o", "r.log"]
        self._criu("restore", *back, *where, *_externals(inside))
        with open(f"{self.images}/pid", encoding="ascii") as file:
            return int(file.read())

    def _criu(self, *words: str) -> None:
        subprocess.run([*self.command, *words], check=True, stdout=subprocess.DEVNULL)

    def frozen(self) -> float:
        """Give the seconds for which CRIU says that it had the tasks frozen."""
        return ImageSet(encode(self.images)).frozen_seconds or 0.0


def _externals(resources: list[str]) -> list[str]:
    return [word for each in resources for word in ("--external", each)]


def round_trips(box: Box, runs: int, memory: int) -> None:
    """Frozen time of a dump, and the wall time of dump and restore, against CRIU by hand."""
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for number in range(runs + 1):
        for way, times in (("by_mountcr", ours), ("by_hand", theirs)):
            trip = Trip(box, memory)
            started = time.perf_counter()
            pid: int = getattr(trip, way)()
            taken = time.perf_counter() - started
            if number:  # the first is a warm-up
                times.append((trip.frozen(), taken))
            stop(pid)
            shutil.rmtree(trip.images)
    for what, column, limit in (("frozen / criu dump", 0, 1.1), ("dump + restore / criu", 1, 1.5)):
        figures = [[each[column] for each in times] for times in (ours, theirs)]
        report(f"{memory} MiB: {what}", figures[0], figures[1], limit)


def imports(runs: int) -> None:
    """What importing the command line costs above the interpreter."""
    bare = [
        timed(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) for _ in range(runs)
    ]
    ours = [
        timed(lambda: subprocess.run([sys.executable, "-c", "import mountcr.cli"], check=True))
        for _ in range(runs)
    ]
    above = (statistics.median(ours) - statistics.median(bare)) * 1000
    mark = "ok" if above <= 60 else "OVER"  # noqa: PLR2004
    print(
        f"{'import mountcr.cli above the interpreter':<44} {above:5.0f} ms  at most 60 ms  {mark}"
    )


def planning(box: Box, runs: int) -> None:
    """Facts to plan in process, of a container with 30 mounts."""
    pid = box.start(0)
    try:
        facts = _widened(observe(api.find(str(pid))), 30)
    finally:
        stop(pid)
    make_plan(facts)
    taken = statistics.median(timed(lambda: make_plan(facts)) for _ in range(runs * 5)) * 1000
    mark = "ok" if taken <= 5 else "OVER"  # noqa: PLR2004
    print(f"{'facts to plan, 30 mounts, in process':<44} {taken:5.1f} ms  at most 5 ms   {mark}")


def _widened(facts: Facts, count: int) -> Facts:
    """Give facts with binds of the host added until there are so many mounts."""
    import msgspec

    first = facts.namespaces[0]
    template = next(mount for mount in first.mounts if mount.mountpoint == "/data")
    more: list[Mount] = [
        msgspec.structs.replace(
            template,
            id=MountId(100000 + number),
            mountpoint=KPath(f"/volumes/{number}"),
            root=KPath(f"{template.root}/{number}"),
        )
        for number in range(count - len(first.mounts))
    ]
    widened = msgspec.structs.replace(first, mounts=(*first.mounts, *more))
    return msgspec.structs.replace(facts, namespaces=(widened,))


_C_PEER = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    char path[4096];
    int count = atoi(argv[2]), fd = syscall(430, "overlay", 1);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/layers/%d", argv[1], i);
        if (syscall(431, fd, 1, "lowerdir+", path, 0)) return 1;
    }
    if (syscall(431, fd, 6, 0, 0, 0)) return 2;
    int mount = syscall(432, fd, 1, 0);
    snprintf(path, sizeof path, "%s/merged", argv[1]);
    return mount < 0 || syscall(429, mount, "", AT_FDCWD, path, 4);
}
"""


def many_layers(top: str, runs: int, count: int = 500) -> None:
    """Rebuild an overlay of 500 layers, against the same calls in C."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print("500-layer overlay: no C compiler here, so no peer")
        return
    os.makedirs(f"{top}/merged")
    for number in range(count):
        os.makedirs(f"{top}/layers/{number}")
    with open(f"{top}/peer.c", "w", encoding="ascii") as file:
        file.write(_C_PEER)
    subprocess.run([compiler, "-O2", "-o", f"{top}/peer", f"{top}/peer.c"], check=True)
    at, kernel = encode(f"{top}/merged"), LiveKernel()
    options = OverlayOptions(
        lowers=tuple(encode(f"{top}/layers/{number}") for number in range(count))
    )
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(runs):
        ours.append(timed(lambda: kernel.mount_overlay(at, options)))
        kernel.unmount(at)
        peer = [f"{top}/peer", top, str(count)]
        theirs.append(timed(functools.partial(subprocess.run, peer, check=True)))
        kernel.unmount(at)
    report("500-layer overlay / fsconfig calls in C", ours, theirs, 3.0)


def rebuilds(box: Box, runs: int) -> None:
    """Rebuild of a small overlay, whole, against mount(8)."""
    pid = box.start(0)
    plan = make_plan(observe(api.find(str(pid))), Choices())
    stop(pid)
    box.unmount()
    at = encode(box.root)
    lowers = ":".join(box.options.lowers)
    words = [
        *("mount", "-t", "overlay", "overlay", "-o"),
        f"lowerdir={lowers},upperdir={box.options.upper},workdir={box.options.work}",
        box.root,
    ]
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(runs):
        ours.append(timed(lambda: rebuild(plan_rebuild(plan, at), at)))
        box.unmount()
        theirs.append(timed(lambda: subprocess.run(words, check=True)))
        box.unmount()
    box.mount()
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(f"{'rebuild, in process / mount(8)':<44} {ratio:6.2f}x")


def main() -> int:
    """Measure everything."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program is compiled once
    parser = argparse.ArgumentParser(description="Ratios of mountcr against its peers.")
    parser.add_argument("--runs", type=int, default=7, help="measured runs; default: 7")
    runs: int = parser.parse_args().runs
    if os.geteuid() != 0:
        print("benchmarks/run.py: dumping and mounting need root", file=sys.stderr)
        return 7
    with tempfile.TemporaryDirectory(prefix="mountcr-bench-") as top:
        imports(runs)
        box = Box(f"{top}/box")
        try:
            planning(box, runs)
            rebuilds(box, runs)
            round_trips(box, runs, memory=0)
            round_trips(box, runs, memory=256)
        finally:
            box.unmount()
        many_layers(f"{top}/many", runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
