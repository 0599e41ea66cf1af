# SPDX-License-Identifier: Apache-2.0
"""
The CRIU program: where it is, which version it is, whether it works on this kernel.

Everything is found by running it; nothing is concluded from a version. No state is kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr import programs
from mountcr.criu import log
from mountcr.errors import CapabilityError, CriuError, PrivilegeError
from mountcr.model import Criu

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

__all__ = [
    "CACHE",
    "HINT",
    "Examined",
    "ask",
    "blamed",
    "candidates",
    "check",
    "examining",
    "identify",
    "parse_version",
    "probe",
    "require",
]

CACHE: Final = "/run/criu.kdat"
"""Where CRIU keeps, until reboot, what it found of the kernel (criu/kerndat.c), if on a tmpfs."""

_TIMEOUT: Final = 30.0  # seconds; `criu check` takes 0.1
_ENDING: Final = 5.0  # seconds, for what nobody waits for any more
HINT: Final = (
    "run tools/provision, which installs one that works in a place of its own, "
    "or name a newer CRIU in $MOUNTCR_CRIU"
)
# What CRIU 4.1 says before it looks at anything.
_UNPRIVILEGED: Final = "CRIU needs to have the CAP_SYS_ADMIN"
_VERSION: Final = re.compile(r"^Version:\s*(\S+)", re.MULTILINE)


def candidates() -> tuple[str, ...]:
    """
    Give the paths where CRIU may be, in the order in which they are tried.

    A set $MOUNTCR_CRIU is the only candidate: who names a CRIU does not want another one.
    """
    named = os.environ.get("MOUNTCR_CRIU")
    if named:
        return (programs.which(named) or named,)
    prefixes = (os.environ.get("MOUNTCR_PREFIX"), programs.DEFAULT_PREFIX)
    found = [f"{prefix}/bin/criu" for prefix in prefixes if prefix]
    in_path = programs.which("criu")
    return tuple(dict.fromkeys([*found, in_path] if in_path else found))


def identify() -> Criu:
    """
    Give the first candidate that prints its version, without asking whether it works.

    Asking takes CRIU 0.1 s. `problem` is the first line that the last candidate said, or that
    there is none.
    """
    said = ""
    for path in candidates():
        status, out = ask([path, "--version"])
        version = parse_version(out) if status == 0 else ""
        if version:
            return Criu(command=(path,), version=version)
        said = (out.strip().splitlines() or [""])[0]
    tried = ", ".join(candidates()) or "PATH"
    problem = f"no CRIU that runs was found (tried {tried})"
    return Criu(problem=f"{problem}: {said}" if said else problem)


def parse_version(text: str) -> str:
    r"""
    Find the version in what `criu --version` prints.

    >>> parse_version("Version: 4.1.1\nGitID: v4.1.1\n")
    '4.1.1'
    """
    match = _VERSION.search(text)
    return match[1] if match else ""


def probe() -> Criu:
    """
    Ask the CRIU of this host whether it is content; run nothing else.

    `problem` is the first error of `criu check`, or says that there is no CRIU. `criu check`
    needs root: without it, its complaint about that is the problem.
    """
    found = identify()
    if not found.command:
        return found
    command, version = found.command, found.version
    return Criu(command=command, version=version, problem=_complaint(*ask([*command, "check"])))


def _complaint(status: int, out: str) -> str:
    """Give what `criu check` complains of, first; empty if it is content."""
    if status == 0:
        return ""
    problem, _ = log.first_error(out)
    first = (out.strip().splitlines() or [f"`criu check` ended with status {status}"])[0]
    return problem or first.strip(" :")


def require() -> Criu:
    """
    Give the CRIU of this host. Whether it works is asked when it has failed: `blamed`.

    Raises CapabilityError if there is none.
    """
    criu = identify()
    if not criu.command:
        raise CapabilityError(criu.problem, probe="criu --version", hint=HINT)
    return criu


@contextlib.contextmanager
def blamed() -> Generator[None]:
    """
    For a block of code in which CRIU works: when it fails, ask whether it can work here at all.

    Raises CapabilityError instead of the CriuError when `criu check` fails too, PrivilegeError if
    CRIU only lacks the privilege to try.
    """
    try:
        yield
    except CriuError:
        check()
        raise


def check() -> Criu:
    """
    Give the CRIU of this host if it works.

    Raises CapabilityError if there is none or it does not work, PrivilegeError if it only lacks
    the privilege to try.
    """
    criu = probe()
    if not criu.command:
        raise CapabilityError(criu.problem, probe="criu --version", hint=HINT)
    if criu.problem.startswith(_UNPRIVILEGED):
        raise PrivilegeError(criu.problem, hint="run it as root")
    if criu.problem:
        raise CapabilityError(
            f"CRIU {criu.version} ({' '.join(criu.command)}) does not work here: {criu.problem}",
            probe="criu check",
            hint=HINT,
        )
    return criu


class Examined(NamedTuple):
    """
    A CRIU with its complaint, if any, and whether it found each of some features.

    False also for a name that this CRIU does not know: it cannot use what it does not know.
    """

    criu: Criu
    features: dict[str, bool]


@contextlib.contextmanager
def examining(found: Criu, features: Sequence[str]) -> Generator[Callable[[], Examined]]:
    """
    Ask a CRIU that was identified whether it is content and what it finds, beside a block.

    Gives a function that waits for the answers. Each question takes CRIU 0.05 to 0.1 s, all of
    them are asked at once. At the end of the block no CRIU runs any more; keys of the terminal do
    not reach it.
    """
    check = [*found.command, "check"]
    questions = {"": check, **{each: [*check, "--feature", each] for each in features}}
    asked = {name: _Asked(words) for name, words in questions.items() if found.command}
    try:
        yield lambda: _examined(found, {name: each.answer() for name, each in asked.items()})
    finally:
        for each in asked.values():
            each.end()


def _examined(found: Criu, answers: dict[str, tuple[int, str]]) -> Examined:
    own = answers.pop("", None)
    problem = _complaint(*own) if own else found.problem
    criu = Criu(command=found.command, version=found.version, problem=problem)
    return Examined(criu, {name: status == 0 for name, (status, _) in answers.items()})


class _Asked:
    """A CRIU that was started; what it prints fits into a pipe."""

    def __init__(self, words: Sequence[str]) -> None:
        self._said = ""
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._said = str(error)

    def answer(self) -> tuple[int, str]:
        """Wait for its exit status, -1 if there is none, and what it printed."""
        if self._process is None:
            return -1, self._said
        try:
            out, _ = self._process.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            return -1, str(error)
        return self._process.returncode, _decoded(out)

    def end(self) -> None:
        """Wait for its end: one that is killed can leave processes that it has stopped."""
        if self._process is None or self._process.returncode is not None:
            return
        try:
            self._process.communicate(timeout=_ENDING)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


def ask(words: Sequence[str]) -> tuple[int, str]:
    """Run CRIU and give its exit status, -1 if it could not be run, and all that it printed."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    return done.returncode, _decoded(done.stdout)


def _decoded(out: bytes) -> str:
    return out.decode("utf-8", "backslashreplace")
