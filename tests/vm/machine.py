# SPDX-License-Identifier: Apache-2.0
"""
A machine of QEMU: boots a kernel, runs a command in it, brings its output back, stops by itself.

Without KVM, unless a trial boot of the same kernel shows that it works: that /dev/kvm can be opened
proves nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import tarfile
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from vm.errors import GuestError, VmError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from vm.kernels import Booted

__all__ = ["Disks", "Guest", "Result", "accelerator", "boot", "in_silence", "make_scratch"]

_CONTEXT: Final = 40
"""How many lines of the console an error has."""

_TRIAL: Final = 20.0
"""Seconds that a boot with KVM may take that takes 10 without."""

_SECTOR: Final = 512
_WRITTEN: Final = ("scratch", "out")
"""Names of the disks that a guest may write to."""

_OUTPUT: Final = 64 << 20
"""Bytes that the output of a command may have, as a tar."""

_PANIC: Final = "Kernel panic"


class Disks(NamedTuple):
    """The images of a guest. `scratch` (ext4) is written into, the others are not."""

    root: Path
    project: Path
    scratch: Path


class Guest(NamedTuple):
    """How a guest is run: MiB of memory, processors, how it computes, seconds at most."""

    memory: int = 1536
    processors: int = 1
    accelerator: str = "tcg"
    limit: float = 300.0


class Result(NamedTuple):
    """How a command ended: its status, its console, seconds from power on to power off."""

    status: int
    console: tuple[str, ...]
    seconds: float


def make_scratch(path: Path, size: int = 1 << 30) -> Path:
    """Make a sparse image of ext4, of `size` bytes; raises VmError."""
    with path.open("wb") as file:
        file.truncate(size)
    words = ["mkfs.ext4", "-q", "-F", "-O", "^metadata_csum_seed,^orphan_file", str(path)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise VmError("there is no mkfs.ext4", hint="tools/provision --kernels") from None
    if done.returncode:
        raise VmError(f"mkfs.ext4: {done.stderr.strip()}")
    return path


def in_silence(_line: str) -> None:
    """Say nothing of a console."""


def boot(
    kernel: Booted,
    disks: Disks,
    guest: Guest,
    command: str,
    *,
    output: Path | None = None,
    say: Callable[[str], None] = in_silence,
) -> Result:
    """
    Boot, run a command, power off.

    `command` is a script for sh, which runs in an empty directory with the project at /work. `say`
    gets each line of the console when it comes; `output` is a directory that gets the files that
    the command wrote into ./out. Raises GuestError for a guest that hung until the
    limit, panicked, ran out of memory, or was off before the command had ended; VmError for a QEMU
    that is not there. No process of it is left.
    """
    token = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="mountcr-vm-") as scratch:
        out = Path(scratch) / "out"
        with out.open("wb") as file:
            file.truncate(_OUTPUT)
        script = Path(scratch) / "command"
        script.write_bytes(_padded(command.encode()))
        words = _words(kernel, disks, guest, {"out": out, "command": script}, token)
        began = time.monotonic()
        lines, timed_out = _run(words, guest.limit, say)
        seconds = time.monotonic() - began
        status = _status(lines, token, guest, timed_out=timed_out)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            with tarfile.open(out) as archive:
                archive.extractall(output, filter="data")
    return Result(status, tuple(lines), seconds)


def _padded(content: bytes) -> bytes:
    """Fill up to a whole number of sectors, by empty lines."""
    return content + b"\n" * (_SECTOR - len(content) % _SECTOR)


def _words(
    kernel: Booted, disks: Disks, guest: Guest, more: dict[str, Path], token: str
) -> list[str]:
    processor = "max" if guest.accelerator == "tcg" else "host"
    threads = ",thread=multi" if guest.accelerator == "tcg" else ""
    append = f"console=ttyS0 quiet loglevel=4 panic=-1 reboot=k vmrun.token={token}"
    words = [
        "qemu-system-x86_64",
        *("-accel", f"{guest.accelerator}{threads}", "-cpu", processor),
        *("-m", str(guest.memory), "-smp", str(guest.processors)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-device", "virtio-rng-pci"),
        *("-kernel", str(kernel.image), "-initrd", str(kernel.initramfs), "-append", append),
    ]
    for name, path in {**disks._asdict(), **more}.items():
        option = "cache=unsafe" if name in _WRITTEN else "readonly=on"
        words += ["-drive", f"file={path},if=none,id={name},format=raw,{option}"]
        words += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
    return words


def _run(words: list[str], limit: float, say: Callable[[str], None]) -> tuple[list[str], bool]:
    """Run QEMU; give the lines of its console and whether it was stopped at the limit."""
    lines: list[str] = []
    stopped = threading.Event()
    with _started(words) as process:

        def stop() -> None:
            stopped.set()
            process.kill()

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            assert process.stdout is not None
            for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip("\r\n")
                lines.append(line)
                say(line)
        finally:
            timer.cancel()
    return lines, stopped.is_set()


@contextlib.contextmanager
def _started(words: list[str]) -> Generator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except FileNotFoundError:
        raise VmError(f"there is no {words[0]}", hint="tools/provision --kernels") from None
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _status(lines: list[str], token: str, guest: Guest, *, timed_out: bool) -> int:
    """Give the status of the command. Raises GuestError saying what became of the guest else."""
    last = tuple(deque(lines, _CONTEXT))
    if killed := _after(f"vm: memory {token} ", lines):
        raise GuestError(f"the guest ran out of memory: {killed}", last)
    if status := _after(f"vm: done {token} ", lines):
        return int(status)
    if panic := next((line for line in lines if _PANIC in line), ""):
        raise GuestError(f"the guest panicked: {panic.strip()}", last)
    if timed_out:
        raise GuestError(f"the guest did not end in {guest.limit:.0f} s", last)
    if not any(f"vm: begin {token}" in line for line in lines):
        raise GuestError("the guest did not get to its command", last)
    raise GuestError("the guest was off before its command had ended", last)


def _after(mark: str, lines: list[str]) -> str:
    """Give what stands behind a mark; a command may leave its last line without an end before."""
    return next((line.partition(mark)[2] for line in lines if mark in line), "")


def accelerator(kernel: Booted, disks: Disks, cache: Path) -> str:
    """
    Give `kvm` if a guest boots with it on this machine, else `tcg`.

    What a trial with some kernel has shown is remembered in the cache, for the host's own kernel.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    known = cache / f"kvm-on-{os.uname().release}"
    if not known.exists():
        known.write_text("kvm" if _boots_with_kvm(kernel, disks) else "tcg", encoding="ascii")
    return known.read_text(encoding="ascii")


def _boots_with_kvm(kernel: Booted, disks: Disks) -> bool:
    with tempfile.TemporaryDirectory(prefix="mountcr-vm-") as top:
        tried = disks._replace(scratch=make_scratch(Path(top) / "scratch"))
        try:
            result = boot(kernel, tried, Guest(accelerator="kvm", limit=_TRIAL), "true")
        except (GuestError, VmError):
            return False
    return result.status == 0
