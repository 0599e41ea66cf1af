# SPDX-License-Identifier: Apache-2.0
"""What the command line loads before it knows what it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"networkx", "pyroute2", "google", "rich", "cffi", "_cffi_backend", "sqlite3", "tomllib"}


def loaded(code: str) -> set[str]:
    """Give the top-level names of the modules that are loaded after some code."""
    program = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("code", ["import mountcr", "import mountcr.cli"])
def test_nothing_heavy(code: str) -> None:
    """Importing the package or the command line loads no heavy module."""
    assert not loaded(code) & HEAVY


def test_help() -> None:
    """Help is given without anything heavy."""
    code = (
        "import contextlib, io, mountcr.cli\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    mountcr.cli.main(['--help'])"
    )
    assert not loaded(code) & HEAVY


def test_names() -> None:
    """The package offers what DESIGN promises, when it is asked."""
    code = (
        "import mountcr\n"
        "assert all(callable(getattr(mountcr, name)) for name in\n"
        "    ('find', 'observe', 'plan', 'rebuild', 'dump', 'restore'))\n"
        "assert issubclass(mountcr.MountcrError, Exception)"
    )
    assert not loaded(code) & {"networkx", "pyroute2", "google", "rich"}
