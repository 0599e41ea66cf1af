# SPDX-License-Identifier: Apache-2.0
"""What copies shows how far it is on a terminal, and keeps quiet elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

COUNT, SIZE = 300, 5000
DRAWN = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A layer of some files."""
    top = tmp_path / "layer"
    top.mkdir()
    for number in range(COUNT):
        (top / f"{number}").write_bytes(bytes(SIZE))
    return top


def command(layer: Path) -> list[str]:
    """The words that copy a layer."""
    words = ["convert", str(layer), "--from", "vfs", "--to", "overlay", "-o", f"{layer}-new"]
    return [sys.executable, "-m", "mountcr", *words]


def on_a_terminal(words: list[str]) -> tuple[int, bytes, bytes]:
    """Run a command whose complaints go to a terminal; give status, output and what was drawn."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        drawn = bytearray()
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # EIO: nobody has the other end open
                break
            if not part:
                break
            drawn += part
        assert process.stdout
        output = process.stdout.read()
    os.close(ours)
    return process.returncode, output, bytes(drawn)


def test_a_bar_on_a_terminal(layer: Path) -> None:
    """Files and bytes are counted; at the end the bar is gone and the result is there."""
    status, output, drawn = on_a_terminal(command(layer))
    assert status == 0, drawn
    plain = DRAWN.sub(b"", drawn)
    assert b"converting" in plain
    counted = [int(each) for each in re.findall(rb"(\d+) files", plain)]
    assert counted[-1] == COUNT
    assert counted == sorted(counted)
    assert b"1.5 MB" in plain
    assert b"\x1b[2K" in drawn.split(b"files")[-1]
    assert output.startswith(f"{layer}-new: {COUNT} files, {COUNT * SIZE} bytes".encode())


def test_no_bar_when_nothing_is_copied(layer: Path) -> None:
    """A refusal is one line, and a hint, as anywhere."""
    words = command(layer)
    words[words.index("overlay")] = "nowhere"
    status, output, drawn = on_a_terminal(words)
    assert (status, output) == (2, b"")
    assert b"converting" not in drawn
    assert len(drawn.splitlines()) == 2


def test_no_bar_in_a_pipe(layer: Path) -> None:
    """What reads our output, or our complaints, gets no drawings."""
    done = subprocess.run(command(layer), capture_output=True, check=True)
    assert done.stderr == b""
    assert b"\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 1
