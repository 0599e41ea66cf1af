# SPDX-License-Identifier: Apache-2.0
"""
What becomes of the machine when an operation fails at any system call, or is killed at any moment.

Each operation works on the same few layers. Afterwards the layers are what they were, byte for
byte, and the result is right or nothing is left: no file, no mount, no process, no record. After
a kill that holds when `mountcr cleanup` was run.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

import builders
import faults
from faults import Fault
from mountcr import journal, mountinfo
from mountcr.kernel import syscalls
from mountcr.paths import decode, encode
from mountcr.planning.choices import CACHE

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from mountcr.model import Mount

__all__ = ["OPERATIONS", "BrokenError", "Ground", "faults_of", "interesting"]

MOUNTCR: Final = (sys.executable, "-m", "mountcr")

SETTLE: Final = 10.0
"""Seconds that processes may take to end when their parent was killed."""

_DIRECTORIES: Final = ("mkdir", "mkdirat", "rename", "renameat", "renameat2")
_INODES: Final = ("link", "linkat", "mknod", "mknodat", "symlink", "symlinkat")
_DATA: Final = ("write", "pwrite64", "copy_file_range", "sendfile", "ftruncate", "fallocate")
_METADATA: Final = (
    *("chmod", "fchmod", "fchmodat", "chown", "lchown", "fchown", "fchownat"),
    *("setxattr", "lsetxattr", "fsetxattr", "utimensat"),
)
_MOUNTING: Final = (
    *("fsopen", "fsconfig", "fsmount", "move_mount", "open_tree", "mount_setattr"),
    *("mount", "umount2", "unshare"),
)
_REMOVING: Final = ("unlink", "rmdir", "unlinkat")

ERRORS: Final[dict[str, tuple[int, ...]]] = {
    **dict.fromkeys(_DIRECTORIES, (errno.ENOSPC, errno.EROFS, errno.EIO)),
    **dict.fromkeys(_INODES, (errno.ENOSPC, errno.EROFS, errno.EPERM)),
    **dict.fromkeys(_DATA, (errno.ENOSPC, errno.EIO)),
    **dict.fromkeys(_METADATA, (errno.EPERM, errno.EROFS, errno.EIO)),
    **dict.fromkeys(_MOUNTING, (errno.EPERM, errno.ENOMEM)),
    **dict.fromkeys(_REMOVING, (errno.EIO,)),
    "openat": (errno.EMFILE, errno.EIO, errno.EROFS),
    "openat2": (errno.EMFILE, errno.EIO),
    "open_tree": (errno.EPERM, errno.EMFILE),
    "fsopen": (errno.EPERM, errno.EMFILE),
    "ioctl": (errno.EIO, errno.ENOSPC),
    "fsync": (errno.EIO,),
    "syncfs": (errno.EIO, errno.ENOSPC),
}
"""How each call of `faults.CALLS` fails in practice."""


_KERNELS_OWN: Final = frozenset(
    {f"trusted.overlay.{name}" for name in ("uuid", "impure", "origin")} | {"security.selinux"}
)
"""What the kernel writes into the writable layer of an overlay that is mounted and looked at."""


_LARGE: Final = hashlib.shake_128(b"large").digest(300_000)


class BrokenError(AssertionError):
    """A claim that did not hold."""


class _Operation(NamedTuple):
    """
    Words of the command line, with names of the ground in braces, and what it makes there.

    Of one that `serves`, a process goes on when it is done, which a filter of calls would stop.
    """

    words: tuple[str, ...]
    result: str
    needs: tuple[str, ...] = ()
    serves: bool = False


_REBUILD: Final = ("rebuild", "{facts}", "--at", "{at}")

OPERATIONS: Final = {
    "vfs": _Operation((*_REBUILD, "--driver", "vfs", "--upper", "{new}/upper"), "at"),
    "overlay": _Operation((*_REBUILD, "--driver", "overlay", "--upper", "{new}/upper"), "at"),
    "in-place": _Operation(_REBUILD, "at"),
    "unionfs": _Operation(
        (*_REBUILD, "--driver", "unionfs", "--upper", "{new}/upper"),
        "at",
        ("unionfs-fuse", "unionfs"),
        serves=True,
    ),
    "convert": _Operation(
        ("convert", "{upper}", "--from", "overlay", "--to", "aufs", "-o", "{out}"), "out"
    ),
    "tar": _Operation(
        ("convert", "{upper}", "--from", "overlay", "--to", "oci", "-o", "{out}"), "out"
    ),
}


class Ground:
    """
    Layers on a tmpfs of their own, and a place for what is made of them.

    For a mount namespace of one's own. Records and converted layers go to places of its own too.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        own = (os.path.dirname(decode(each)) for each in (journal.DIRECTORY, CACHE))
        for at in (top, *(Path(os.fsdecode(each)) for each in own)):
            at.mkdir(parents=True, exist_ok=True)
            syscalls.mount(b"mishaps", bytes(at), b"tmpfs", 0, b"mode=755")
        self.layers = top / "layers"
        self.upper, self.middle, self.base = (self.layers / n for n in ("top", "middle", "base"))
        self.work = top / "work"
        for each in (self.upper, self.middle, self.base, self.work):
            each.mkdir(parents=True)
        _fill(self.upper, self.middle, self.base)
        self.facts = top / "facts.json"
        options = f"lowerdir={self.middle}:{self.base},upperdir={self.upper},workdir={self.work}"
        line = f"1 0 0:50 / / rw - overlay overlay rw,{options}"
        self.facts.write_bytes(msgspec.json.encode(builders.facts(line)))
        self._expected: dict[str, dict[bytes, object]] = {}
        self._others = {each.id for each in mountinfo.read()}
        self._subreaper()
        self.before = self._state()

    @staticmethod
    def _subreaper() -> None:
        syscalls.prctl_set_child_subreaper(True)  # noqa: FBT003

    def words(self, name: str) -> list[str]:
        """Give the command of an operation."""
        places = {
            "facts": self.facts,
            "upper": self.upper,
            **{each: self.top / each for each in ("at", "new", "out")},
        }
        return [*MOUNTCR, *(word.format(**places) for word in OPERATIONS[name].words)]

    def calls(self, name: str) -> Counter[str]:
        """Run an operation undisturbed, keep what it makes to compare with, and count its calls."""
        ran = faults.run(self.words(name))
        if ran.status:
            raise BrokenError(f"{name} fails without a fault: {ran.err}")
        self._expected[name] = snapshot(self.top / OPERATIONS[name].result)
        self.take_apart()
        self.unchanged(f"{name} without a fault")
        return ran.calls

    def seconds(self, name: str) -> float:
        """Give how long an operation takes: the least of three times, so that kills come within."""
        taken: list[float] = []
        for _ in range(3):
            began = time.monotonic()
            subprocess.run(self.words(name), capture_output=True, check=True)
            taken.append(time.monotonic() - began)
            self.take_apart()
        return min(taken)

    def suffer(self, name: str, fault: Fault) -> int:
        """Run an operation with a fault, and claim what has to hold; give the exit status."""
        what = f"{name} with {fault}"
        ran = faults.run(self.words(name), fault=fault)
        if fault.errno:
            self._said_so(what, fault, ran)
        if ran.status == 0:
            found = snapshot(self.top / OPERATIONS[name].result)
            if found != self._expected[name]:
                raise BrokenError(
                    f"{what}: the result is another: {_differing(found, self._expected[name])}"
                )
            self.take_apart()
            if self._only_empty_records():
                self.clean_up(what)
        elif ran.status in {-9, 8}:
            self.clean_up(what)
            self._away_if_done()
        self.unchanged(f"{what}: status {ran.status}")
        return ran.status

    @staticmethod
    def _said_so(what: str, fault: Fault, ran: faults.Run) -> None:
        """Claim a documented exit status, and one line that says why."""
        expected = {0, 1, 6, 8, 7 if fault.errno == errno.EPERM else 0}
        lines = [line for line in ran.err.splitlines() if not line.startswith(("+ ", "  hint: "))]
        if ran.status not in expected or "Traceback" in ran.err or "internal error" in ran.err:
            raise BrokenError(f"{what}: status {ran.status}: {ran.err}")
        if bool(ran.status) != (len(lines) == 1):
            raise BrokenError(f"{what}: status {ran.status}, not one line: {ran.err}")

    def kill(self, name: str, moment: float) -> bool:
        """Kill an operation after a time in seconds, and clean up; tell whether it was done."""
        process = subprocess.Popen(
            self.words(name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moment)
        process.kill()
        done = process.wait() == 0
        what = f"{name} killed after {moment:.4f} s"
        if done:
            self.take_apart()
        self.clean_up(what)
        if not done:
            self._away_if_done()
        self.unchanged(what)
        return done

    @staticmethod
    def _only_empty_records() -> bool:
        """Tell whether there are records that could not be removed, and tell of nothing."""
        directory = decode(journal.DIRECTORY)
        found = [os.path.join(directory, name) for name in os.listdir(directory)]
        return bool(found) and not any(map(os.path.getsize, found))

    def _away_if_done(self) -> None:
        """Take apart what was killed when all was done, so that nothing was left to clean up."""
        if (self.top / "out").exists() or _mounted_at(self.top / "at"):
            self.take_apart()

    def clean_up(self, what: str) -> None:
        """Claim that a clean-up says what it removes, removes all at once, and can be repeated."""
        for expected in (None, ""):
            done = subprocess.run(
                [*MOUNTCR, "cleanup"], capture_output=True, text=True, check=False
            )
            if done.returncode or done.stderr or (expected is not None and done.stdout):
                raise BrokenError(f"{what}: cleanup gave {done}")

    def take_apart(self) -> None:
        """Undo an operation that was done, as a user would."""
        at = self.top / "at"
        if _mounted_at(at):
            done = subprocess.run([*MOUNTCR, "umount", at], capture_output=True, check=False)
            if done.returncode:
                raise BrokenError(f"umount gave {done}")
        for name in ("at", "new", "out"):
            if (self.top / name).is_file():
                (self.top / name).unlink()
            shutil.rmtree(self.top / name, ignore_errors=True)

    def unchanged(self, what: str) -> None:
        """Claim that files, mounts, processes and records are as before."""
        until = time.monotonic() + SETTLE
        while _processes() and time.monotonic() < until:
            time.sleep(0.005)
        found = self._state()
        if found != self.before:
            different = _differing(found.layers, self.before.layers)
            different += [
                f"{name}: {now}"
                for name, now, before in zip(found._fields, found, self.before, strict=True)
                if now != before and name != "layers"
            ]
            self.take_apart()
            self.before = (
                self._state()
            )  # one claim that did not hold does not break those that follow
            raise BrokenError(f"{what}: {'; '.join(different)}")

    def _may_be_ours(self, mount: Mount) -> bool:
        """Leave out what others may unmount meanwhile: removing a mountpoint does, anywhere."""
        return mount.id not in self._others

    def _state(self) -> _State:
        directory = decode(journal.DIRECTORY)
        return _State(
            layers=snapshot(self.layers),
            files=sorted(each for each in os.listdir(self.top)),
            mounts=[str(each.mountpoint) for each in mountinfo.read() if self._may_be_ours(each)],
            processes=_processes(),
            records=os.listdir(directory) if os.path.isdir(directory) else [],
        )


class _State(NamedTuple):
    layers: dict[bytes, object]
    files: list[str]
    mounts: list[str]
    processes: list[str]
    records: list[bytes]


def _fill(upper: Path, middle: Path, base: Path) -> None:
    """Make three layers with one of everything that a layer can hold."""
    for layer in (base, middle, upper):
        for name in ("shared", f"own-{layer.name}/deep"):
            (layer / name).mkdir(parents=True)
        (layer / "shared/text").write_text(f"of {layer.name}\n")
    (base / "gone").write_text("hidden by the top layer")
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    (base / "closed").mkdir()
    (base / "closed/below").write_text("hidden by an opaque directory")
    (upper / "closed").mkdir()
    os.setxattr(upper / "closed", "trusted.overlay.opaque", b"y")
    for layer in (base, upper):
        own = layer / f"own-{layer.name}"
        (own / "large").write_bytes(_LARGE)
        with (own / "sparse").open("wb") as file:
            file.seek(1 << 20)
            file.write(b"end")
        (own / "one").write_text("two names")
        (own / "two").hardlink_to(own / "one")
        (own / "link").symlink_to("/nowhere")
        os.mkfifo(own / "fifo")
        os.mknod(own / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (own / "large").chmod(0o4751)
        os.chown(own / "one", 1000, 1001)
        os.setxattr(own / "large", "trusted.mishaps", b"\0value")
        os.utime(own / "sparse", ns=(10**18 + 1, 10**18 + 2))


def snapshot(top: Path) -> dict[bytes, object]:
    """Give everything that is in a directory by its path: what it is, and its content."""
    if top.is_file():
        return {b".": top.read_bytes()}
    found: dict[bytes, object] = {}
    for directory, names, files in os.walk(bytes(top)):
        for name in (b".", *names, *files):
            path = os.path.join(directory, name)
            result = os.lstat(path)
            content = b""
            if stat.S_ISREG(result.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
            elif stat.S_ISLNK(result.st_mode):
                content = os.readlink(path)
            attributes = {
                each: os.getxattr(path, each, follow_symlinks=False)
                for each in os.listxattr(path, follow_symlinks=False)
                if each not in _KERNELS_OWN
            }
            found[os.path.relpath(path, bytes(top))] = (
                *(result.st_mode, result.st_uid, result.st_gid, result.st_rdev),
                *(0 if stat.S_ISDIR(result.st_mode) else result.st_size, result.st_mtime_ns),
                content,
                attributes,
            )
    return found


def _differing(found: dict[bytes, object], expected: dict[bytes, object]) -> list[str]:
    paths = sorted({*found, *expected})
    return [
        f"{each!r} {found.get(each)} not {expected.get(each)}"
        for each in paths
        if found.get(each) != expected.get(each)
    ][:5]


def _mounted_at(path: Path) -> bool:
    return any(each.mountpoint == encode(str(path)) for each in mountinfo.read())


def _processes() -> list[str]:
    """Give the command of every process below this one that has not ended."""
    _reap()
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = (
                Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()
            )
        except OSError:
            continue
        if text[0] != "Z":
            children.setdefault(int(text[1]), []).append(int(name))
    found: list[str] = []
    waiting = [os.getpid()]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            waiting.append(pid)
            found.append(Path("/proc", str(pid), "cmdline").read_text(errors="replace"))
    return found


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def faults_of(calls: Counter[str]) -> Iterator[Fault]:
    """Give every fault that can be: each call, in each way, and a kill at it."""
    for name, count in sorted(calls.items()):
        for number in range(1, count + 1):
            for failure in (*ERRORS[name], 0):
                yield Fault(name, number, failure)


def interesting(calls: Counter[str], seed: int = 1) -> Iterator[Fault]:
    """Give some faults: the first and the last of each call, and another, each in one way."""
    choice = random.Random(seed)  # noqa: S311  # has to be the same every time
    for name, count in sorted(calls.items()):
        for number in sorted({1, count, choice.randint(1, count)}):
            yield Fault(name, number, choice.choice((*ERRORS[name], 0)))
