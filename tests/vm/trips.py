# SPDX-License-Identifier: Apache-2.0
"""
Round trips in a guest: a container is planned, dumped, taken apart, rebuilt, restored, and counts.

Each step becomes a cell. A plan that refuses is held against CRIU, which has to refuse too.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import shutil
import sys
import tempfile
import traceback
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from e2e.conftest import Finished, Place
from e2e.roots import mount_root
from mountcr import cli
from mountcr.kernel import mounts, syscalls
from mountcr.paths import encode
from snapshots import snapshot
from vm.cells import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "DRIVERS",
    "UNREGISTERED",
    "VARIANTS",
    "mount_variant",
    "open_place",
    "overlay_trips",
    "round_trips",
]

DRIVERS: Final = ("overlay", "vfs", "unionfs", "fuse-overlayfs")

UNREGISTERED: Final = {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}
"""Keeps the C library from registering restartable sequences, which it does since glibc 2.35."""

BARE: Final = "without rseq"

_REFUSED: Final = 4
_WORDS: Final = {_REFUSED: "refused", 6: "cannot"}
"""What exit statuses say that are no failures."""


class _WarmPlace(Place):
    """
    A place whose commands are run by a copy of this process, which has imported mountcr.

    A new interpreter would take most of the time of a command in a guest.
    """

    def mountcr(self, *words: object, **_more: Any) -> Finished:
        """Run the command line."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                _be_mountcr([str(each) for each in words], out.fileno(), err.fileno())
            _, status = os.waitpid(pid, 0)
            printed = [_all_of(out), _all_of(err)]
        return Finished(os.waitstatus_to_exitcode(status), *printed)


def _be_mountcr(words: list[str], out: int, err: int) -> NoReturn:
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        for number, fd in enumerate((null, out, err)):
            os.dup2(fd, number)
        status = cli.main(words)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - there is no one above us
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _all_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


for _name in ("plan", "dump", "rebuild", "restore", "umount"):
    importlib.import_module(f"mountcr.cli.{_name}")


@contextlib.contextmanager
def open_place(top: Path) -> Generator[Place]:
    """Give a place for containers; what runs and is mounted there ends with the block."""
    top.mkdir(parents=True)
    mounts.bind(encode(str(top)), encode(str(top)))
    mounts.set_propagation(encode(str(top)), "shared")
    place = _WarmPlace(top, _program("busybox"), _program("criu"))
    try:
        yield place
    finally:
        place.close()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        msg = f"there is no {name} in the guest"
        raise FileNotFoundError(msg)
    return found


class Trip(NamedTuple):
    """
    A round trip: `mount` mounts the root of a place, `change` changes something through it.

    It comes back on `target`, on layers of its own if that is not `driver`.
    """

    group: str
    subject: str
    driver: str
    target: str
    mount: Callable[[Place], None]
    change: Callable[[Path], None]
    environment: Mapping[str, str]


def round_trips(scratch: Path) -> Iterator[Cell]:
    """
    Take a container of each driver through it, and one on overlay to each other driver.

    Where CRIU cannot dump what has restartable sequences, one without them is taken too.
    """
    for driver in DRIVERS:
        cells = list(_perform(_simple(driver, driver), scratch))
        yield from cells
        if all(cell.check != "dump" for cell in cells):
            trip = _simple(driver, driver)._replace(environment=UNREGISTERED)
            yield from _perform(trip._replace(subject=f"{driver}, {BARE}"), scratch)
    for target in (*DRIVERS[1:], "aufs"):
        trip = _simple("overlay", target)
        yield from _perform(trip._replace(environment=UNREGISTERED), scratch)


def _simple(driver: str, target: str) -> Trip:
    subject = driver if driver == target else f"{driver} to {target}"
    mount = functools.partial(mount_root, driver=driver)
    return Trip("round trip", subject, driver, target, mount, _write, {})


def _write(root: Path) -> None:
    (root / "etc/added").write_text("added\n", encoding="ascii")
    (root / "etc/lines").unlink()


# --- Variants of overlay --------------------------------------------------------------------------


class Variant(NamedTuple):
    """Options of an overlay, how its layers lie, and a change that has to do with them."""

    options: str = ""
    layers: Callable[[Place], Sequence[Path]] = lambda place: place.layers
    change: Callable[[Path], None] = _write


