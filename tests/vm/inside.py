# SPDX-License-Identifier: Apache-2.0
"""
What runs in a guest: `python3 -m vm.inside PART...` looks at this kernel and writes the cells.

`doctor`, `held`, `trips`, `overlay` and `suite` look at it; `keep` leaves a dumped container on the
disk. `return` restores that in another boot of the same kernel, `upgrade:SERIES` in one of a newer
kernel than the one that dumped it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import __version__
from mountcr.hosts.features import PROGRAMS
from vm import suite
from vm.cells import Cell
from vm.held import held_files
from vm.trips import UNREGISTERED, open_place, overlay_trips, round_trips

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["main"]

_SCRATCH: Final = Path("/scratch")
_KEPT: Final = _SCRATCH / "kept"
_OUT: Final = Path("out")
_PATIENCE: Final = 20.0
"""Seconds for the counter to move."""

_PROGRAMS: Final = {
    "criu": (("criu", "--version"), r"Version: (\S+)"),
    "fuse-overlayfs": (("fuse-overlayfs", "--version"), r"fuse-overlayfs: version (\S+)"),
    "unionfs-fuse": (("unionfs", "--version"), r"unionfs-fuse version: (\S+)"),
    "busybox": (("busybox",), r"BusyBox v(\S+)"),
}
"""How each is asked for its version, and where it stands in the answer."""

_OF_THE_GUEST: Final = frozenset({"root", "libmount", "cgroup layout", *PROGRAMS})
"""Checks of doctor that no kernel decides."""


def main(words: list[str]) -> int:
    """Look, print each cell, and write `cells.json` and `versions.json`."""
    _OUT.mkdir(exist_ok=True)
    cells: list[Cell] = []
    for word in words:
        part, _, which = word.partition(":")
        for cell in PARTS[part](which):
            cells.append(cell)
            sys.stdout.write(f"{cell.group}: {cell.subject}, {cell.check}: {cell.result}\n")
            sys.stdout.flush()
    (_OUT / "cells.json").write_bytes(msgspec.json.encode(cells))
    (_OUT / "versions.json").write_bytes(msgspec.json.encode(_versions()))
    return 0


def _versions() -> dict[str, str]:
    found = {"mountcr": __version__, "python": sys.version.split()[0]}
    for name, (words, pattern) in _PROGRAMS.items():
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        version = re.search(pattern, done.stdout + done.stderr)
        found[name] = version[1] if version else "?"
    return found


# --- The parts ------------------------------------------------------------------------------------


def _doctor(_which: str) -> Iterator[Cell]:
    """What `mountcr doctor` says of this kernel, and how long that takes."""
    began = time.monotonic()
    done = _run_mountcr("doctor", "--json")
    took = f"{time.monotonic() - began:.1f} s"
    command = "mountcr doctor --json"
    (_OUT / "doctor.json").write_text(done.stdout, encoding="utf-8")
    document = msgspec.json.decode(done.stdout or "{}")
    yield Cell(
        group="doctor",
        subject="exit status",
        check="host",
        result=str(done.returncode),
        detail=f"{took} {done.stderr.strip()}".strip(),
        command=command,
    )
    for check in document.get("checks", ()):
        if check["name"] in _OF_THE_GUEST:
            continue
        yield Cell(
            group="feature",
            subject=check["name"],
            check="probed",
            result="yes" if check["works"] else "no",
            detail=check["detail"],
            command=command,
        )
    for driver in document.get("drivers", ()):
        for direction in ("dump", "restore"):
            verdict = driver[direction]
            yield Cell(
                group="doctor",
                subject=driver["driver"],
                check=direction,
                result=verdict["verdict"],
                detail=verdict["because"],
                command=command,
            )


def _suite(_which: str) -> Iterator[Cell]:
    """The privileged tests."""
    words = [sys.executable, "-m", "pytest", *suite.WORDS]
    with subprocess.Popen(
        words, cwd="/work", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            sys.stdout.write(line)
            lines.append(line)
    closing = next((each for each in reversed(lines) if " in " in each), "no word")
    (_OUT / "suite.log").write_text("".join(lines), encoding="utf-8")
    yield Cell(
        group="tests",
        subject="privileged",
        check="pytest",
        result="passed" if process.returncode == 0 else "FAILED",
        detail=closing.strip(" =\n"),
        command=" ".join(["pytest", *suite.WORDS]),
    )


def _keep(_which: str) -> Iterator[Cell]:
    """Leave a container on the disk, dumped and not mounted anywhere."""
    shutil.rmtree(_KEPT, ignore_errors=True)
    with open_place(_KEPT) as place:
        place.mount_overlay()
        pid = place.start(environment=UNREGISTERED)
        place.wait(lambda: place.count() > 2)
        place.dump(pid)
    yield Cell(
        group="move",
        subject="dump for later",
        check="dump",
        result="ok",
        command="mountcr dump PID --images T/images",
    )


def _return(_which: str) -> Iterator[Cell]:
    """Restore it: nothing is there but the disk."""
    yield _restored("reboot")


def _upgrade(which: str) -> Iterator[Cell]:
    """Restore what another kernel has dumped, after compat has said whether that can be."""
    here = _SCRATCH / "here.json"
    here.write_text(_run_mountcr("doctor", "--json").stdout, encoding="utf-8")
    words = ("compat", "--from", str(_KEPT / "images"), "--to", str(here), "--json")
    verdict = msgspec.json.decode(_run_mountcr(*words).stdout)["verdict"]
    subject = f"dumped on {which}"
    command = "mountcr compat --from T/images --to here.json --json"
    yield Cell(group="move", subject=subject, check="compat", result=verdict, command=command)
    yield _restored(subject)


def _run_mountcr(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mountcr", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _restored(subject: str) -> Cell:
    counted = _count()
    done = _run_mountcr("restore", str(_KEPT / "images"), "--json")
    result, detail = f"failed: status {done.returncode}", done.stderr.strip()
    if done.returncode == 0:
        result, detail = "stands still", ""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and result != "ok":
            result = "ok" if _count() > counted else result
            time.sleep(0.05)
        os.kill(msgspec.json.decode(done.stdout)["pid"], signal.SIGKILL)
    command = "mountcr restore T/images"
    return Cell(
        group="move",
        subject=subject,
        check="restore",
        result=result,
        detail=detail,
        command=command,
    )


def _count() -> int:
    lines = (_KEPT / "upper/var/count").read_text(encoding="ascii").split()
    return int(lines[-1])


def _trips(_which: str) -> Iterable[Cell]:
    return round_trips(_SCRATCH)


def _overlay(_which: str) -> Iterable[Cell]:
    return overlay_trips(_SCRATCH)


def _held(_which: str) -> Iterable[Cell]:
    return held_files(_SCRATCH)


PARTS: Final[dict[str, Callable[[str], Iterable[Cell]]]] = {
    "doctor": _doctor,
    "trips": _trips,
    "overlay": _overlay,
    "held": _held,
    "suite": _suite,
    "keep": _keep,
    "return": _return,
    "upgrade": _upgrade,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
