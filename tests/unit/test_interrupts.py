# SPDX-License-Identifier: Apache-2.0
"""Signals that are held back come later, and are never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mountcr.interrupts import held_back, hold_back, let_through


def interrupt() -> None:
    """Send ourselves what Ctrl-C sends."""
    os.kill(os.getpid(), signal.SIGINT)


def test_comes_at_the_end() -> None:
    """A block that must not be left half-way is not; the interrupt comes when it is done."""
    done: list[str] = []

    def work() -> None:
        with held_back():
            interrupt()
            done.append("all of it")
        done.append("too much")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]


def test_nests() -> None:
    """A block inside another lets nothing through."""
    done: list[str] = []

    def work() -> None:
        with held_back():
            with held_back():
                interrupt()
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["outer"]


def test_failure_in_the_block() -> None:
    """A block that fails lets signals through again."""
    with pytest.raises(LookupError), held_back():
        raise LookupError
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_by_hand() -> None:
    """Between `hold_back` and `let_through` nothing comes."""
    before = hold_back()
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        let_through(before)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


_AT_IMPORT = """
import importlib.abc, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
module = sys.argv.pop(1)
class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from mountcr.__main__ import run
sys.exit(run())
"""


@pytest.mark.parametrize(
    ("module", "status", "lines"),
    [("mountcr.cli", -signal.SIGINT, 0), ("mountcr.cli.schema", 130, 1)],
)
def test_an_interrupt_of_a_command_that_begins(module: str, status: int, lines: int) -> None:
    """It ends without a traceback, whether it has begun to look at its words or not."""
    command = [sys.executable, "-c", _AT_IMPORT, module, "schema", "plan"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == status
    assert done.stderr.count(b"\n") == lines, done.stderr
