# SPDX-License-Identifier: Apache-2.0
"""
Moves that are killed at random moments, and moves that run out of room.

Afterwards the source goes on, neither frozen nor traced, or it has ended and its bundle is complete
and is restored; the target has nothing, or all of it. After a kill that holds when `mountcr
cleanup` was run.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeAlias

from moves.machine import STATE, BrokenError, Finished, Machine, wait
from moves.table import container, remove
from moves.witness import Running

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from moves.container import Started

    Words: TypeAlias = tuple[object, ...]

__all__ = ["Ground", "Tried"]

_MOUNTCR: Final = (sys.executable, "-m", "mountcr")
_IDENTITY: Final = "moved"

_LATE: Final = 0.1
"""Seconds within which a command ends, or goes on to what is next, when its result is there."""

_OUTPUTS: Final = {"file": "out.tar.zst", "directory": "out/"}


class Tried(NamedTuple):
    """What was tried, and what became of it in a word; `broken` is a claim that did not hold."""

    what: str
    became: str = ""
    broken: str = ""


class _Moment(NamedTuple):
    """So many seconds after the start of a command, or `late`, after its result has its name."""

    seconds: float
    late: bool

    def __str__(self) -> str:
        """Say when."""
        return f"{self.seconds:.3f} s after {'its result was there' if self.late else 'its start'}"


class Ground:
    """Two hosts, a container on the one and a bundle of it for the other; for a `with` block."""

    def __init__(self, here: Machine, there: Machine, seed: int) -> None:
        self._here, self._there = here, there
        self._choice = random.Random(seed)  # noqa: S311  # has to be the same every time
        self._seed = seed
        self._number = 0
        self._source = contextlib.ExitStack()
        self._started: Started | None = None
        self._bundle = here.passed / "kept.tar.zst"
        self._succeeds(here, self._export(self._bundle, leave_running=True))
        self._seconds = {
            "export": min(self._export_seconds() for _ in range(3)),
            "import": min(self._import_seconds("import") for _ in range(2)),
            "restore": min(self._import_seconds("restore") for _ in range(2)),
        }

    def __enter__(self) -> Self:
        """Give the ground."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the container."""
        self._end()

    # What is done

    def _export(self, output: object, *, leave_running: bool) -> Words:
        going = ("--leave-running",) if leave_running else ()
        words = ("export", self._source_of().pid, "-o", output, "--volume", "all", *going)
        return (*_MOUNTCR, *words)

    def _incoming(self, command: str, bundle: object) -> Words:
        return (*_MOUNTCR, command, bundle, "--id", _IDENTITY, "--json")

    @staticmethod
    def _succeeds(machine: Machine, words: Words) -> Finished:
        finished = machine.run(*words)
        if finished.status:
            raise BrokenError(f"{words} fails undisturbed: {finished}")
        return finished

    def _export_seconds(self) -> float:
        output = self._here.passed / "timed"
        words = self._export(output, leave_running=True)
        began = time.monotonic()
        self._succeeds(self._here, words)
        seconds = time.monotonic() - began
        output.unlink()
        return seconds

    def _import_seconds(self, command: str) -> float:
        began = time.monotonic()
        finished = self._succeeds(self._there, self._incoming(command, self._bundle))
        seconds = time.monotonic() - began
        self._forget(finished.document.get("pid", 0))
        return seconds

    def _forget(self, pid: int) -> None:
        """Take what was restored off the target."""
        if pid:
            remove(self._there, _IDENTITY, pid)
        else:
            self._there.run("rm", "-rf", f"{STATE}/containers/{_IDENTITY}", f"{STATE}/layers")

    # The source

    def _source_of(self) -> Started:
        """Give a container that runs on the source, a new one if the last has ended."""
        if self._started is None:
            self._number += 1
            self._started = self._source.enter_context(
                container(self._here, "overlay", self._seed, f"source-{self._number}")
            )
            self._running().goes_on()
            self._here.expect()
        return self._started

    def _running(self) -> Running:
        return Running(self._here.root_of(self._source_of().pid))

    def _end(self) -> None:
        self._source.close()
        if self._started is not None:
            self._here.run("rm", "-rf", "--one-file-system", os.path.dirname(self._started.merged))
        self._started = None

    def _source_goes_on(self) -> bool:
        """Tell whether the source goes on; claim that it is not half of a container."""
        pid = self._source_of().pid
        with contextlib.suppress(BrokenError):  # CRIU may be about to end it
            wait(lambda: self._here.state_of(pid) in "ZX", "its end", seconds=0.3)
        if self._here.state_of(pid) in "ZX":
            return False
        self._running().goes_on()
        if tracer := self._here.tracer_of(pid):
            raise BrokenError(f"the source is traced by {tracer}")
        return True

    def _judged_source(self, output: Path, *, leave_running: bool) -> str:
        """Claim that the source goes on, or the bundle is complete; say what is so."""
        there = os.path.lexists(output)
        if there:
            self._here.done("verify", output)
        if self._source_goes_on():
            if there and not leave_running:
                raise BrokenError("the source goes on, and there is a bundle of its end")
            if left := self._here.left():
                raise BrokenError(f"the source goes on, and there is left: {left}")
            self._here.run("rm", "-rf", output)
            return "it goes on, bundle complete" if there else "it goes on"
        reached = Running(self._here.seen(self._source_of().merged)).reached()
        if not there:
            self._end()
            raise BrokenError("the source is gone, and there is no bundle")
        found = self._succeeds(self._there, self._incoming("restore", output)).document
        try:
            Running(self._there.root_of(found["pid"])).goes_on(reached)
        finally:
            self._forget(found["pid"])
            self._here.run("rm", "-rf", output)
        left = self._here.left()
        self._end()
        if left:
            raise BrokenError(f"the source has moved, and there is left: {left}")
        return "it moved"

    # The target

    def _judged_target(self, *, restoring: bool) -> str:
        """Claim that the target has nothing, or all of it; say what is so."""
        left = self._there.left()
        if not left:
            return "nothing is there"
        at = f"{STATE}/containers/{_IDENTITY}"
        new = [each for each in left if not each.startswith(("process ", at))]
        pids = [each.split()[1] for each in left if each.startswith("process ")]
        if new or not self._there.seen(f"{at}/images").is_dir() or (pids and not restoring):
            raise BrokenError(f"the target has {left}")
        pid = self._restored()
        if pid:
            Running(self._there.root_of(pid)).goes_on()
        else:
            document = self._there.done("restore", f"{at}/images")
            pid = document["pid"]
            Running(self._there.root_of(pid)).goes_on()
        self._forget(pid)
        if left := self._there.left():
            raise BrokenError(f"afterwards the target has {left}")
        return "it is there, whole"

    def _restored(self) -> int:
        """Give the pid of the first process of a restored container, 0 if there is none."""
        for pid in self._there.processes():
            with contextlib.suppress(OSError):
                if (self._there.root_of(pid) / "moves/counter").exists():
                    return pid
        return 0

    # Kills

    def kills(self, times: int) -> Iterator[Tried]:
        """Kill so many moves."""
        ways = [
            *(("export", kind, going) for kind in _OUTPUTS for going in (True, False)),
            *(("import", "", False), ("restore", "", False)),
        ]
        for number in range(times):
            command, kind, going = ways[number % len(ways)]
            late = number // len(ways) % 2 == 1
            whole = self._seconds[command]
            after = 0.6 * whole if command == "restore" else _LATE
            limits = (0, after) if late else (0.2 * whole, 1.2 * whole)
            moment = _Moment(self._choice.uniform(*limits), late)
            what = " ".join(filter(None, (command, kind, "--leave-running" * going)))
            yield self._tried(
                f"{what} killed",
                str(moment),
                self._kill(command, kind, moment, leave_running=going),
            )

    def _kill(
        self, command: str, kind: str, moment: _Moment, *, leave_running: bool
    ) -> Callable[[], str]:
        output = self._here.passed / _OUTPUTS.get(kind, "")

        def export() -> str:
            words = self._export(
                f"{self._here.passed}/{_OUTPUTS[kind]}", leave_running=leave_running
            )
            self._kill_at(moment, self._here, words, output)
            return self._judged_source(output, leave_running=leave_running)

        def incoming() -> str:
            words = self._incoming(command, self._bundle)
            at = self._there.seen(f"{STATE}/containers/{_IDENTITY}")
            self._kill_at(moment, self._there, words, at)
            return self._judged_target(restoring=command == "restore")

        return export if command == "export" else incoming

    @staticmethod
    def _kill_at(moment: _Moment, machine: Machine, words: Words, result: Path) -> None:
        process = machine.start(*words)
        while moment.late and process.poll() is None and not os.path.lexists(result):
            time.sleep(0.001)
        time.sleep(moment.seconds)
        machine.kill(process)
        machine.clean_up()

    # No room

    def no_room(self, times: int) -> Iterator[Tried]:
        """Let so many moves find too little room where they write."""
        ways = [
            ("export", "output", True),
            ("export", "output", False),
            ("export", "state", True),
            ("export", "state", False),
            ("import", "state", False),
            ("restore", "state", False),
        ]
        for number in range(times):
            command, where, going = ways[number % len(ways)]
            size = int(self._choice.uniform(0, 1.05) * self._need(command, where))
            what = " ".join(filter(None, (command, "--leave-running" * going)))
            yield self._tried(
                f"{what} without room for its {where}",
                f"{size} bytes",
                self._starve(command, where, size, leave_running=going),
            )

    def _need(self, command: str, where: str) -> int:
        """Give about how many bytes a move writes to a place."""
        if command == "export":
            return self._bundle.stat().st_size if where == "output" else 6 << 20
        return 24 << 20

    def _starve(
        self, command: str, where: str, size: int, *, leave_running: bool
    ) -> Callable[[], str]:
        pages = max(size >> 12, 2)
        machine = self._here if command == "export" else self._there

        def starve() -> str:
            output = self._here.passed / _OUTPUTS["file"]
            at = f"{self._here.passed}" if where == "output" else STATE
            words = (
                self._export(output, leave_running=leave_running)
                if command == "export"
                else self._incoming(command, self._bundle)
            )
            with _small(machine, at, pages, remount=where == "state"):
                finished = machine.run(*words)
                _said_so(finished)
                if command == "export":
                    return self._judged_starved(finished, output, leave_running=leave_running)
            if finished.status == 0:
                self._forget(finished.document.get("pid", 0))
                return "there was room"
            became = self._judged_target(restoring=False)
            self._there.run("rm", "-rf", f"{STATE}/layers")
            return became

        return starve

    def _judged_starved(self, finished: Finished, output: Path, *, leave_running: bool) -> str:
        seen = self._here.seen(output)
        if finished.status and seen.exists():
            raise BrokenError(f"it failed, and there is a bundle: {finished.err}")
        if finished.status == 0 and not leave_running:
            self._end()
            self._here.run("rm", "-f", output)
            return "there was room"
        if not self._source_goes_on():
            self._end()
            raise BrokenError(f"the source is gone: {finished}")
        self._here.run("rm", "-f", output)
        if left := self._here.left():
            raise BrokenError(f"left: {left}")
        return "it goes on" if finished.status else "there was room"

    # Judging

    def _tried(self, what: str, how: str, claim: Callable[[], str]) -> Tried:
        try:
            return Tried(what, claim())
        except BrokenError as error:
            self._start_anew()
            return Tried(what, broken=f"{what} {how}: {error}")

    def _start_anew(self) -> None:
        """Let one claim that did not hold not break those that follow."""
        self._end()
        for machine in (self._here, self._there):
            for pid in machine.processes():
                with contextlib.suppress(OSError):
                    if (machine.root_of(pid) / "moves/counter").exists():
                        machine.run("kill", "-9", pid)
            machine.run(
                "sh", "-c", f"rm -rf {STATE}/* {machine.passed}/out* {machine.passed}/.out*"
            )
            machine.run("sh", "-c", "rm -rf /run/mountcr/journal")
            machine.expect()


