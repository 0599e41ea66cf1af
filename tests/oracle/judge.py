# SPDX-License-Identifier: Apache-2.0
"""
The judgement of one random container: what the plan says, against what CRIU does.

Where the plan says refused, CRIU is run by hand and has to fail with a message of a rule that was
found. Where a rule says that CRIU would refuse without the plan's cure, CRIU is also run without.
Where the plan says that it works, it has to work, and what is different afterwards has to be what
was announced: no less and, as far as mount tables show it, no more.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import mountinfo
from mountcr.criu import binary, log
from mountcr.criu.options import CriuOptions, to_argv
from mountcr.engines import pid as processes
from mountcr.errors import CriuError, MountcrError, VerificationError
from mountcr.graph import MountGraph
from mountcr.graph.diff import Difference, diff_namespaces
from mountcr.graph.rebound import without_sources
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.private import in_private_namespace
from mountcr.model import MountNamespace
from mountcr.observation import observe, observe_host
from mountcr.operations import dump as dumping
from mountcr.operations import restore as restoring
from mountcr.operations import restored
from mountcr.paths import KPath, encode
from mountcr.planning.choices import RESTORE_ROOT, Choices
from mountcr.planning.externals import CYCLE
from mountcr.planning.planner import make_plan
from mountcr.planning.records import Verdict
from mountcr.planning.unions import assemble_unions
from mountcr.rules.table import table
from oracle import container as real
from oracle.ground import Place, unmount_below
from oracle.meaning import (
    cured_later,
    in_dump,
    only,
    shape,
    show_tables,
    visible,
    what_differs,
    who_says,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import Container, Finding
    from mountcr.planning.records import Plan
    from oracle.ground import Ground
    from oracle.recipe import Recipe

__all__ = ["Failure", "Outcome", "judge"]

_BY_ENGINE: Final = frozenset({"R6", "R7", "R15"})
"""Refusals at restore that the older engine cures, and no external."""

_SINGLE: Final = 3
"""How many externals of a container are left out one by one; more cost time and say the same."""

_TIMEOUT: Final = 60
_YARD: Final = re.compile(r"/tmp/\.criu\.mntns\.[A-Za-z0-9]{6}")


@dataclass(frozen=True)
class Failure:
    """A wrong prediction: of which kind, about what; failures of one `kind` have one cause."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


@dataclass
class Outcome:
    """What came of one container; `predicted` and `confirmed` count rules."""

    seed: int
    verdict: str = ""
    dumped: bool = False
    restored: bool = False
    failures: list[Failure] = field(default_factory=list[Failure])
    predicted: Counter[str] = field(default_factory=Counter[str])
    confirmed: Counter[str] = field(default_factory=Counter[str])
    refused_by: str = ""
    table: str = ""


def judge(recipe: Recipe, ground: Ground) -> Outcome:
    """Build a container, have it dumped and restored, and leave nothing of it behind."""
    place = Place(ground, f"c{recipe.seed}")
    running: dict[int, int] = {}
    try:
        place.prepare(recipe)
        pid = real.start(recipe, place).pid
        running[pid] = real.started(pid)
        trial = _Trial(recipe, place, pid, running)
        trial.run()
        return trial.outcome
    finally:
        for pid, start_time in running.items():
            real.end(pid, start_time)
        try:
            _remove_yards(place.top)
        finally:
            place.close()


def _remove_yards(top: Path) -> None:
    """Remove the directories that a CRIU which failed has left behind; its log names them."""
    for each in top.glob("*/*.log"):
        for yard in set(_YARD.findall(each.read_text(errors="replace"))):
            with contextlib.suppress(OSError):
                os.rmdir(yard)


@dataclass
class _Done:
    """What CRIU did when it was run by hand: its status and the first error of its log."""

    status: int
    said: str


