# SPDX-License-Identifier: Apache-2.0
"""A capture that is damaged in any way is said to be so, or read all the same."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Final

from hypothesis import example, given, settings
from hypothesis import strategies as st

import builders
from mountcr.errors import DocumentError
from mountcr.observation.capture import read_capture
from mountcr.resolution.files import resolve

CAPTURES: Final = ("aufs-5.10-mapfiles-aufs", "old-3.18.9-overlay", "deb-6.12-unionfs-fuse")
FILES: Final = (
    "manifest.json", "stat", "proc/fd", "proc/links", "proc/map_files", "proc/maps",
    "proc/mountinfo", "proc/fdinfo/10", "proc/fdinfo/17", "outside/mountinfo", "sysfs-aufs",
)  # fmt: skip

ACCESS: Final = len("7f2d3e3a3000-7f2d3e3a4000 ")
"""Where the access of the first mapping stands in maps."""


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(CAPTURES),
    file=st.sampled_from(FILES),
    at=st.integers(0),
    put=st.binary(max_size=4),
    cut=st.booleans(),
)
@example(name="old-3.18.9-overlay", file="proc/maps", at=ACCESS, put=b"\x80", cut=False)
def test_damage(name: str, file: str, at: int, put: bytes, cut: bool) -> None:
    """Whatever is cut off or written into one of its files, nothing but DocumentError comes out."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy"
        shutil.copytree(builders.KERNELS / name, copy)
        path = copy / file
        if not path.is_file():
            return
        content = path.read_bytes()
        place = at % (len(content) + 1)
        path.write_bytes(content[:place] + put + (b"" if cut else content[place + len(put) :]))
        with contextlib.suppress(DocumentError):
            resolve(read_capture(str(copy)))
