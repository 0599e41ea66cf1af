# SPDX-License-Identifier: Apache-2.0
"""
One container: run, planned, dumped, its engine stopped, rebuilt, restored, and counting on.

A step that fails is written down, with all that mountcr and CRIU said, and what does not need it
goes on.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from live.engine import parent
from live.ground import Ground, Trouble, mounts_of, runs, wait
from live.images import FINAL, HELD, LOG, REMOVED
from live.remains import Watch
from live.storedlayers import check_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from live.engine import Engine, Reference, Running

__all__ = ["STEPS", "Outcome", "Trip", "count", "holds", "root_of", "round_trip", "same"]

STEPS = ("run", "layers", "plan", "dump", "plan down", "rebuild", "restore")

_REFUSED = 4
"""The exit status of a plan that says no."""

_LINES = 12
"""Of a log, the last ones that are errors."""


class _Finding(msgspec.Struct):
    rule: str
    severity: str
    mount: str
    message: str
    cured: bool = False


class _Plan(msgspec.Struct):
    """What of a plan is told when it says no."""

    verdict: str
    findings: list[_Finding]


class _Row(msgspec.Struct):
    id: str
    engine: str
    status: str
    layers: int
    damages: list[str]


class _Listed(msgspec.Struct):
    """What `mountcr ls` knows."""

    containers: list[_Row]


class _Restored(msgspec.Struct):
    pid: int
    announced: bool
    differences: list[msgspec.Raw]


@dataclass
class Outcome:
    """What came of a variant: seconds of the steps that passed, and what the others said."""

    variant: str
    version: str = "?"
    passed: dict[str, float] = field(default_factory=dict[str, float])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    skipped: str = ""
    notes: list[str] = field(default_factory=list[str])
    remains: list[str] = field(default_factory=list[str])
    before: int = 0
    after: int = 0
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """One word."""
        if self.failed:
            return "FAILED"
        return "skipped" if self.skipped else "passed"

    @contextlib.contextmanager
    def step(self, name: str) -> Generator[None]:
        """Time a step; what goes wrong in it is written down and goes no further."""
        started = time.monotonic()
        try:
            yield
        except Trouble as trouble:
            self.failed[name] = str(trouble)
        except Exception as error:  # noqa: BLE001 - it must not keep the other variants from going
            self.failed[name] = f"{type(error).__name__}: {error}"
        else:
            self.passed[name] = time.monotonic() - started


def round_trip(
    variant: str,
    make: Callable[[Ground], Engine],
    *,
    refused: bool = False,
    through: bool = False,
    by_name: bool = True,
    keep: bool = False,
    kind: type[Trip] | None = None,
) -> Outcome:
    """
    Take a container of an engine through everything; nothing of it is left, but what is kept.

    One that is to be `refused` must be so by the plan and the dump, and has to go on. One that
    comes back `through` its engine is the engine's again. mountcr is told its pid, or its name.
    Another `kind` of trip has steps of its own by the same names.
    """
    outcome = Outcome(variant)
    started = time.monotonic()
    ground = Ground()
    try:
        make_trip = kind or Trip
        trip = make_trip(outcome, make(ground), ground, refused=refused, through=through)
        trip.go(by_name=by_name)
    finally:
        left = ground.close(keep=keep)
        if left:
            outcome.failed["clean up"] = "\n".join(left)
        if keep:
            outcome.notes.append(f"kept in {ground.top}")
        outcome.seconds = time.monotonic() - started
    return outcome


class Trip:
    """One container on its way; `go` takes it there."""

    def __init__(
        self, outcome: Outcome, engine: Engine, ground: Ground, *, refused: bool, through: bool
    ) -> None:
        self.outcome = outcome
        self.engine = engine
        self.ground = ground
        self.refused = refused
        self.through = through
        self.images = ground.top / "images"

    def go(self, *, by_name: bool) -> None:
        """Go through the steps, as far as it makes sense."""
        started: list[Running] = []
        with self.outcome.step("run"):
            self.engine.start()
            self.outcome.version = self.engine.version()
            started.append(self.engine.run("mountcr-live"))
            holds(root_of(started[0].pid))
        if "run" in self.outcome.failed:
            return
        (running,) = started
        reference = self.engine.reference(running, by_name=by_name)
        if self.engine.diff_ids():
            with self.outcome.step("layers"):
                check_layers(self.engine, running)
        with self.outcome.step("plan"):
            self._plan(reference.word, *reference.options, refused=self.refused)
        if not self._dump(reference, running):
            return
        with self.outcome.step("plan down"):
            if not self.engine.forgets:
                self._is_listed(running, reference)
            self._plan(self.images, "--for", "restore")
        with self.outcome.step("rebuild"):
            self._rebuild(lent=by_name and self.engine.keeps_mounted)
        with self.outcome.step("restore"):
            if self.through:
                self._hand_over(running)
            else:
                self._restore(running)

    def _dump(self, reference: Reference, running: Running) -> bool:
        """Dump, watch what the engine takes away, and stop it; tell whether there are images."""
        watch = Watch(running)
        with self.outcome.step("dump"):
            self.images = self.engine.images(running)
            words = self.engine.dumping(running, reference)
            if self.refused:
                self._is_refused(running, *words)
            else:
                self._mountcr(*words)
        dumped = "dump" in self.outcome.passed and not self.refused
        self.ground.end(running.pid)
        remains = watch.rest()
        with self.outcome.step("status"):
            self.outcome.notes.append(f"its engine says: {self.engine.status(running)}")
            if word := self.engine.tidy(running):
                remains.look(running, word)
        if not self.through:
            self.engine.stop_daemon()
        remains.look(running, "with its daemon down")
        self.outcome.remains = remains.lines()
        return dumped

    def _is_refused(self, running: Running, *words: object) -> None:
        """Claim that a command refuses, and that the container does not notice."""
        status, _, complaint = self._start(*words)
        if status != _REFUSED:
            lines = (f"exit status {status}, it was to be refused", complaint, *self._logs(0))
            raise Trouble("\n".join(lines))
        before = count(root_of(running.pid))
        wait(lambda: count(root_of(running.pid)) > before, "the counter to go on")

    def _is_listed(self, running: Running, reference: Reference) -> None:
        """Claim that the dead container is on the list of its engine, and what it is made of."""
        said = self._mountcr("ls", "--json", *reference.options)
        known = msgspec.json.decode(said, type=_Listed).containers
        found = [each for each in known if each.id == running.id]
        if len(found) != 1 or found[0].status != "stopped":
            raise Trouble(f"mountcr ls: {running.id} is not there once, and stopped: {found}")
        if found[0].engine != self.engine.word or found[0].damages:
            raise Trouble(f"mountcr ls: {found[0]}")

    def _rebuild(self, *, lent: bool) -> None:
        """Rebuild; what the engine has mounted, it does not lend out to be written into."""
        at = self.ground.top / "rebuilt"
        at.mkdir()
        before = mounts_of(self.ground.top)
        words = ["rebuild", self.images, "--at", at, "--json"]
        if lent:
            status, _, complaint = self._start(*words)
            if status != _REFUSED:
                raise Trouble(f"exit status {status}, it was to be refused\n{complaint}")
            words.append("--ro")
        self._mountcr(*words)
        try:
            self.outcome.before = count(at)
            _is_image(at)
            same((at / "app/before").read_text(), HELD["/app/before"], "/app/before")
        finally:
            self._mountcr("umount", at)
        if left := sorted({*mounts_of(self.ground.top)} - {*before}):
            raise Trouble(f"umount left mounted: {', '.join(left)}")

    def _restore(self, running: Running) -> None:
        before = {*mounts_of(self.ground.top)}
        restored = self._by_script(running) if self.engine.script else self._by_mountcr()
        self.ground.remember(restored.pid)
        try:
            self._goes_on(restored.pid)
        finally:
            self.ground.end(restored.pid)
        if restored.differences:
            self.outcome.notes += (
                f"differs: {bytes(each).decode()}" for each in restored.differences
            )
        if left := sorted({*mounts_of(self.ground.top)} - before):
            raise Trouble(f"left mounted when the container had ended: {', '.join(left)}")

    def _by_mountcr(self) -> _Restored:
        said = self._mountcr("restore", self.images, "--json")
        return msgspec.json.decode(said, type=_Restored)

    def _by_script(self, running: Running) -> _Restored:
        """Restore by the name of a container, with docker-cr, which writes the pid into a file."""
        said = self._mountcr("docker-cr", "-r", running.name)
        same(said, "restore successful\n", "what docker-cr says")
        return _Restored(
            int((self.images / "restore.pid").read_text()), announced=True, differences=[]
        )

    def _hand_over(self, running: Running) -> None:
        """Claim that the engine knows the restored container, reaches into it and stops it."""
        before = sorted(mounts_of(self.ground.top))
        said = self._mountcr("restore", self.images, "--via", "engine", "--json")
        restored = msgspec.json.decode(said, type=_Restored)
        self.ground.remember(restored.pid)
        keeper = parent(restored.pid)
        self.ground.remember(keeper)
        self.ground.remove_sockets(keeper)
        status, _, complaint = self._start("restore", self.images, "--via", "engine")
        if status != _REFUSED:
            raise Trouble(f"again: exit status {status}, it was to be refused\n{complaint}")
        self.outcome.notes.append(f"its engine says: {self.engine.status(running)}")
        self._goes_on(restored.pid)
        if restored.differences:
            raise Trouble(f"differs: {restored.differences}")
        same(self.engine.says(running), "here\n", "what a program in it says")
        self.engine.stop(running)
        if runs(restored.pid):
            raise Trouble("its engine has stopped it, and it runs")
        self.outcome.notes.append(f"its engine says: {self.engine.status(running)}")
        if sorted(mounts_of(self.ground.top)) != before:
            raise Trouble(f"mounted: {', '.join(mounts_of(self.ground.top))}, and was {before}")

    def _goes_on(self, pid: int) -> None:
        """Claim that it counts on without a gap, and that all it wrote is there."""
        root = root_of(pid)
        before = self.outcome.before
        wait(lambda: count(root) > before + 2, f"the counter to go on from {before}")
        self.outcome.after = count(root)
        lines = (root / LOG.lstrip("/")).read_text().split()
        if lines != [str(number + 1) for number in range(len(lines))]:
            raise Trouble(f"{LOG} has a gap: {' '.join(lines)}")
        holds(root)

    # The command line

    def _plan(self, *words: object, refused: bool = False) -> None:
        """Claim that a plan refuses nothing, or that it does."""
        status, said, complaint = self._start("plan", *words, "--json")
        if status not in {0, _REFUSED}:
            raise Trouble(f"mountcr plan: exit status {status}\n{complaint}")
        plan = msgspec.json.decode(said, type=_Plan)
        told = [
            f"{each.severity} {each.rule} at {each.mount}: {each.message}"
            for each in plan.findings
            if not each.cured and each.severity != "note"
        ]
        if refused != bool(status):
            raise Trouble("\n".join((f"the plan says {plan.verdict}", *told)))
        purpose = "restore" if "restore" in words else "dump"
        self.outcome.notes += (f"plan of the {purpose}: {each}" for each in told)

    def _mountcr(self, *words: object) -> str:
        """Run the command line; raise Trouble with all that it and CRIU said."""
        started = time.time()
        status, said, complaint = self._start(*words)
        if status:
            command = " ".join(map(str, words))
            lines = [f"mountcr {command}: exit status {status}", complaint or said]
            raise Trouble("\n".join((*lines, *self._logs(started))))
        return said

    def _start(self, *words: object) -> tuple[int, str, str]:
        """Run the command line; give its exit status, what it printed and its complaint."""
        try:
            done = subprocess.run(
                [sys.executable, "-m", "mountcr", *map(str, words)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=100,
                cwd=self.ground.top,
                env={**os.environ, **self.engine.environment},
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            raise Trouble(f"mountcr {words[0]}: {expired}") from None
        return done.returncode, done.stdout, done.stderr.strip()

    def _logs(self, since: float) -> list[str]:
        """Give the errors in CRIU's logs that are not older than a moment."""
        lines: list[str] = []
        for path in sorted(self.images.rglob("*.log")):
            if path.stat().st_mtime >= since:
                said = path.read_text(errors="replace").splitlines()
                errors = [line for line in said if re.search(r"\bError\b", line)]
                lines += (f"{path.name}: {line}" for line in errors[-_LINES:])
        return lines


def root_of(pid: int) -> Path:
    """Give the root of a process, whatever mount namespace it is in."""
    return Path(f"/proc/{pid}/root")


def count(root: Path) -> int:
    """Read how far the counter is, below a root."""
    lines = (root / LOG.lstrip("/")).read_text().split()
    return int(lines[-1]) if lines else 0


def holds(root: Path) -> None:
    """Claim that below the root of a process all is there that it wrote, and the image."""
    for path, content in HELD.items():
        inside = root / path.lstrip("/")
        if path.startswith("/dev/shm/") and not inside.parent.is_dir():
            continue
        same(inside.read_text(), content, path)
    _is_image(root)


def _is_image(root: Path) -> None:
    for path, content in FINAL.items():
        same((root / path.lstrip("/")).read_text(), content, path)
    if (root / REMOVED.lstrip("/")).exists():
        raise Trouble(f"{REMOVED} is there, which a layer removed")


def same(found: str, wanted: str, path: str) -> None:
    if found != wanted:
        raise Trouble(f"{path} is {found!r} and was {wanted!r}")