@contextlib.contextmanager
def _small(machine: Machine, at: str, pages: int, *, remount: bool) -> Generator[None]:
    """Have a place with so much room only, for a block."""
    words: Words
    undo: Words
    if remount:
        used = sum(
            status.st_blocks << 9
            for where, _, names in os.walk(machine.seen(at))
            for status in (os.lstat(os.path.join(where, name)) for name in names)
        )
        words = ("mount", "-o", f"remount,size={(pages << 12) + used}", at)
        undo = ("mount", "-o", "remount,size=50%", at)
    else:
        words = ("mount", "-t", "tmpfs", "-o", f"size={pages << 12}", "small", at)
        undo = ("umount", at)
    done = machine.run(*words)
    if done.status:
        raise RuntimeError(f"{words}: {done.err}")
    try:
        if not remount:
            machine.expect_mounts()
        yield
    finally:
        if machine.run(*undo).status == 0 and not remount:
            machine.expect_mounts()


def _said_so(finished: Finished) -> None:
    """Claim a documented exit status, and one line that says why, if it failed."""
    lines = [
        line
        for line in finished.err.splitlines()
        if not line.startswith(("+ ", "  hint: ", "note: "))
    ]
    if finished.status not in {0, 1, 6, 7} or "Traceback" in finished.err:
        raise BrokenError(f"status {finished.status}: {finished.err}")
    if bool(finished.status) != (len(lines) == 1):
        raise BrokenError(f"status {finished.status}, not one line: {finished.err}")