_APART: Final = 1000
"""Numbers of inodes that lie between those of two file systems, more than a place ever makes."""


def _other_file_system(place: Place) -> Sequence[Path]:
    """
    Put the base on a tmpfs, whose inodes have numbers that those of the other layers have not.

    What is watched there is told by its number on some kernels, unless another file has that too.
    """
    other = place.directory("other")
    taken = {number for found in os.walk(place.top) for number in _numbers(found[0])}
    place.mount("tmpfs", other)
    number = _next_number(other)
    while not taken.isdisjoint(range(number - _APART, number + _APART)):
        number = _next_number(other)
    shutil.copytree(place.layers[-1], other / "base")
    return [*place.layers[:-1], other / "base"]


def _numbers(directory: str) -> list[int]:
    """Give the numbers of what is in a directory."""
    with os.scandir(directory) as entries:
        return [entry.inode() for entry in entries]


def _next_number(directory: Path) -> int:
    """Have a file system use up a number, which a tmpfs gives in order, and tell which it was."""
    tried = directory / "tried"
    tried.touch()
    number = tried.stat().st_ino
    tried.unlink()
    return number


def _hundred(place: Place) -> Sequence[Path]:
    """Put so many on top that there are 100."""
    more = [place.top / f"l{number:02}" for number in range(100 - len(place.layers))]
    for each in more:
        each.mkdir()
        (each / f"of-{each.name}").write_text(f"{each.name}\n", encoding="ascii")
    return [*more, *place.layers]


def _attributes_only(root: Path) -> None:
    """Change what a metacopy has: anything but the content."""
    (root / "etc/motd").chmod(0o600)
    _write(root)


def _renamed(root: Path) -> None:
    """Rename a directory of a lower layer, which is EXDEV without redirects."""
    (root / "etc").rename(root / "moved")
    (root / "etc").mkdir()


def _linked(root: Path) -> None:
    """Change one of two names of a file of a lower layer, which an index keeps together."""
    os.link(root / "etc/motd", root / "etc/second")
    (root / "etc/second").write_text("through the second name\n", encoding="ascii")


VARIANTS: Final[Mapping[str, Variant]] = {
    "one file system": Variant(),
    "several file systems": Variant(layers=_other_file_system),
    "metacopy": Variant("metacopy=on,redirect_dir=on", change=_attributes_only),
    "redirect_dir": Variant("redirect_dir=on", change=_renamed),
    "userxattr": Variant("userxattr"),
    "100 lower layers": Variant(layers=_hundred),
    "index": Variant("index=on", change=_linked),
    "nfs_export": Variant("index=on,nfs_export=on", change=_linked),
    "xino": Variant("xino=on"),
    "volatile": Variant("volatile"),
}


def overlay_trips(scratch: Path) -> Iterator[Cell]:
    """Take a container on each variant of overlay through it."""
    for name, variant in VARIANTS.items():
        mount = functools.partial(mount_variant, variant=variant)
        trip = Trip("overlay", name, "overlay", "overlay", mount, variant.change, UNREGISTERED)
        yield from _perform(trip, scratch)


def mount_variant(place: Place, variant: Variant) -> None:
    """Mount an overlay at the root of a place, by mount(2)."""
    lowers = ":".join(map(str, variant.layers(place)))
    options = f"lowerdir={lowers},upperdir={place.upper},workdir={place.work}"
    words = ",".join(each for each in (options, variant.options) if each)
    syscalls.mount(b"overlay", os.fsencode(place.root), b"overlay", 0, words.encode())


# --- The trip -------------------------------------------------------------------------------------


def _perform(trip: Trip, scratch: Path) -> Iterator[Cell]:
    """Do what can be done of a trip; give a cell for each step."""
    top = scratch / "t"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, top, ignore_errors=True)
        place = stack.enter_context(open_place(top))
        try:
            trip.mount(place)
        except OSError as error:
            why = errno.errorcode.get(error.errno or 0, "?")
            yield _cell(trip, "mount", Outcome(f"no: {why}", str(error), "mount(2)"))
            return
        trip.change(place.root)
        pid = place.start(environment=trip.environment)
        place.wait(lambda: place.count() > 2)
        try:
            for step, outcome in _steps(trip, place, pid):
                yield _cell(trip, step, outcome)
        except AssertionError as error:  # of a place: what does not come, or was complained of
            yield _cell(trip, "trip", Outcome("failed", str(error)))