class _Trial:
    """
    One container on trial.

    `running` gets the root of every task tree that may still run: pid and start time.
    """

    def __init__(self, recipe: Recipe, place: Place, pid: int, running: dict[int, int]) -> None:
        self.recipe = recipe
        self.place = place
        self.pid = pid
        self.running = running
        self.outcome = Outcome(recipe.seed)
        self.images = place.path("images")
        self.before = real.tables(pid)
        self.outside = mountinfo.read()
        self.assembled: frozenset[KPath] = frozenset()
        self.seen = self._witness(pid)
        self.outcome.table = show_tables(self.before)

    def run(self) -> None:
        """Predict and try."""
        try:
            found = processes.read(self.pid)
            facts = observe(found, host=observe_host(criu=binary.require()))
            plan = make_plan(facts, Choices(images=self.images))
        except (MountcrError, LookupError, ValueError, AttributeError, TypeError) as error:
            self._fail(f"the plan raises {type(error).__name__}", str(error))
            return
        self.outcome.verdict = plan.verdict.value
        self.outcome.predicted.update({each.rule for each in plan.findings})
        self._without_cures(plan)
        self._without_cures_later(plan)
        if plan.verdict is Verdict.REFUSED:
            self._refused(plan)
        else:
            self._accepted(found, plan)

    def _fail(self, kind: str, detail: str = "") -> None:
        self.outcome.failures.append(Failure(kind, detail))

    def _confirm(self, rules: Iterable[str]) -> None:
        """Count rules as confirmed, each once for a container, and only if it was predicted."""
        self.outcome.confirmed |= Counter(set(rules) & self.outcome.predicted.keys())

    @staticmethod
    def _witness(pid: int) -> dict[tuple[int, bytes], object]:
        return {
            (inner, path): seen
            for inner, outer in real.tasks(pid).items()
            for path, seen in real.witness(outer)
        }

    # CRIU by hand

    def _criu(self, options: CriuOptions, name: str) -> _Done:
        """Run CRIU; its images go to, or come from, where the options say, its log to `name`."""
        work = self.place.top / name
        work.mkdir()
        options = msgspec.structs.replace(options, work=encode(str(work)))
        done = subprocess.run(
            to_argv(options, binary.require().command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
        path = work / options.log_name
        text = path.read_text(errors="replace") if path.exists() else ""
        said = log.first_error(text)[0] or done.stderr.decode(errors="replace")[:200]
        return _Done(done.returncode, said)

    def _without_cures(self, plan: Plan) -> None:
        """
        Dump without cures: what rules say of a dump then has to happen.

        First without any, then without one external at a time, which shows that it is needed.
        """
        expected = [each for each in plan.findings if in_dump(each)]
        if not expected:
            return
        options = msgspec.structs.replace(plan.criu.dump_options, leave_running=True)
        bare = msgspec.structs.replace(
            options, externals=(), link_remap=False, file_locks=False, skip_mnt=(), enable_fs=()
        )
        if not self._fails(bare, "bare", expected) or plan.refusals:
            return
        for number, external in enumerate(plan.externals[:_SINGLE]):
            if not any(each.mount == external.mountpoint for each in expected):
                continue
            if external.because == CYCLE:
                continue  # it is needed for the restore
            start = f"mnt[{external.mountpoint}]:"
            left = tuple(each for each in options.externals if not each.startswith(start))
            without = msgspec.structs.replace(options, externals=left)
            self._fails(without, f"without{number}", expected)

    def _without_cures_later(self, plan: Plan) -> None:
        """
        Dump and restore without the cure of what is refused at restore.

        That may work all the same: CRIU mounts an overlay of the host's directories as it was. A
        dump that fails is what other rules are about.
        """
        later = [each for each in plan.findings if cured_later(each)]
        if not later or plan.refusals:
            return
        if any(mount.deleted for mounts in self.before.values() for mount in mounts):
            return  # a restore that fails leaves what CRIU makes in their place
        images = self.place.top / "later-images"
        images.mkdir()
        starts = tuple(f"mnt[{each.mount}]:" for each in later if each.rule not in _BY_ENGINE)
        options = msgspec.structs.replace(
            plan.criu.dump_options,
            images=encode(str(images)),
            externals=tuple(
                each for each in plan.criu.dump_options.externals if not each.startswith(starts)
            ),
            leave_running=True,
        )
        if self._criu(options, "later").status:
            return
        again = msgspec.structs.replace(
            plan.criu.restore_options, images=encode(str(images)), mntns_compat=False
        )
        done, pid = self._restore_alone(plan, again, "later-restore")
        names = "/".join(sorted({each.rule for each in later}))
        if done.status == 0:
            if self._differences(pid) or self._changed(pid):
                self._confirm(each.rule for each in later)
            real.end(pid)
        elif said := who_says(done.said, later):
            self._confirm(said)
        else:
            self._fail(f"{names} says something else: {shape(done.said)}", done.said)

    def _fails(self, options: CriuOptions, name: str, expected: list[Finding]) -> bool:
        """Have CRIU dump and fail for one of the reasons that are expected; tell whether it did."""
        images = self.place.top / f"{name}-images"
        images.mkdir()
        done = self._criu(msgspec.structs.replace(options, images=encode(str(images))), name)
        names = "/".join(sorted({each.rule for each in expected}))
        if done.status == 0:
            self._fail(f"{names} does not happen ({name.rstrip('0123456789')})", name)
            return False
        said = who_says(done.said, expected)
        if said:
            self._confirm(said)
        else:
            self._fail(f"{names} says something else: {shape(done.said)}", done.said)
        return bool(said)

    # A plan that refuses

    def _refused(self, plan: Plan) -> None:
        """Have CRIU try what is refused, with the options of the plan."""
        names = "/".join(sorted({each.rule for each in plan.refusals}))
        self.outcome.refused_by = names
        Path(os.fsdecode(self.place.top / "images")).mkdir()
        done = self._criu(plan.criu.dump_options, "by-hand")
        if done.status:
            self._expect_message(done, plan, names)
            return
        self.outcome.dumped = True
        later = [each for each in plan.refusals if not in_dump(each)]
        if not later:
            self._fail(f"refused by {names}, but CRIU dumps")
            return
        self._restore_by_hand(plan, names)

    def _expect_message(self, done: _Done, plan: Plan, names: str) -> None:
        said = who_says(done.said, plan.refusals)
        silent = [each.rule for each in plan.refusals if not table()[each.rule].message]
        if said or silent:
            self._confirm(said or silent)
        else:
            self._fail(f"refused by {names}, for another reason: {shape(done.said)}", done.said)

    def _restore_by_hand(self, plan: Plan, names: str) -> None:
        """Restore with CRIU alone, on the root as it still is on the host."""
        done, pid = self._restore_alone(plan, plan.criu.restore_options, "by-hand-restore")
        if done.status:
            self._expect_message(done, plan, names)
            return
        self.outcome.restored = True
        found = self._differences(pid) or self._changed(pid)
        if found:
            self._confirm(each.rule for each in plan.refusals)
        else:
            self._fail(f"refused by {names}, but CRIU dumps and restores, and nothing differs")

    def _restore_alone(self, plan: Plan, options: CriuOptions, name: str) -> tuple[_Done, int]:
        """Have CRIU restore on the root as it is on the host; give the pid of its root task."""
        pidfile = self.place.top / f"{name}.pid"
        root = self.place.path("root")
        extra = (*options.extra, "--pidfile", str(pidfile))
        options = msgspec.structs.replace(options, root=root, extra=extra)
        if any(each.stack for each in plan.externals):
            done = in_private_namespace(lambda: self._in_assembled(plan, root, options, name))
        else:
            done = self._criu(options, name)
        pid = int(pidfile.read_text()) if done.status == 0 else 0
        if pid:
            self.running[pid] = real.started(pid)
        return done, pid

    def _in_assembled(self, plan: Plan, root: KPath, options: CriuOptions, name: str) -> _Done:
        """Assemble the overlays of the container, as a person would have to, and run CRIU."""
        kernel = LiveKernel()
        kernel.make_directory(RESTORE_ROOT)
        kernel.bind(root, RESTORE_ROOT)
        graph = MountGraph(
            MountNamespace(id=number, pid=0, mounts=mounts)
            for number, mounts in self.before.items()
        )
        for step in assemble_unions(graph, plan.externals):
            step.execute(kernel)
        return self._criu(options, name)

    # A plan that accepts

    def _accepted(self, found: Container, plan: Plan) -> None:
        """Dump, take the root away, restore, compare."""
        choices = Choices(images=self.images)
        try:
            dumping.dump(found, choices)
        except CriuError as error:
            said = error.first_error or str(error)
            self._fail(f"unannounced refusal of the dump: {shape(said)}", said)
            return
        except MountcrError as error:
            self._fail(f"the dump raises {type(error).__name__}", str(error))
            return
        self.outcome.dumped = True
        unmount_below(self.place.root)
        try:
            _, again = restoring.plan_restore(self.images, Choices())
        except MountcrError as error:
            self._fail(f"the plan of the restore raises {type(error).__name__}", str(error))
            return
        if again.refusals:
            self._late(plan, again)
            return
        # the directories of an overlay have other paths when it is assembled
        self.assembled = frozenset(each.mountpoint for each in again.externals if each.stack)
        self._restore(plan, again)

    def _late(self, plan: Plan, again: Plan) -> None:
        """
        A refusal that is found when the container is gone already was not announced.

        That a source has to be given, M3, was announced as E6.
        """
        sourceless = {each.mount for each in plan.losses if each.rule == "E6"}
        if all(each.rule == "M3" and each.mount in sourceless for each in again.refusals):
            self.outcome.refused_by = "E6"
            self._confirm({"E6"})
            return
        rules = "/".join(sorted({each.rule for each in again.refusals}))
        self._fail(f"{rules} refuses the restore only", again.refusals[0].message)

    def _restore(self, plan: Plan, again: Plan) -> None:
        try:
            result = restoring.restore(self.images, Choices())
        except CriuError as error:
            said = error.first_error or str(error)
            self._fail(f"unannounced refusal of the restore: {shape(said)}", said)
            return
        except VerificationError as error:
            for line in error.differences:
                self._fail(f"unannounced difference of {what_differs(line)}", line)
            return
        except MountcrError as error:
            self._fail(f"the restore raises {type(error).__name__}", str(error))
            return
        self.running[result.pid] = real.started(result.pid)
        self.outcome.restored = True
        known = {(each.rule, each.mount) for each in plan.losses}
        late = [each for each in again.losses if (each.rule, each.mount) not in known]
        for each in late:
            self._fail(f"loss {each.rule} is announced after the dump only", each.mount)
        self._compare(again, self._differences(result.pid), result.pid)

    # Comparison

    def _differences(self, pid: int) -> list[Difference]:
        after = real.tables(pid)
        numbers = sorted({*self.before, *after})
        ours, theirs = without_sources(
            [self.before.get(number, ()) for number in numbers],
            [after.get(number, ()) for number in numbers],
            self.assembled,
        )
        return diff_namespaces(
            ours,
            theirs,
            outside_before=self.outside,
            outside_after=mountinfo.read(),
        )

    def _changed(self, pid: int) -> list[bytes]:
        """Give the mountpoints at which other things are seen than before."""
        after = self._witness(pid)
        return [
            path for (inner, path), seen in self.seen.items() if after.get((inner, path)) != seen
        ]

    def _compare(self, plan: Plan, differences: list[Difference], pid: int) -> None:
        """Hold differences and announced losses against each other."""
        for each in differences:
            if not restored.is_announced(plan, each):
                self._fail(f"unannounced difference of {each.what}", str(each))
        for loss in plan.losses:
            if not visible(plan, loss):
                continue
            if any(restored.is_announced(only(plan, loss), each) for each in differences):
                self._confirm({loss.rule})
            else:
                self._fail(f"loss {loss.rule} does not happen", f"{loss.mount}: {loss.message}")
        hidden = [loss for loss in plan.losses if not visible(plan, loss)]
        changed = {encode(path) for path in self._changed(pid)}
        self._confirm(loss.rule for loss in hidden if loss.mount in changed)
        for path in sorted(changed - {loss.mount for loss in hidden}):
            self._fail("unannounced change of content", path)
