# SPDX-License-Identifier: Apache-2.0
"""
Run a command on another kernel.

`vmrun [OPTIONS] KERNEL -- COMMAND`: the words are a line for sh, which runs in an empty directory
with the project at /work (`/work/site` has mountcr, `/work/tests` its tests) and room at /scratch.
The console is streamed; files that the command leaves in ./out go into the directory that -o names.
The exit status is that of the command; 125 if the guest did not finish, 126 if it could not start.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vm import machine
from vm.errors import GuestError, VmError
from vm.kernels import KERNELS, prepare
from vm.machine import Disks, Guest
from vm.rootfs import pack_project, prepare_root

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["cache_directory", "copy_sparsely", "locked", "main"]

_UNFINISHED = 125
_NOT_STARTED = 126


def cache_directory() -> Path:
    """Give where kernels and roots are kept: $MOUNTCR_VM_CACHE, else the cache of the user."""
    named = os.environ.get("MOUNTCR_VM_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(named) if named else Path(base) / "mountcr/vm"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(cache: Path) -> Generator[Path]:
    """Keep others from preparing anything in the cache meanwhile."""
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield cache


def copy_sparsely(source: Path, target: Path) -> None:
    """Copy an image that is mostly holes."""
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


def main(words: list[str]) -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="vmrun", description=(__doc__ or "").split("\n")[1])
    parser.add_argument("kernel", metavar="KERNEL", help=f"one of {', '.join(KERNELS)}")
    parser.add_argument("command", metavar="COMMAND", nargs="+", help="a line for sh, after --")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="gets the files of ./out")
    parser.add_argument(
        "--limit", type=float, default=300, metavar="S", help="default: 300 seconds"
    )
    parser.add_argument("--memory", type=int, default=1536, metavar="MIB", help="default: 1536")
    parser.add_argument("--processors", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--disk", type=Path, metavar="FILE", help="keep what is written to /scratch in this image"
    )
    parser.add_argument("--quiet", action="store_true", help="stream no console")
    given = parser.parse_args(words)
    line = given.command[0] if len(given.command) == 1 else shlex.join(given.command)
    try:
        return _run(given, line)
    except GuestError as error:
        sys.stderr.write("".join(f"  | {each}\n" for each in error.console))
        sys.stderr.write(f"vmrun: {error.message}\n")
        return _UNFINISHED
    except VmError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        sys.stderr.write(f"vmrun: {error.message}{hint}\n")
        return _NOT_STARTED


def _run(given: argparse.Namespace, line: str) -> int:
    with locked(cache_directory()) as cache:
        kernel, root = prepare(given.kernel, cache), prepare_root(cache)
    say = machine.in_silence if given.quiet else _say
    with tempfile.TemporaryDirectory(prefix="mountcr-vm-") as top:
        project = Path(top) / "project.squashfs"
        pack_project(root, project)
        scratch = given.disk or Path(top) / "scratch"
        if not scratch.exists():
            machine.make_scratch(scratch)
        made = Disks(root.image, project, scratch)
        accelerator = machine.accelerator(kernel, made, cache)
        guest = Guest(given.memory, given.processors, accelerator, given.limit)
        return machine.boot(kernel, made, guest, line, output=given.output, say=say).status


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
