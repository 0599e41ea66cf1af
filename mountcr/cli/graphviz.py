# SPDX-License-Identifier: Apache-2.0
"""Graphviz: its program `dot` makes SVG of a graph. It may be missing."""

from __future__ import annotations

import subprocess

from mountcr.errors import CapabilityError

__all__ = ["draw"]


def draw(text: str, *, seconds: float | None = None) -> str:
    """
    Give the SVG of a graph in Graphviz's language.

    Raises CapabilityError when there is no `dot`, or when it fails or takes longer than `seconds`.
    """
    try:
        done = subprocess.run(
            ["dot", "-Tsvg"],
            input=text.encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        hint = "install Graphviz (package graphviz), or take --format html, which can draw itself"
        raise _cannot("there is no program `dot` to draw it", hint) from None
    except OSError as error:
        raise _cannot(f"dot: {error.strerror}", "`dot -V` must work") from None
    except subprocess.TimeoutExpired:
        raise _cannot(f"dot took longer than {seconds:.0f} s", "take --format tree") from None
    svg = done.stdout.decode(errors="replace")
    if done.returncode or "<svg" not in svg:
        lines = done.stderr.decode(errors="replace").splitlines()
        word = next((line for line in lines if line), f"status {done.returncode}")
        hint = "take --format html, which can draw itself, or look at --format dot"
        raise _cannot(f"dot failed: {word}", hint)
    return svg


def _cannot(message: str, hint: str) -> CapabilityError:
    return CapabilityError(message, probe="dot -Tsvg", hint=hint)
