# SPDX-License-Identifier: Apache-2.0
"""
The command line: words in, documents on standard output, talk on standard error.

Exit statuses: 0 done; 1 failed and rolled back; 2 usage or ambiguous; 3 not found; 4 refused by
the plan; 5 verification found differences; 6 this kernel, CRIU or driver cannot; 7 privilege;
8 failed and something was left behind, which is named.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mountcr import __version__
from mountcr.cli import commands
from mountcr.errors import MountcrError
from mountcr.interrupts import hold_back
from mountcr.render.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

__all__ = ["build_parser", "main"]

_INTERRUPTED: Final = 130

_COLLECT_AFTER: Final = 50_000
"""Objects until cycles are looked for: what is loaded has none, and a plan of many mounts few."""

_COMPLETING: Final = "_ARGCOMPLETE"
"""The variable by which a shell asks what a word may become."""

_EPILOG: Final = """\
REF is an id, a unique prefix, a name, engine:ref, a pid, or the path of an OCI bundle.
FACTS is a file that `mountcr facts` wrote; DIR is an images directory of `mountcr dump`;
CAPTURE is a directory with what /proc and the layers showed of a process elsewhere.

exit status: 0 done; 1 failed and rolled back; 2 usage or ambiguous; 3 not found; 4 refused by
the plan; 5 verification found differences; 6 this kernel, CRIU or driver cannot; 7 privilege;
8 failed and something was left behind"""


class _Formatter(argparse.HelpFormatter):
    """
    A formatter as wide as the terminal.

    argparse makes one for each option that is added; told no width, it loads shutil to ask for it.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width())


class _RawFormatter(_Formatter, argparse.RawDescriptionHelpFormatter):
    """The same, which leaves descriptions as they are."""


def _width() -> int:
    """Give the columns of the terminal, by $COLUMNS or itself, less two, as argparse has it."""
    told = os.environ.get("COLUMNS", "")
    try:
        columns = int(told) if told.isdigit() else os.get_terminal_size(1).columns
    except OSError:
        columns = 80
    return (columns or 80) - 2


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, as every other error is said."""

    def __init__(
        self, *, formatter_class: type[argparse.HelpFormatter] = _Formatter, **options: Any
    ) -> None:
        super().__init__(formatter_class=formatter_class, **options)

    def error(self, message: str) -> NoReturn:
        complain(message, f"see `{self.prog} --help`")
        raise SystemExit(2)


def complain(message: str, hint: str | None = None) -> None:
    """Say what went wrong on standard error: one line, and a hint."""
    print(f"mountcr: {_one_line(message)}", file=sys.stderr)
    if hint:
        print(f"  hint: {_one_line(hint)}", file=sys.stderr)


def _one_line(text: str) -> str:
    return one_line(" ".join(text.split()))


def build_parser(word: str = "") -> argparse.ArgumentParser:
    """Give the parser with every command, or with the one that a command line begins with."""
    parser = _Parser(
        prog="mountcr",
        description="Where a container's files come from, and how to put them back.",
        epilog=_EPILOG,
        formatter_class=_RawFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mountcr {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.configure(subparsers, word)
    return parser


class _Interrupt(KeyboardInterrupt):
    """
    SIGINT or SIGTERM.

    Not KeyboardInterrupt itself: where that comes out of exec() of a text, as dataclasses use it,
    CPython ends by SIGINT although it was caught (Python/pythonrun.c, `run_eval_code_obj()`).
    """


_IMPORT: Final = "<frozen importlib"
_AGAIN: Final = 0.005
"""Seconds until a signal that came while a module was loaded is looked at again."""


def _terminate(_number: int, frame: FrameType | None) -> None:
    """
    Unwind on SIGTERM as on Ctrl-C, so that everything is undone.

    Not out of an import, where an exception can get lost in a callback: the timer brings it again.
    """
    while frame:
        if frame.f_code.co_filename.startswith(_IMPORT):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        frame = frame.f_back
    raise _Interrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and give its exit status. Never raises, but for SystemExit of the parser."""
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    previous = {number: signal.signal(number, _terminate) for number in handled}
    gc.set_threshold(_COLLECT_AFTER)
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    finally:
        if argv is None:
            hold_back()  # what is done is done: nothing changes the status on the way out
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _parse(arguments: list[str]) -> argparse.Namespace:
    own, criu_options = _split(arguments)
    parser = build_parser(*own[:1])
    if _COMPLETING in os.environ:
        from mountcr.cli import completion

        completion.complete(parser)
    parsed = parser.parse_args(own)
    parsed.criu_options = criu_options
    return parsed


def _split(arguments: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Take what follows `--` for CRIU's options."""
    if "--" not in arguments:
        return arguments, ()
    position = arguments.index("--")
    return arguments[:position], tuple(arguments[position + 1 :])


def _run(arguments: list[str]) -> int:  # noqa: PLR0911  # one for each way to end
    try:
        parsed = _parse(arguments)
        if parsed.criu_options and not getattr(parsed, "takes_criu_options", False):
            complain("this command takes no options for CRIU", "leave out what follows --")
            return 2
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except MountcrError as error:
        complain(error.message, error.hint)
        return error.exit_status
    except BrokenPipeError:
        # whoever read our output has enough; Python must not complain about it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}")
        return 7 if isinstance(error, PermissionError) else 1
    except KeyboardInterrupt as interrupt:
        complain(str(interrupt) or "interrupted; what was done is undone")
        return _INTERRUPTED
    except Exception as error:  # a defect; people get one line all the same
        if os.environ.get("MOUNTCR_DEBUG"):
            raise
        complain(
            f"internal error: {type(error).__name__}: {error}",
            "this is a defect; MOUNTCR_DEBUG=1 shows where, please report it",
        )
        return 1
    else:
        return status
