# SPDX-License-Identifier: Apache-2.0
"""
What makes inputs: atheris, which looks at what each one reached, or hypothesis, which does not.

Each runs one target, in the process of the caller, for so many seconds.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from fuzz.oracle import Oracle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzz.targets import Target_

__all__ = ["atheris", "by_atheris", "by_hypothesis"]

MOST_MEMORY: Final = 700
"""MiB that a run may take, with all that instrumenting needs."""

LONGEST: Final = 1 << 16
"""Bytes of an input."""

_BATCH: Final = 500


def atheris() -> Any:
    """Give the module, None where it does not install."""
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


def by_atheris(module: Any, name: str, top: str, options: Sequence[str]) -> None:
    """Run a target, with options of libFuzzer, which ends the process."""
    with module.instrument_imports(include=["mountcr", "tarfile"]):
        targets = importlib.import_module("fuzz.targets")
    target: Target_ = targets.TARGETS[name]
    run = target.make(top)
    oracle = Oracle(top)
    corpus = os.path.join(top, "corpus")
    os.mkdir(corpus)
    for number, data in enumerate(target.seeds()):
        with open(os.path.join(corpus, f"seed-{number}"), "wb") as file:
            file.write(data)
        oracle.judge(run, data)  # so that all modules are there
    words = os.path.join(top, "words")
    with open(words, "w", encoding="ascii") as listed:
        listed.writelines(f'"{_spelled(word)}"\n' for word in targets.WORDS)

    def one(data: bytes) -> None:
        oracle.judge(run, data)

    module.Setup(
        [
            sys.argv[0],
            corpus,
            f"-dict={words}",
            f"-max_len={LONGEST}",
            f"-rss_limit_mb={MOST_MEMORY}",
            "-timeout=20",
            "-print_final_stats=1",
            "-verbosity=0",
            *options,
        ],
        one,
    )
    module.Fuzz()


def _spelled(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def by_hypothesis(target: Target_, top: str, seconds: float, number: int) -> int:
    """Run a target on mutations of what it is fed with; give how many inputs it got."""
    seeds = [data for data in target.seeds() if data]
    run = target.make(top)
    oracle = Oracle(top)
    for data in seeds:
        oracle.judge(run, data)
    change = st.tuples(st.integers(0, 5), st.integers(0, LONGEST), st.binary(max_size=16))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        number += 1

        @seed(number)
        @settings(
            max_examples=_BATCH,
            deadline=None,
            database=None,
            suppress_health_check=tuple(HealthCheck.__members__.values()),
        )
        @given(st.sampled_from(seeds), st.lists(change, max_size=8))
        def batch(data: bytes, changes: list[tuple[int, int, bytes]]) -> None:
            if time.monotonic() < until:
                oracle.judge(run, _changed(data, changes))

        batch()
    return oracle.runs


def _changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Replace, insert, remove, repeat or cut something."""
    for kind, place, piece in changes:
        at = place % (len(data) + 1)
        end = at + len(piece)
        match kind:
            case 0 | 1:
                data = data[:at] + piece + data[end:]
            case 2:
                data = data[:at] + piece + data[at:]
            case 3:
                data = data[:at] + data[end:]
            case 4:
                data = data[:end] + data[at:]
            case _:
                data = data[:at]
    return data[:LONGEST]
