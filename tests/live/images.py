# SPDX-License-Identifier: Apache-2.0
"""
One image for every engine: a static busybox and a counter, in three layers, made without network.

The second layer removes a file of the first and replaces one; the third replaces the counter.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["COMMAND", "FINAL", "HELD", "KEEPS_NAMES", "LOG", "NAME", "REMOVED", "archive", "unpack"]

NAME = "localhost/mountcr-live:1"
COMMAND = ("/app/count.sh",)
KEEPS_NAMES = "KEEPS_NAMES=1"
"""In its environment, the counter holds no file that has no name any more."""

LOG = "/app/count.log"
"""Each line is a number, larger by one than the line before it."""

HELD = {
    "/app/before": "written before the dump\n",
    "/data/vol/before": "written to the volume\n",
    "/scratch/before": "written to the tmpfs\n",
    "/dev/shm/before": "written to the shared memory\n",
    "/etc/motd": "from the first layer\nand changed\n",
}
"""What the counter has written when its log begins."""

FINAL = {"/data/replaced": "by the second layer\n", "/data/base": "from the first layer\n"}
"""What the layers say of files that the counter leaves alone."""

REMOVED = "/data/removed"

_WHITEOUT = ".wh."

_COUNTER = """#!/bin/sh
# Hold files of every kind, then count.
exec 3</data/base
exec 4</etc/motd
echo 'and changed' >>/etc/motd
if test -z "$KEEPS_NAMES"; then
    exec 5>/app/unlinked
    echo unlinked >&5
    rm /app/unlinked
fi
echo 'written before the dump' >/app/before
echo 'written to the volume' >/data/vol/before
exec 6>>/data/vol/log
echo 'written to the tmpfs' >/scratch/before
exec 7</scratch/before
if test -d /dev/shm; then
    echo 'written to the shared memory' >/dev/shm/before
    exec 8</dev/shm/before
fi
exec 9>>/app/count.log
i=0
while :; do
    i=$((i + 1))
    echo $i >&9
    echo $i >&6
    sleep 0.1
done
"""

_PROGRAMS = ("sh", "cat", "echo", "ls", "rm", "sleep", "tail", "test", "true")
_DIRECTORIES = ("app", "bin", "data", "data/vol", "dev", "etc", "proc", "scratch", "sys", "tmp")


@dataclass(frozen=True)
class _Entry:
    """A directory where there is neither content nor link; `mode` of a file."""

    path: str
    content: bytes | None = None
    link: str = ""
    mode: int = 0o644


def _layers(busybox: Path) -> tuple[tuple[_Entry, ...], ...]:
    """Give the layers, the lowest first."""
    first = (
        *(_Entry(path) for path in _DIRECTORIES),
        _Entry("bin/busybox", busybox.read_bytes(), mode=0o755),
        *(_Entry(f"bin/{name}", link="busybox") for name in _PROGRAMS),
        _Entry("etc/motd", b"from the first layer\n"),
        _Entry("data/base", b"from the first layer\n"),
        _Entry("data/removed", b"from the first layer\n"),
        _Entry("data/replaced", b"from the first layer\n"),
    )
    second = (
        _Entry("app"),
        _Entry("data"),
        _Entry(f"data/{_WHITEOUT}removed", b""),
        _Entry("data/replaced", b"by the second layer\n"),
        _Entry("app/count.sh", b"#!/bin/sh\nexit 1\n", mode=0o755),
    )
    third = (_Entry("app"), _Entry("app/count.sh", _COUNTER.encode(), mode=0o755))
    return first, second, third


def archive(path: Path, busybox: Path) -> None:
    """Write the image as `docker save` does, which every engine loads."""
    layers = [_layer_archive(layer) for layer in _layers(busybox)]
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "amd64"),
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": {"Cmd": list(COMMAND), "Env": ["PATH=/bin"], "WorkingDir": "/app"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "tests"} for _ in layers],
    }
    said = json.dumps(config).encode()
    name = f"{hashlib.sha256(said).hexdigest()}.json"
    manifest = {
        "Config": name,
        "RepoTags": [NAME],
        "Layers": [f"{digest}/layer.tar" for digest in digests],
    }
    files = [(f"{digest}/layer.tar", layer) for digest, layer in zip(digests, layers, strict=True)]
    files += [(name, said), ("manifest.json", json.dumps([manifest]).encode())]
    path.write_bytes(_layer_archive(_Entry(name, content) for name, content in files))


def unpack(directory: Path, busybox: Path) -> tuple[Path, ...]:
    """Write the layers as directories for an overlay; give them, the topmost first."""
    made: list[Path] = []
    for number, layer in enumerate(_layers(busybox)):
        top = directory / str(number)
        top.mkdir(parents=True)
        for entry in layer:
            _write(top / entry.path, entry)
        made.insert(0, top)
    return tuple(made)


def _write(path: Path, entry: _Entry) -> None:
    if path.name.startswith(_WHITEOUT):
        os.mknod(path.with_name(path.name.removeprefix(_WHITEOUT)), 0o20000, os.makedev(0, 0))
    elif entry.link:
        path.symlink_to(entry.link)
    elif entry.content is None:
        path.mkdir()
        path.chmod(0o755)
    else:
        path.write_bytes(entry.content)
        path.chmod(entry.mode)


def _layer_archive(entries: Iterable[_Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            member = tarfile.TarInfo(entry.path)
            member.mode = entry.mode
            if entry.link:
                member.type, member.linkname = tarfile.SYMTYPE, entry.link
            elif entry.content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size = len(entry.content)
            tar.addfile(member, io.BytesIO(entry.content or b""))
    return buffer.getvalue()
