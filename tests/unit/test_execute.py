# SPDX-License-Identifier: Apache-2.0
"""Steps are done in order and undone in reverse, and what cannot be undone is named."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mountcr.errors import CapabilityError, LeftBehindError, StepError
from mountcr.execute import Recorder, applied
from mountcr.model import InodeType
from mountcr.paths import KPath
from mountcr.planning.steps import (
    Attributes,
    Aufs,
    Bind,
    CgroupDirectory,
    Convert,
    Copy,
    Directory,
    EmptyLayer,
    Mountpoint,
    Overlay,
    Propagation,
    Step,
    VolatileMarker,
)
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from mountcr.errors import MountcrError

WHY = "a test wants it"

LAYERS = tuple(StoredLayer(path=KPath(each), dialect="overlay") for each in ("/u", "/l"))

STEPS: tuple[Step, ...] = (
    Directory(path=KPath("/upper"), because=WHY),
    Overlay(at=KPath("/at"), lowers=(KPath("/l2"), KPath("/l1")), because=WHY),
    Bind(source=KPath("/src"), at=KPath("/at2"), because=WHY),
    Copy(layers=LAYERS, into=KPath("/copy"), because=WHY),
    Convert(layers=LAYERS, into=KPath("/new"), to="aufs", because=WHY),
    Convert(layers=LAYERS, into=KPath("/kept"), to="aufs", shared=True, because=WHY),
    EmptyLayer(layers=LAYERS, into=KPath("/empty"), to="aufs", because=WHY),
    CgroupDirectory(path=KPath("/sys/fs/cgroup/x"), because=WHY),
    Mountpoint(root=KPath("/at"), path=KPath("/data"), type=InodeType.DIRECTORY, because=WHY),
    Mountpoint(root=KPath("/at"), path=KPath("/file"), type=InodeType.FILE, because=WHY),
    Attributes(at=KPath("/at"), attributes=("ro", "nosuid"), because=WHY),
    Propagation(at=KPath("/at"), propagation="shared", because=WHY),
    Aufs(
        at=KPath("/at3"),
        branches=(KPath("/u"), KPath("/l")),
        permissions=("rw", "ro+wh"),
        options=("dio",),
        because=WHY,
    ),
    VolatileMarker(path=KPath("/work/volatile"), because=WHY),
)

DONE = [
    ("make_directory", "/upper"),
    ("mount_overlay", "/at", "/l2", "/l1"),
    ("bind", "/src", "/at2"),
    ("copy_layers", "/copy", "/u", "/l"),
    ("convert_layer", "/new", "aufs", "/u", "/l"),
    ("convert_layer", "/kept", "aufs", "/u", "/l"),
    ("make_layer", "/empty", "aufs", "/u", "/l"),
    ("make_cgroup", "/sys/fs/cgroup/x"),
    ("make_mountpoint", "/at", "/data", "directory"),
    ("make_mountpoint", "/at", "/file", "file"),
    ("set_attributes", "/at", "ro", "nosuid"),
    ("set_propagation", "/at", "shared"),
    ("mount_aufs", "/at3", "/u=rw", "/l=ro+wh", "dio"),
    ("remove_marker", "/work/volatile"),
]

UNDONE = [
    ("make_directory", "/work/volatile"),
    ("unmount", "/at3"),
    ("remove_mountpoint", "/at", "/file"),
    ("remove_mountpoint", "/at", "/data"),
    ("remove_directory", "/sys/fs/cgroup/x"),
    ("remove_tree", "/empty"),
    ("remove_tree", "/new"),
    ("remove_tree", "/copy"),
    ("unmount", "/at2"),
    ("unmount", "/at"),
    ("remove_tree", "/upper"),
]


class Failing(Recorder):
    """A recorder for which some calls fail."""

    def __init__(self, **errors: Exception) -> None:
        super().__init__()
        self.errors = errors

    def _record(self, *words: object) -> None:
        super()._record(*words)
        error = self.errors.get(str(words[0]))
        if error:
            raise error


def denied(path: str = "") -> OSError:
    """The kernel says no."""
    return OSError(errno.EACCES, os.strerror(errno.EACCES), *([path] if path else []))


def test_every_kind_of_step_is_done_in_order() -> None:
    """Each calls what it says, once; leaving the block normally undoes nothing."""
    recorder = Recorder()
    with applied(STEPS, recorder):
        assert recorder.calls == DONE
    assert recorder.calls == DONE


def test_every_step_is_reported_when_it_is_done() -> None:
    """The report comes after the step, with the step."""
    recorder = Recorder()
    told: list[tuple[Step, int]] = []
    with applied(STEPS, recorder, report=lambda step: told.append((step, len(recorder.calls)))):
        pass
    assert told == [(step, number) for number, step in enumerate(STEPS, 1)]


def test_an_exception_in_the_block_undoes_all_in_reverse() -> None:
    """The exception goes on as it is."""
    recorder = Recorder()
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught, applied(STEPS, recorder):
        raise error
    assert caught.value is error
    assert recorder.calls == DONE + UNDONE


def test_an_interrupt_undoes_too() -> None:
    """Ctrl-C is no reason to leave something mounted."""
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt), applied(STEPS[:2], recorder):
        raise KeyboardInterrupt
    assert recorder.calls == DONE[:2] + UNDONE[-2:]


def test_the_caller_may_undo() -> None:
    """Once; leaving the block afterwards does nothing more."""
    recorder = Recorder()
    with applied(STEPS, recorder) as undo:
        undo()
        undo()
    assert recorder.calls == DONE + UNDONE


def test_a_step_that_fails_is_named() -> None:
    """With what the kernel said about which path; what came before is undone, it itself not."""
    kernel = Failing(bind=denied("/src"))
    with (
        pytest.raises(StepError, match=r"^bind of /src at /at2: Permission denied \(/src\)$") as at,
        applied(STEPS, kernel),
    ):
        pytest.fail("the block was entered")
    assert at.value.errno == errno.EACCES
    assert isinstance(at.value.__cause__, OSError)
    assert kernel.calls == [*DONE[:3], ("unmount", "/at"), ("remove_tree", "/upper")]


def test_an_error_of_ours_stays_what_it_is() -> None:
    """A kernel that knows better what is wrong is not overruled."""
    error = CapabilityError("too long", probe="overlay", hint="shorter")
    kernel = Failing(mount_overlay=error)
    with pytest.raises(CapabilityError) as caught, applied(STEPS, kernel):
        pass
    assert caught.value is error
    assert kernel.calls[-1] == ("remove_tree", "/upper")


@pytest.mark.parametrize(
    "error", [denied(), StepError("it is busy"), CapabilityError("cannot", probe="x")]
)
def test_what_cannot_be_undone_is_named_and_the_rest_undone(error: OSError | MountcrError) -> None:
    """Whatever undoing raises; the failure that it began with is not lost."""
    kernel = Failing(copy_layers=denied(), unmount=error)
    with pytest.raises(LeftBehindError) as caught, applied(STEPS, kernel):
        pass
    assert len(caught.value.left) == 2
    assert caught.value.left[0].startswith("bind of /src at /at2 (")
    assert caught.value.left[1].startswith("overlay of 2 lower at /at, read-only (")
    assert "at /at2" in caught.value.message
    assert caught.value.hint
    assert isinstance(caught.value.__context__, StepError)
    assert kernel.calls[-3:] == [("unmount", "/at2"), ("unmount", "/at"), ("remove_tree", "/upper")]


class Settled(Recorder):
    """A machine on which everything is there already."""

    def make_directory(self, path: KPath) -> bool:
        """It is there."""
        super().make_directory(path)
        return False

    def remove_marker(self, path: KPath, identity: str) -> bool:
        """There is none."""
        super().remove_marker(path, identity)
        return False

    def make_cgroup(self, path: KPath) -> bool:
        """It is there."""
        super().make_cgroup(path)
        return False

    def make_mountpoint(self, root: KPath, path: KPath, *, directory: bool) -> list[KPath]:
        """It is there."""
        super().make_mountpoint(root, path, directory=directory)
        return []


def test_what_was_there_before_is_not_removed() -> None:
    """Undoing removes only what was made."""
    recorder = Settled()
    with pytest.raises(KeyError), applied(STEPS, recorder):
        raise KeyError
    assert [call[0] for call in recorder.calls[len(DONE) :]] == [
        "unmount",
        "remove_tree",
        "remove_tree",
        "remove_tree",
        "unmount",
        "unmount",
    ]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_a_step_says_itself_in_one_line(step: Step) -> None:
    """With the paths it is about, and why."""
    words = step.describe()
    assert "/" in words
    assert "\n" not in words
    assert step.because == WHY


def test_nothing_to_do() -> None:
    """No steps, no calls."""
    recorder = Recorder()
    with applied((), recorder) as undo:
        undo()
    assert recorder.calls == []
