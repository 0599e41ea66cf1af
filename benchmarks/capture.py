# SPDX-License-Identifier: Apache-2.0
"""
Capture of an upper layer with digests, against `tar --xattrs -cf` of the same tree.

    python benchmarks/capture.py [--runs N] [--files N] [--size MIB] [--dir DIR]

Needs root, mkfs.ext4, mkfs.btrfs or mkfs.xfs, and loop devices. Each file system is new, in an
image file beneath DIR; the tree is in it and both write to it, in turn, with the tree in memory.
What was written leaves memory before the next run, because a page that a virtual machine has never
had costs more than the copy into it. Nothing is removed before the end: ext4 takes no inodes that
were freed lately, and looks at each of them instead (`recently_deleted()` in fs/ext4/ialloc.c),
which would measure what came before.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Final

from mountcr.paths import encode
from mountcr.rootfs.changes import changes
from mountcr.rootfs.dialects.vfs import Vfs
from mountcr.rootfs.tree import DirectoryTree
from mountcr.rootfs.writer import write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PER_DIRECTORY: Final = 100

_LIMITS: Final = {"ext4": 1.5, "btrfs": 0.3, "xfs": 0.3}
"""Of capture against tar, by file system; the latter two share extents."""


def timed(work: Callable[[], object]) -> float:
    """Give the seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fill(top: str, files: int, size: int) -> None:
    """Make a layer of so many files with so many bytes in all, of lengths from nothing up."""
    chance = random.Random(1)  # noqa: S311 - the same tree each time
    shares = [chance.random() for _ in range(files)]
    whole = sum(shares)
    noise = chance.randbytes(4 << 20)
    for number, share in enumerate(shares):
        directory = f"{top}/{number // _PER_DIRECTORY}"
        if number % _PER_DIRECTORY == 0:
            os.makedirs(directory)
        length = int(share * size / whole)
        start = chance.randrange(1 << 20)
        with open(f"{directory}/{number}", "wb") as file:
            while length > 0:
                file.write(noise[start : start + length])
                length -= len(noise) - start
                start = 0


def capture(top: str, into: str) -> None:
    """Read a layer and write it with digests."""
    with DirectoryTree(encode(top)) as tree:
        entries = changes(Vfs().layer(tree), None)
        write(entries, encode(into), Vfs(), digests=True)


def tar(top: str, into: str) -> None:
    """Let tar do it."""
    subprocess.run(["tar", "--xattrs", "-C", top, "-cf", into, "."], check=True)


def sync(place: str) -> None:
    """Write out this file system; others may be busy."""
    subprocess.run(["sync", "-f", place], check=True)


def evict(path: str) -> None:
    """Let what was written go from memory."""
    files = [path]
    if os.path.isdir(path):
        files = [f"{top}/{name}" for top, _, names in os.walk(path) for name in names]
    for each in files:
        fd = os.open(each, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def _syncing(work: Callable[[], object], place: str) -> None:
    work()
    sync(place)


def measure(kind: str, place: str, runs: int) -> None:
    """Run both in turn, and print the medians; then the same with what is written on the disk."""
    for what in ("capture / tar", "capture and sync / tar and sync"):
        ours: list[float] = []
        theirs: list[float] = []
        for number in range(runs):
            for way, times in ((capture, ours), (tar, theirs)):
                into = f"{place}/{way.__name__}{number}{len(what)}"
                work = functools.partial(way, f"{place}/layer", into)
                sync(place)
                if "sync" in what:
                    work = functools.partial(_syncing, work, place)
                times.append(timed(work))
                sync(place)
                evict(into)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        mark = "ok" if ratio <= _LIMITS[kind] else "OVER"
        print(
            f"{kind + ': ' + what:<44} {ratio:6.2f}x  at most {_LIMITS[kind]:.2f}x  {mark:<4} "
            f"({statistics.median(ours):.3f} s against {statistics.median(theirs):.3f} s)",
            flush=True,
        )


def file_systems(top: str, room: int) -> Iterator[tuple[str, str]]:
    """Mount a new file system of each kind that there is; give its kind and place."""
    for kind in _LIMITS:
        if shutil.which(f"mkfs.{kind}") is None:
            print(f"{kind}: no mkfs.{kind} here")
            continue
        image, place = f"{top}/{kind}.img", f"{top}/{kind}"
        os.mkdir(place)
        with open(image, "wb") as file:
            file.truncate(room)
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
        mount = ["mount", "-o", "loop", image, place]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            print(f"{kind}: this kernel does not mount it on a loop device")
            continue
        try:
            yield kind, place
        finally:
            subprocess.run(["umount", place], check=True)
            os.unlink(image)


def main() -> int:
    """Measure on every file system there is."""
    parser = argparse.ArgumentParser(description="Capture of a layer against tar.")
    parser.add_argument("--runs", type=int, default=5, help="measured runs; default: 5")
    parser.add_argument("--files", type=int, default=20000, help="default: 20000")
    parser.add_argument("--size", type=int, default=1024, help="MiB in all; default: 1024")
    parser.add_argument("--dir", help="where the images lie; default: that of temporary files")
    words = parser.parse_args()
    if os.geteuid() != 0:
        print("benchmarks/capture.py: mounting needs root", file=sys.stderr)
        return 7
    room = (words.size << 20) * (5 * words.runs + 3)
    with tempfile.TemporaryDirectory(prefix="mountcr-bench-", dir=words.dir) as top:
        for kind, place in file_systems(top, room):
            fill(f"{place}/layer", words.files, words.size << 20)
            sync(place)
            tar(f"{place}/layer", f"{place}/warm")
            sync(place)
            evict(f"{place}/warm")
            measure(kind, place, words.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
