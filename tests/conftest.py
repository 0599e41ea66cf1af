# SPDX-License-Identifier: Apache-2.0
"""
What a test may ask of the machine, and the mount namespace that it runs in.

`@pytest.mark.requires("criu", "overlay")`, or `require("criu")` inside a test, skips with a reason
where this machine cannot do it. The reason is found by doing the thing, once a session, and never
by looking at versions. `MOUNTCR_REQUIRE=root,criu` (or `all`) turns those skips into failures.

A test below tests/privileged runs in a child with a mount namespace of its own, in which nothing
propagates to the host; `@pytest.mark.host_mounts` opts out, `@pytest.mark.private_mounts` opts in
elsewhere. Whatever it leaves mounted goes with the child; a process that it leaves fails it. A
mount that the session leaves on the host, or a name in its root directory, fails the session.

Nothing here uses mountcr, so that what is broken there cannot hide itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import functools
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

# <sched.h>, <sys/mount.h> and <sys/prctl.h>
CLONE_NEWNS = 0x20000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
PR_SET_CHILD_SUBREAPER = 36

PT_INTERP = 3
"""<elf.h>: the program header of a dynamically linked program."""

SECONDS_TO_END = 15.0
"""How long a process that a test started may take to end after the test: FUSE daemons do."""

LIBC = ctypes.CDLL(None, use_errno=True)


# --- A private mount namespace --------------------------------------------------------------------


def _call(name: str, result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    arguments = (source.encode(), target.encode(), fstype.encode(), flags, data.encode() or None)
    _call(f"mount {fstype} at {target}", LIBC.mount(*arguments))


def _enter_private_namespace() -> None:
    # PY312: os.unshare does it once 3.11 is dropped.
    _call("unshare(CLONE_NEWNS)", LIBC.unshare(CLONE_NEWNS))
    _mount("none", "/", "none", MS_REC | MS_PRIVATE)


def _descendants(pid: int) -> list[int]:
    """Processes below `pid`, parents first. Read from stat: `children` is not in every kernel."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            stat = Path("/proc", name, "stat").read_text(encoding="utf-8", errors="replace")
            state, parent = stat.rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(name)] = int(parent)
    found = [pid]
    for candidate in found:
        found += [child for child, parent in parents.items() if parent == candidate]
    return found[1:]


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
        return f"{pid} {b' '.join(words).decode(errors='replace').strip()}"
    return str(pid)


def _reap_ended() -> bool:
    """Wait for the children that have ended; tell whether there is another one."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _end_descendants() -> list[str]:
    """Wait for what is still running below this process, then kill it and say what it was."""
    until = time.monotonic() + SECONDS_TO_END
    while _reap_ended():  # whatever lost its parent is a child of ours
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    else:
        return []
    left = _descendants(os.getpid())
    names = [_command(pid) for pid in left]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return names


def _kill_tree(pid: int) -> None:
    for victim in [*reversed(_descendants(pid)), pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


def _in_private_namespace(verdict: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """
    Run `verdict` in a forked child with a mount namespace of its own; bring its answer back.

    The answer is a kind (passed, failed, skipped, xfailed) and a text for people.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run_child(verdict, writer)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:
            answer = pipe.read()
    except BaseException:  # the timeout of the test, or Ctrl-C
        os.kill(pid, signal.SIGUSR1)  # where it hangs goes to the captured stderr
        time.sleep(0.1)
        _kill_tree(pid)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    if not answer:
        code = os.waitstatus_to_exitcode(status)
        return "failed", f"the child that ran the test ended with {code} and no word"
    kind, text = pickle.loads(answer)  # noqa: S301 - written by our own child
    return kind, text


