# SPDX-License-Identifier: Apache-2.0
"""Errors say in one line what is wrong, know their exit status, and travel whole."""

from __future__ import annotations

import inspect
import pickle
import traceback

import pytest

from mountcr import errors
from mountcr.errors import MountcrError
from mountcr.model import Finding, Severity

REFUSAL = Finding(rule="V4", severity=Severity.REFUSAL, mount="/etc/hosts", message="no", cure="do")

EXAMPLES: tuple[MountcrError, ...] = (
    MountcrError("failed", hint="try"),
    errors.UsageError("senseless", hint="see --help"),
    errors.AmbiguousError("two", ("runc:a1", "crun:a2"), hint="longer"),
    errors.DocumentError("damaged", hint="write it again"),
    errors.NotFoundError("no web", similar=("webb", "we"), hint="ls"),
    errors.GoneError("ended", similar=("x",), hint="start it"),
    errors.RefusedError("refused", (REFUSAL,), hint="cure"),
    errors.PlanError("line 2: no parent", hint="read it again"),
    errors.VerificationError("other", ("/a: size", "/b: mode"), hint="bring it back"),
    errors.CapabilityError("cannot", probe="open_tree", hint="newer kernel"),
    errors.PrivilegeError("may not", hint="root"),
    errors.StepError("bind failed", errno=2, hint="look"),
    errors.LeftBehindError("left", ("/mnt", "/x"), hint="unmount"),
    errors.CriuError("criu", first_error="E", context=("a", "b"), log="/l", hint="log"),
    errors.ImageError("damaged", file="/i/core.img", offset=17, hint="dump again"),
)


def classes() -> set[type[MountcrError]]:
    """Every class of errors."""
    return {
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, MountcrError)
    }


def test_there_is_an_example_of_every_class() -> None:
    """The other tests leave no class out, and every class is public."""
    assert {type(each) for each in EXAMPLES} == classes()
    assert {each.__name__ for each in classes()} == set(errors.__all__)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_goes_through_pickle_whole(error: MountcrError) -> None:
    """Class, message, hint and every attribute of the subclass are there again."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert (str(copy), copy.args) == (str(error), error.args)
    assert copy.hint is not None


def test_notes_go_through_pickle_too() -> None:
    """What was added on the way to the message is not lost."""
    error = MountcrError("failed")
    error.add_note("while looking")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert "while looking" in "".join(traceback.format_exception(copy))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_the_message_is_what_is_printed(error: MountcrError) -> None:
    """`str()` gives the message, without hint or attributes."""
    assert str(error) == error.message


@pytest.mark.parametrize(
    ("status", "kinds"),
    [
        (1, {"MountcrError", "StepError", "CriuError", "ImageError"}),
        (2, {"UsageError", "AmbiguousError", "DocumentError"}),
        (3, {"NotFoundError", "GoneError"}),
        (4, {"RefusedError", "PlanError"}),
        (5, {"VerificationError"}),
        (6, {"CapabilityError"}),
        (7, {"PrivilegeError"}),
        (8, {"LeftBehindError"}),
    ],
)
def test_exit_statuses_are_a_contract(status: int, kinds: set[str]) -> None:
    """Each class has the exit status that the command line promises."""
    assert {each.__name__ for each in classes() if each.exit_status == status} == kinds


def test_sequences_become_tuples() -> None:
    """What an error holds cannot be changed through the list that it was made of."""
    candidates = ["runc:a1"]
    error = errors.AmbiguousError("two", candidates)
    candidates.append("crun:a2")
    assert error.candidates == ("runc:a1",)


def test_an_error_is_one_line_that_a_terminal_does_not_obey() -> None:
    """Names of files that somebody else chose are in messages, with whatever is in them."""
    error = MountcrError("/a\r\x1b[2J is there\n twice", hint="remove \x07")
    assert error.message == str(error) == r"/a \x1b[2J is there twice"
    assert error.hint == r"remove \x07"