class Outcome(NamedTuple):
    """What became of a step."""

    result: str
    detail: str = ""
    command: str = ""


def _cell(trip: Trip, step: str, outcome: Outcome) -> Cell:
    return Cell(group=trip.group, subject=trip.subject, check=step, **outcome._asdict())


def _steps(trip: Trip, place: Place, pid: int) -> Iterator[tuple[str, Outcome]]:
    """Give each step with what became of it; the first that fails is the last."""
    images, look, fresh = place.top / "images", place.directory("look"), place.top / "fresh"
    chosen = () if trip.target == trip.driver else ("--driver", trip.target, "--upper")
    planned = place.mountcr("plan", pid, "--json")
    outcome = _outcome(place, planned, ("plan", pid), pid)
    refused = [each["rule"] for each in _refusals(planned)]
    if refused:
        yield "plan", outcome._replace(result=f"refused: {', '.join(sorted(set(refused)))}")
        yield "criu", _criu(place, planned)
        return
    yield "plan", outcome
    words: tuple[object, ...] = ("dump", pid, "--images", images)
    outcome = _outcome(place, place.mountcr(*words, "--json"), words, pid)
    yield "dump", outcome
    if outcome.result != "ok":
        return
    before = _content(place.root)
    place.unmount()
    words = ("rebuild", images, "--at", look, *chosen, *([place.top / "seen"] if chosen else []))
    outcome = _outcome(place, place.mountcr(*words, "--json"), words, pid)
    if outcome.result == "ok":
        outcome = outcome._replace(result=_compared(before, _content(look)))
        place.done("umount", look)
    yield "rebuild", outcome
    if outcome.result != "ok":
        return
    words = ("restore", images, *chosen, *([fresh] if chosen else []))
    counted = place.count()
    done = place.mountcr(*words, "--json")
    outcome = _outcome(place, done, words, pid)
    if outcome.result == "ok":
        place.remember(done.document["pid"])
        place.wait(lambda: place.count(fresh if chosen else None) > counted)
    yield "restore", outcome


def _outcome(place: Place, done: Finished, words: Sequence[object], pid: int) -> Outcome:
    shown = " ".join(["mountcr", *map(str, words)]).replace(str(place.top), "T")
    shown = shown.replace(f" {pid}", " PID")
    if done.status == 0:
        return Outcome("ok", "", shown)
    word = _WORDS.get(done.status, f"failed: status {done.status}")
    return Outcome(word, done.err.strip(), shown)


def _refusals(planned: Finished) -> list[dict[str, str]]:
    if planned.status not in {0, _REFUSED}:
        return []
    findings = planned.document["findings"]
    return [each for each in findings if each["severity"] == "refusal" and not each["cured"]]


def _criu(place: Place, planned: Finished) -> Outcome:
    """Have CRIU dump what the plan refuses, which it has to refuse too."""
    images = place.directory("refused")
    words = [str(images) if word == "IMAGES" else word for word in planned.document["criu"]["dump"]]
    done = place.run(*words, "--leave-running")
    shown = " ".join(map(str, [*planned.document["criu"]["dump"], "--leave-running"]))
    log = images / "dump.log"
    text = log.read_text(errors="replace") if log.exists() else done.out
    errors = [line for line in text.splitlines() if "Error" in line]
    result = "dumped it all the same" if done.status == 0 else "refused"
    return Outcome(result, errors[0] if errors else "", shown.replace(str(place.top), "T"))


def _content(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Give what a root shows, without what the counter writes and times."""
    return {
        path: (seen.mode, seen.uid, seen.gid, seen.target, seen.content)
        for path, seen in snapshot(os.fsencode(root)).items()
        if path != b"var/count"
    }


def _compared(before: dict[bytes, tuple[object, ...]], now: dict[bytes, tuple[object, ...]]) -> str:
    paths = sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))
    return f"differs: {os.fsdecode(paths[0])}" if paths else "ok"