def _run_child(verdict: Callable[[], tuple[str, str]], writer: int) -> NoReturn:
    try:
        faulthandler.register(signal.SIGUSR1, file=2)
        # Daemons of the test become our children, not init's, so that they can be found.
        _call("prctl", LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
        _enter_private_namespace()
        kind, text = verdict()
        left = _end_descendants()
        if left and kind == "passed":
            kind, text = "failed", "the test left processes running:\n" + "\n".join(left)
    except BaseException as error:  # noqa: BLE001 - there is no one above us
        kind, text = "failed", f"cannot make a private mount namespace: {error}"
    sys.stdout.flush()
    sys.stderr.flush()
    with open(writer, "wb") as pipe:
        pipe.write(pickle.dumps((kind, text)))
    os._exit(0)


def _verdict_of(item: pytest.Function, body: Callable[[], object]) -> tuple[str, str]:
    try:
        body()
    except pytest.skip.Exception as skip:
        return "skipped", str(skip)
    except pytest.xfail.Exception as xfail:
        return "xfailed", str(xfail)
    except BaseException:  # noqa: BLE001 - pytest.fail and SystemExit included
        info = pytest.ExceptionInfo[BaseException].from_current()
        summary = info.exconly().partition("\n")[0]
        return "failed", f"{summary}\n{item.repr_failure(info)}"
    return "passed", ""


def _wants_private_mounts(item: pytest.Function) -> bool:
    if item.get_closest_marker("host_mounts"):
        return False
    return bool(item.get_closest_marker("privileged") or item.get_closest_marker("private_mounts"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let the body of a privileged test run in its own mount namespace; fixtures run outside."""
    if not _wants_private_mounts(pyfuncitem):
        return (yield)
    body = pyfuncitem.obj

    @functools.wraps(body)
    def forked(**arguments: object) -> None:
        kind, text = _in_private_namespace(
            lambda: _verdict_of(pyfuncitem, functools.partial(body, **arguments))
        )
        if kind == "skipped":
            pytest.skip(text)
        elif kind == "xfailed":
            pytest.xfail(text)
        elif kind == "failed":
            pytest.fail(text, pytrace=False)

    pyfuncitem.obj = forked
    try:
        return (yield)
    finally:
        pyfuncitem.obj = body


# --- What this machine can do ---------------------------------------------------------------------


class Lacking(Exception):  # noqa: N818 - not an error: the reason for a skip
    """Why this machine cannot do what was asked of it."""


def _extend_path() -> None:
    """Let runc and crun, which look for a criu on PATH, find the one of tools/provision."""
    prefix = os.environ.get("MOUNTCR_PREFIX", "/opt/mountcr")
    directories = [f"{prefix}/bin", *os.get_exec_path(), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    os.environ["PATH"] = os.pathsep.join(directories)


def _find(*names: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    raise Lacking(f"there is no {names[0]}; tools/provision installs it")


def _find_engine(name: str) -> str:
    if path := shutil.which(name):
        return path
    raise Lacking(f"there is no {name}; tools/provision --engines installs it")


def _run(*command: str) -> str:
    """Output of a command; its first line of complaint as the reason if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Lacking(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = (done.stderr + done.stdout).splitlines()
        reason = next((line for line in lines if "Error" in line), (lines or ["no word"])[0])
        raise Lacking(f"{' '.join(command)}: {reason.strip()}")
    return done.stdout


def _try_in_namespace(attempt: Callable[[Path], None]) -> None:
    """Do something beneath a fresh tmpfs of a private namespace; Lacking if it raises OSError."""

    def verdict() -> tuple[str, str]:
        try:
            _mount("tmpfs", place, "tmpfs")
            attempt(Path(place))
        except (OSError, Lacking) as error:
            return "failed", str(error)
        return "passed", ""

    with tempfile.TemporaryDirectory(prefix="mountcr-probe-") as place:
        kind, text = _in_private_namespace(verdict)
    if kind != "passed":
        raise Lacking(text)


def _layers(place: Path) -> tuple[Path, Path, Path, Path]:
    lower, upper, work, merged = (place / name for name in ("lower", "upper", "work", "merged"))
    for directory in (lower, upper, work, merged):
        directory.mkdir()
    (lower / "file").write_text("below", encoding="utf-8")
    return lower, upper, work, merged


def _check_union(upper: Path, merged: Path) -> None:
    with (merged / "file").open("a", encoding="utf-8") as file:
        file.write(" and above")
    if (upper / "file").read_text(encoding="utf-8") != "below and above":
        raise OSError(errno.EIO, "a change did not arrive in the upper layer")


def _mount_overlay(place: Path) -> None:
    lower, upper, work, merged = _layers(place)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    _mount("overlay", str(merged), "overlay", data=options)
    _check_union(upper, merged)


def _mount_unionfs(program: str, place: Path) -> None:
    lower, upper, _, merged = _layers(place)
    _run(program, "-o", "cow", f"{upper}=RW:{lower}=RO", str(merged))
    _check_union(upper, merged)
    _call("umount", LIBC.umount2(os.fsencode(merged), 0))


def _mount_fuse_overlayfs(program: str, place: Path) -> None:
    lower, upper, work, merged = _layers(place)
    _run(program, "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", str(merged))
    _check_union(upper, merged)
    _call("umount", LIBC.umount2(os.fsencode(merged), 0))


def _is_dynamic(program: str) -> bool:
    """Whether a 64-bit ELF program asks for a loader, see elf(5)."""
    with open(program, "rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02":
            return True
        order = "<" if header[5] == 1 else ">"
        (start,) = struct.unpack_from(f"{order}Q", header, 32)
        size, count = struct.unpack_from(f"{order}HH", header, 54)
        file.seek(start)
        table = file.read(size * count)
    kinds = (struct.unpack_from(f"{order}I", table, at)[0] for at in range(0, len(table), size))
    return PT_INTERP in kinds


def _probe_root() -> str:
    _try_in_namespace(lambda _place: None)
    return ""


def _probe_overlay() -> str:
    _try_in_namespace(_mount_overlay)
    return ""


def _probe_criu() -> str:
    criu = os.environ.get("MOUNTCR_CRIU") or _find("criu")
    _run(criu, "check")
    return criu


_LISTENER = (
    "import os, socket, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
    "print(flush=True); os.close(1); time.sleep(60)"
)


def _probe_criu_inet() -> str:
    """Find a CRIU that dumps Internet sockets on this kernel: a newer one than others need."""
    prefix = os.environ.get("MOUNTCR_PREFIX", "/opt/mountcr")
    found = (os.environ.get("MOUNTCR_CRIU"), shutil.which("criu"), f"{prefix}/newer/bin/criu")
    reason = "there is no criu; tools/provision installs it"
    for criu in filter(None, found):
        words = [sys.executable, "-S", "-c", _LISTENER]
        with (
            tempfile.TemporaryDirectory(prefix="mountcr-probe-") as images,
            subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            ) as child,
        ):
            try:
                if child.stdout:
                    child.stdout.readline()
                _run(criu, "dump", "-t", str(child.pid), "-D", images)
            except Lacking as lacking:
                reason = str(lacking)
            else:
                return criu
            finally:
                child.kill()
    raise Lacking(reason)


def _probe_bridge() -> str:
    """Make a bridge and a veth pair, which are modules of their own, in another namespace."""
    make = "ip link add br0 type bridge && ip link add v0 type veth peer name v1"
    return _run("unshare", "--net", "sh", "-c", make)


def _probe_redis() -> str:
    return os.path.realpath(_find("redis-server"))


def _probe_runc() -> str:
    runc = _find("runc")
    _run(runc, "checkpoint", "--help")
    return runc


def _probe_crun() -> str:
    crun = _find("crun")
    _run(crun, "checkpoint", "--help")
    return crun


def _probe_unionfs() -> str:
    program = _find("unionfs", "unionfs-fuse")
    _try_in_namespace(functools.partial(_mount_unionfs, program))
    return program


def _probe_fuse_overlayfs() -> str:
    program = _find("fuse-overlayfs")
    _try_in_namespace(functools.partial(_mount_fuse_overlayfs, program))
    return program


def _probe_busybox() -> str:
    busybox = _find("busybox")
    if _is_dynamic(busybox):
        raise Lacking(f"{busybox} is not static; the package busybox-static has one")
    return busybox


def _probe_libmount() -> str:
    try:
        ctypes.CDLL("libmount.so.1")
    except OSError as error:
        raise Lacking(str(error)) from error
    return "libmount.so.1"


def _probe_dot() -> str:
    program = _find("dot")
    _run(program, "-V")
    return program


def _probe_minisign() -> str:
    program = _find("minisign")
    _run(program, "-v")
    return program


def _probe_skopeo() -> str:
    program = _find_engine("skopeo")
    _run(program, "--version")
    return program


def _probe_docker_registry() -> str:
    program = _find_engine("docker-registry")
    _run(program, "--version")
    return program


def _probe_qemu() -> str:
    for program in ("mksquashfs", "modprobe", "mkfs.ext4", "apt-get"):
        _find(program)
    return _find("qemu-system-x86_64")


PROBES: dict[str, Callable[[], str]] = {
    "root": _probe_root,
    "overlay": _probe_overlay,
    "criu": _probe_criu,
    "criu-inet": _probe_criu_inet,
    "redis": _probe_redis,
    "bridge": _probe_bridge,
    "runc": _probe_runc,
    "crun": _probe_crun,
    "unionfs": _probe_unionfs,
    "fuse-overlayfs": _probe_fuse_overlayfs,
    "busybox": _probe_busybox,
    "libmount": _probe_libmount,
    "dot": _probe_dot,
    "minisign": _probe_minisign,
    "qemu": _probe_qemu,
    "skopeo": _probe_skopeo,
    "docker-registry": _probe_docker_registry,
}


@functools.cache
def _probe(name: str) -> tuple[str, str]:
    """Where it is, or else the reason why it is not."""
    try:
        return PROBES[name](), ""
    except (Lacking, OSError) as lacking:
        return "", str(lacking) or "no reason given"


def _demanded() -> set[str]:
    words = {word.strip() for word in os.environ.get("MOUNTCR_REQUIRE", "").split(",")} - {""}
    return set(PROBES) if words == {"all"} else words


def _require(name: str) -> str:
    """
    Skip the calling test, or fail it under MOUNTCR_REQUIRE, unless this machine can do `name`.

    Gives the path of the program, where `name` means one.
    """
    if name not in PROBES:
        pytest.fail(f"requires({name!r}): there is no such probe; there are {', '.join(PROBES)}")
    found, reason = _probe(name)
    if reason and name in _demanded():
        pytest.fail(f"MOUNTCR_REQUIRE names {name}, but: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"{name}: {reason}")
    return found


@pytest.fixture(name="require", scope="session")
def _require_fixture() -> Callable[[str], str]:
    """The function `require(name)`, for a test that finds out late what it needs."""
    return _require


def pytest_configure() -> None:
    """
    Refuse a word in MOUNTCR_REQUIRE that means nothing: it would let a skip pass.

    A shell has what it starts in the background ignore SIGINT, and tests send that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _extend_path()
    if unknown := _demanded() - set(PROBES):
        names = ", ".join(sorted(unknown))
        raise pytest.UsageError(f"MOUNTCR_REQUIRE: no probe {names}; there are {', '.join(PROBES)}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test has the marker of its folder."""
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0] if item.path.is_relative_to(here) else ""
        if folder in {"privileged", "e2e"}:
            item.add_marker(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ask for what the markers name; what is privileged or e2e needs root."""
    names = [name for marker in item.iter_markers("requires") for name in marker.args]
    if item.get_closest_marker("privileged") or item.get_closest_marker("e2e"):
        names.insert(0, "root")
    for name in dict.fromkeys(names):
        _require(name)


# --- Nothing is left on the host ------------------------------------------------------------------


def _our_mounts(temporary: str) -> dict[str, str]:
    """Mounts of this namespace that a test may have made: mount id to mountpoint."""
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    lines = (line.split(" ") for line in table.splitlines())
    return {
        fields[0]: fields[4]
        for fields in lines
        if "mountcr" in fields[4] or fields[4].startswith(temporary)
    }


@pytest.fixture(scope="session", autouse=True)
def _no_name_is_left() -> Iterator[None]:
    """Fail the session if something came into the root of the host: a test got out of its place."""
    before = set(os.listdir("/"))
    yield
    if left := sorted(set(os.listdir("/")) - before):
        pytest.fail("the session left in / of the host: " + ", ".join(left), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _no_mount_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the session if the host has a mount of ours that it did not have before."""
    temporary = str(tmp_path_factory.getbasetemp())
    before = _our_mounts(temporary)
    yield
    after = _our_mounts(temporary)
    if left := sorted(after[mount] for mount in after.keys() - before.keys()):
        pytest.fail("the session left mounts on the host: " + ", ".join(left), pytrace=False)
