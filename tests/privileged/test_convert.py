# SPDX-License-Identifier: Apache-2.0
"""What becomes of a conversion when the disk is full, and of marks that only root may write."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mountcr.cli import main
from mountcr.kernel import syscalls
from mountcr.operations.convert import convert
from mountcr.paths import decode, encode
from scratch import tmpfs

if TYPE_CHECKING:
    from pathlib import Path


def small(at: Path) -> Path:
    """A file system that takes 64 KiB."""
    at.mkdir()
    syscalls.mount(b"tmpfs", bytes(at), b"tmpfs", 0, b"size=64k")
    return at


@pytest.mark.parametrize("count", [1, 40])
def test_a_full_disk(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line and status 1; nothing is left where it went, and the layer is as it was."""
    base = decode(tmpfs(tmp_path))
    layer = os.path.join(base, b"layer")
    os.mkdir(layer)
    for number in range(count):
        with open(os.path.join(layer, b"f%d" % number), "wb") as file:
            file.write(b"x" * (100_000 // count))
    full = small(tmp_path / "small")
    words = ["convert", os.fsdecode(layer), "--from", "vfs", "--to", "overlay"]
    assert main([*words, "-o", str(full / "out")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert os.strerror(errno.ENOSPC) in err
    assert len(err.splitlines()) <= 2
    assert os.listdir(full) == []
    assert len(os.listdir(layer)) == count


def test_to_overlay_and_back(tmp_path: Path) -> None:
    """A whiteout becomes a device 0:0 and an opaque directory an attribute, and both come back."""
    base = decode(tmpfs(tmp_path))
    os.makedirs(base + b"/layer/d")
    for name in (b"/layer/.wh.gone", b"/layer/d/.wh..wh..opq"):
        os.close(os.open(base + name, os.O_CREAT | os.O_WRONLY))
    convert(encode(base + b"/layer"), encode(base + b"/o"), source="aufs", target="overlay")
    assert os.stat(base + b"/o/gone").st_rdev == 0
    assert os.getxattr(base + b"/o/d", "trusted.overlay.opaque") == b"y"
    convert(encode(base + b"/o"), encode(base + b"/back"), source="overlay", target="aufs")
    assert os.path.exists(base + b"/back/.wh.gone")
    assert os.path.exists(base + b"/back/d/.wh..wh..opq")
