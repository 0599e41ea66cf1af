# SPDX-License-Identifier: Apache-2.0
"""A session with a real CRIU: what it does with tasks, hooks, descriptors and failures."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from mountcr.criu.images import FileImage, ImageSet
from mountcr.criu.options import CgroupMode, CriuOptions, Kind
from mountcr.criu.session import CONFIG_NAME, STAGES, STDERR_NAME, Notification, Session
from mountcr.errors import CriuError, UsageError
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mountcr.criu.session import Hook

pytestmark = pytest.mark.requires("criu")

PR_SET_CHILD_SUBREAPER = 36
DUMP_STAGES = ["pre-dump", "query-ext-files", "post-dump"]
RESTORE_STAGES = ["pre-restore", "post-restore", "pre-resume", "post-resume"]


# --- Tasks to dump --------------------------------------------------------------------------------


class Tasks:
    """Processes of one test; all that are left are killed and reaped at its end."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._pids: list[int] = []

    def start(self, *command: str, stdout: int = subprocess.DEVNULL, session: bool = True) -> int:
        """Start a process without descriptors of ours."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            start_new_session=session,
            env={"PATH": os.environ["PATH"]},
        )
        process.returncode = 0  # reaped here, with what CRIU restores
        return self.own(process.pid)

    def python(self, code: str) -> int:
        """Start a process that runs some code, says that it did, and sleeps."""
        ready = self.place / "ready"
        pid = self.start(
            sys.executable,
            "-c",
            f"import fcntl, os, socket, time\n{code}\nopen({str(ready)!r}, 'w').close()\n"
            "while True: time.sleep(100)",
        )
        wait_for(ready.exists)
        ready.unlink()
        return pid

    def sleeper(self) -> int:
        """Start a process that only sleeps."""
        pid = self.start("sleep", "1000")
        wait_for(lambda: command_of(pid) == b"sleep")
        return pid

    def own(self, pid: int) -> int:
        """Take over a process, such as one that CRIU restored."""
        self._pids.append(pid)
        return pid

    def end(self, pid: int) -> None:
        """Kill a process and whatever became our child with it."""
        for victim in (*children_of(pid), pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(victim, 0)

    def end_all(self) -> None:
        """Kill all that are left."""
        for pid in self._pids:
            self.end(pid)


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def children_of(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]


def state_of(pid: int) -> str:
    """The state letter of a process, empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def runs(pid: int) -> bool:
    """Whether a process is there and nobody holds it stopped."""
    return state_of(pid) in {"S", "R"}


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    """Processes whose orphans, and what CRIU restores, become ours and can be reaped."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    made = Tasks(tmp_path)
    try:
        yield made
    finally:
        made.end_all()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def session(require: Callable[[str], str]) -> Iterator[Session]:
    with Session((require("criu"),)) as made:
        yield made


@pytest.fixture
def images(tmp_path: Path) -> KPath:
    (tmp_path / "images").mkdir()
    return encode(str(tmp_path / "images"))


def made(*options: Mapping[str, object]) -> CriuOptions:
    """Make options from names and values, the last one wins."""
    merged: dict[str, object] = {}
    for more in options:
        merged |= more
    return msgspec.convert(merged, CriuOptions)


def nothing(_: Notification) -> None:
    """Agree with everything."""


def fail_here(_: Notification) -> None:
    msg = "no further"
    raise RuntimeError(msg)


# --- The conversation -----------------------------------------------------------------------------


def test_version_is_that_of_the_program(session: Session, require: Callable[[str], str]) -> None:
    """`version()` says what `criu --version` says."""
    printed = subprocess.run([require("criu"), "--version"], capture_output=True, check=True)
    assert f"Version: {session.version()}" in printed.stdout.decode().splitlines()


def test_dump_and_restore_call_hooks_in_order(
    session: Session, tasks: Tasks, images: KPath
) -> None:
    """A process is dumped and restored under its pid; each stage is reported once, in order."""
    pid = tasks.sleeper()
    seen: list[str] = []

    def note(stage: Notification) -> None:
        seen.append(stage.script)

    hooks = dict.fromkeys(STAGES, note)
    before = open_descriptors()
    session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images), hooks)
    assert seen == DUMP_STAGES
    tasks.end(pid)
    assert not state_of(pid)
    seen.clear()
    restored = session.restore(CriuOptions(kind=Kind.RESTORE, images=images), hooks)
    assert restored == tasks.own(pid)
    assert seen == RESTORE_STAGES
    assert runs(pid)
    assert command_of(pid) == b"sleep"
    assert open_descriptors() == before
    assert STDERR_NAME not in os.listdir(images)


def test_leave_running_leaves_it_running(session: Session, tasks: Tasks, images: KPath) -> None:
    """With `leave_running` the dumped process goes on, and the images are complete."""
    pid = tasks.sleeper()
    session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images, leave_running=True))
    assert runs(pid)
    assert ImageSet(images).root_pid == pid
    assert 0 < (ImageSet(images).frozen_seconds or 0) < 10


@pytest.mark.parametrize("stage", DUMP_STAGES)
def test_a_hook_that_raises_stops_the_dump(
    session: Session, tasks: Tasks, images: KPath, stage: str
) -> None:
    """What a hook raises arrives at the caller, after the task was resumed; nothing leaks."""
    pid = tasks.sleeper()
    before = open_descriptors()
    with pytest.raises(RuntimeError, match="no further"):
        session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images), {stage: fail_here})
    assert runs(pid)
    assert open_descriptors() == before


def test_tasks_are_frozen_in_a_hook(session: Session, tasks: Tasks, images: KPath) -> None:
    """At `query-ext-files` and `post-dump` no task moves."""
    pid = tasks.start(sys.executable, "-c", "while True: pass")
    states: list[str] = []

    def look(_: Notification) -> None:
        states.append(state_of(pid))

    hooks = {"query-ext-files": look, "post-dump": look}
    session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images, leave_running=True), hooks)
    assert states == ["t", "t"]


@pytest.mark.parametrize("stage", ["pre-restore", "post-restore"])
def test_a_hook_that_raises_stops_the_restore(
    session: Session, tasks: Tasks, images: KPath, stage: str
) -> None:
    """Before the tasks run, a hook that raises leaves no task behind."""
    pid = tasks.sleeper()
    session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images))
    tasks.end(pid)
    with pytest.raises(RuntimeError, match="no further"):
        session.restore(CriuOptions(kind=Kind.RESTORE, images=images), {stage: fail_here})
    wait_for(lambda: not runs(pid))


@pytest.mark.parametrize("stage", ["pre-resume", "post-resume"])
def test_a_hook_that_raises_too_late_says_what_runs(
    session: Session, tasks: Tasks, images: KPath, stage: str
) -> None:
    """From `pre-resume` on CRIU goes on; the error names the pid that runs."""
    pid = tasks.sleeper()
    session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images))
    tasks.end(pid)
    with pytest.raises(RuntimeError, match="no further") as caught:
        session.restore(CriuOptions(kind=Kind.RESTORE, images=images), {stage: fail_here})
    tasks.own(pid)
    assert caught.value.__notes__ == [f"CRIU went on: the restored process {pid} runs"]
    assert runs(pid)


def test_a_hook_that_is_no_stage_is_refused(session: Session, tasks: Tasks, images: KPath) -> None:
    """A misspelled stage is an error before CRIU is started."""
    pid = tasks.sleeper()
    with pytest.raises(UsageError, match="'postdump' is no stage of CRIU"):
        session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images), {"postdump": nothing})
    assert os.listdir(images) == []


# --- Failures -------------------------------------------------------------------------------------


def test_failure_carries_the_first_error(session: Session, tasks: Tasks, images: KPath) -> None:
    """CRIU's first real error is the message, five lines around it the context, the log is kept."""
    lock = tasks.place / "lock"
    pid = tasks.python(f"file = open({str(lock)!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX)")
    before = open_descriptors()
    with pytest.raises(CriuError) as caught:
        session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images))
    error = caught.value
    assert error.first_error.startswith("Some file locks are hold by dumping tasks!")
    assert error.message == f"CRIU dump of {pid} failed: {error.first_error}"
    assert error.log == f"{images}/dump.log"
    assert any(error.first_error in line for line in error.context)
    assert 1 < len(error.context) <= 11
    assert set(error.context) < set(Path(error.log).read_text(encoding="utf-8").split("\n"))
    assert runs(pid)
    assert open_descriptors() == before


def test_a_log_of_before_explains_nothing(session: Session, tasks: Tasks, images: KPath) -> None:
    """When CRIU fails before it opens its log, an older log is not quoted; what it printed is."""
    pid = tasks.sleeper()
    options = CriuOptions(kind=Kind.DUMP, pid=pid, images=images)
    Path(images, "dump.log").write_text("(00.1) Error (x.c:1): of before\n", encoding="ascii")
    with pytest.raises(CriuError) as caught:
        session.dump(msgspec.structs.replace(options, extra=("--no-such-option",)))
    assert "unrecognized option '--no-such-option'" in caught.value.message
    assert "of before" not in str(caught.value.context)
    assert (Path(images) / STDERR_NAME).read_text(encoding="utf-8")
    assert runs(pid)


def test_criu_that_is_killed(session: Session, tasks: Tasks, images: KPath) -> None:
    """If CRIU itself dies, the error says of what; its child is reaped and no descriptor leaks."""
    pid = tasks.sleeper()
    before = open_descriptors()

    def kill(_: Notification) -> None:
        (criu,) = (child for child in children_of(os.getpid()) if child != pid)
        os.kill(criu, signal.SIGKILL)

    with pytest.raises(CriuError, match=r"ended without an answer, killed by signal 9 \(Killed\)"):
        session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images), {"pre-dump": kill})
    assert children_of(os.getpid()) == [pid]
    assert open_descriptors() == before


def test_an_interrupt_stops_criu_and_resumes_the_task(
    session: Session, tasks: Tasks, images: KPath
) -> None:
    """Ctrl-C between two stages: CRIU undoes the dump, is reaped, and the interrupt goes on."""
    pid = tasks.sleeper()
    before = open_descriptors()
    timers: list[threading.Timer] = []

    def interrupt_soon(_: Notification) -> None:
        timers.append(threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT)))
        timers[0].start()

    with pytest.raises(KeyboardInterrupt):
        session.dump(
            CriuOptions(kind=Kind.DUMP, pid=pid, images=images), {"query-ext-files": interrupt_soon}
        )
    timers[0].join()
    assert children_of(os.getpid()) == [pid]
    assert runs(pid)
    assert open_descriptors() == before


def test_the_task_outlives_our_death(session: Session, tasks: Tasks, images: KPath) -> None:
    """When the dumping process is killed CRIU finds out, resumes the task and ends."""
    pid = tasks.sleeper()

    def die(_: Notification) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    dumper = os.fork()
    if dumper == 0:
        session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images), {"query-ext-files": die})
        os._exit(0)
    _, status = os.waitpid(dumper, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    (criu,) = (child for child in children_of(os.getpid()) if child != pid)
    os.waitpid(criu, 0)
    assert runs(pid)


def test_ctrl_c_does_not_reach_criu(session: Session, tasks: Tasks, images: KPath) -> None:
    """CRIU is in a process group of its own: only we are interrupted, and CRIU cleans up."""
    pid = tasks.sleeper()
    groups: list[int] = []

    def look(_: Notification) -> None:
        (criu,) = (child for child in children_of(os.getpid()) if child != pid)
        groups.append(os.getpgid(criu))

    session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images), {"pre-dump": look})
    assert groups[0] != os.getpgid(0)


def test_a_directory_that_is_not_there(session: Session, tasks: Tasks) -> None:
    """The error names the directory; nothing was started."""
    pid = tasks.sleeper()
    missing = encode(str(tasks.place / "missing"))
    with pytest.raises(CriuError, match="missing: No such file or directory"):
        session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=missing))


# --- Options have the effect of their names -------------------------------------------------------


def dumps(session: Session, pid: int, **options: object) -> str:
    """Dump a process and leave it running; give CRIU's complaint, empty if there is none."""
    wanted: dict[str, object] = {"kind": Kind.DUMP, "pid": pid, "leave_running": True}
    try:
        session.dump(made(wanted, options))
    except CriuError as error:
        return error.first_error
    return ""


LINKED = (
    "file = open({name!r}, 'w'); os.link({name!r}, {name!r} + '2'); os.unlink({name!r})",
    "Use link-remap option",
)
LOCKED = (
    "file = open({name!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX)",
    "You can try --file-locks",
)
UNIX = (
    "a = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); a.connect({socket!r})",
    "Consider using --ext-unix-sk option",
)


@pytest.mark.parametrize(
    ("field", "case"),
    [
        ("link_remap", LINKED),
        ("file_locks", LOCKED),
        ("ext_unix_sk", UNIX),
    ],
)
def test_option_lets_criu_dump(
    session: Session, tasks: Tasks, images: KPath, field: str, case: tuple[str, str]
) -> None:
    """CRIU refuses without the option, names it, and is content with it."""
    code, complaint = case
    name = str(tasks.place / "file")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(f"{name}.socket")
        pid = tasks.python(code.format(name=name, socket=f"{name}.socket"))
        assert complaint in dumps(session, pid, images=images)
        assert dumps(session, pid, images=images, **{field: True}) == ""


def test_shell_job(session: Session, tasks: Tasks, images: KPath) -> None:
    """A task of a session that is not dumped needs `shell_job`."""
    (pid,) = children_of(tasks.python("os.fork()"))
    assert "Consider using --shell-job" in dumps(session, pid, images=images)
    assert dumps(session, pid, images=images, shell_job=True) == ""


def test_ghost_limit_is_in_bytes(session: Session, tasks: Tasks, images: KPath) -> None:
    """An unlinked file of 100000 bytes is above 50000 and below 200000."""
    name = str(tasks.place / "file")
    pid = tasks.python(
        f"file = open({name!r}, 'w'); file.write('x' * 100000); file.flush(); os.unlink({name!r})"
    )
    assert "increase limit" in dumps(session, pid, images=images, ghost_limit=50_000)
    assert dumps(session, pid, images=images, ghost_limit=200_000) == ""
    assert [file.remap for file in ImageSet(images).regular_files() if file.remap] == ["ghost"]


def test_tcp_established(session: Session, tasks: Tasks, images: KPath) -> None:
    """CRIU no longer asks for the option when it is given, whatever this kernel then can do."""
    with socket.socket() as peer:
        peer.bind(("127.0.0.1", 0))
        peer.listen()
        port = peer.getsockname()[1]
        pid = tasks.python(f"a = socket.create_connection(('127.0.0.1', {port}))")
        asks = "consider using --tcp-established"
        assert asks in dumps(session, pid, images=images)
        assert asks not in dumps(session, pid, images=images, tcp_established=True)


def test_log_level_and_work_directory(session: Session, tasks: Tasks, images: KPath) -> None:
    """The log is in the work directory, under its name, and longer with a higher level."""
    pid = tasks.sleeper()
    work = tasks.place / "work"
    work.mkdir()
    sizes: list[int] = []
    for level in (1, 4):
        name = f"level{level}.log"
        dumps(session, pid, images=images, work=encode(str(work)), log_level=level, log_file=name)
        sizes.append((work / name).stat().st_size)
    assert sizes[0] < sizes[1] / 10
    assert not [name for name in os.listdir(images) if name.endswith(".log")]


def test_extra_options_win(session: Session, tasks: Tasks, images: KPath) -> None:
    """Words behind `--` reach CRIU in a configuration file and win over the record's fields."""
    name = str(tasks.place / "file")
    pid = tasks.python(
        f"file = open({name!r}, 'w'); file.write('x' * 100000); file.flush(); os.unlink({name!r})"
    )
    extra = ("--ghost-limit", "200K", "-l", "--irmap-scan-path", "/a path")
    assert dumps(session, pid, images=images, ghost_limit=50_000, extra=extra) == ""
    text = (Path(images) / CONFIG_NAME).read_text(encoding="utf-8")
    assert [line.split(maxsplit=1) for line in text.splitlines()] == [
        ["ghost-limit", "200K"],
        ["file-locks"],
        ["irmap-scan-path", '"/a path"'],
    ]


def test_descriptors_are_inherited(session: Session, tasks: Tasks, images: KPath) -> None:
    """The number in `inherit_fds` stands for the descriptor in `inherit`, which stays ours."""
    reader, writer = os.pipe()
    ticks = "import os, time\nwhile True: os.write(1, b'tick '); time.sleep(0.02)"
    pid = tasks.start(sys.executable, "-c", ticks, stdout=writer)
    inode = os.fstat(writer).st_ino
    os.close(writer)
    assert os.read(reader, 5) == b"tick "
    session.dump(CriuOptions(kind=Kind.DUMP, pid=pid, images=images))
    tasks.end(pid)
    os.close(reader)
    options = CriuOptions(kind=Kind.RESTORE, images=images, inherit_fds=((1, f"pipe:[{inode}]"),))
    with pytest.raises(UsageError, match=r"no descriptor is given for fd\[1\]"):
        session.restore(options)
    before = open_descriptors()
    reader, writer = os.pipe()
    tasks.own(session.restore(options, inherit={1: writer}))
    os.close(writer)
    assert os.read(reader, 5) == b"tick "
    os.close(reader)
    assert open_descriptors() == before


@pytest.mark.parametrize("mode", CgroupMode)
def test_cgroups(session: Session, tasks: Tasks, images: KPath, mode: CgroupMode) -> None:
    """Each directory a task was in is known from the images, in every mode."""
    directory = cgroup_directory()
    pid = tasks.sleeper()
    try:
        (directory / "cgroup.procs").write_text(str(pid), encoding="ascii")
        assert dumps(session, pid, images=images, manage_cgroups=mode) == ""
        found = [group for group in ImageSet(images).cgroups() if group.path.endswith("/in\\040it")]
        assert [group.tasks for group in found] == [True]
        assert (found[0].mode is None) == (mode is CgroupMode.IGNORE)
        if mode is CgroupMode.SOFT:
            controllers = ",".join(found[0].controllers)
            roots = ((controllers, encode(f"/{directory.parent.name}")),)
            assert dumps(session, pid, images=images, manage_cgroups=mode, cgroup_roots=roots) == ""
            found = ImageSet(images).cgroups()
            assert roots[0][1] in [group.path for group in found]
    finally:
        tasks.end(pid)
        directory.rmdir()
        directory.parent.rmdir()


def cgroup_directory() -> Path:
    """Make a cgroup directory with a parent of its own in a hierarchy that can be written."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        fstype, _, options = fields[fields.index("-") + 1 :][:3]
        if fields[3] == "/" and (fstype == "cgroup2" or (fstype == "cgroup" and "pids" in options)):
            directory = Path(fields[4], f"mountcr-test-{os.getpid()}", "in it")
            with contextlib.suppress(OSError):
                directory.mkdir(parents=True)
                return directory
    pytest.skip("no cgroup hierarchy can be written")


# --- Containers -----------------------------------------------------------------------------------


CONTAINER = """
set -e
mount --make-rprivate /
mount --bind "$1/root" "$1/root"
mount --bind "$1/outside" "$1/root/etc/hosts"
mount -t proc proc "$1/root/proc"
mount -t tmpfs -o size=1m,mode=755 tmpfs "$1/root/dev"
mknod "$1/root/dev/null" c 1 3
eval "$2"
cd "$1/root"
pivot_root . old
/bin/busybox umount -l /old
exec <${tty:-/dev/null} >${tty:-/dev/null} 2>&1
: > /ready
exec /bin/busybox sleep 1000
"""
HOSTS = "mnt[/etc/hosts]:hosts"


class Container:
    """A process with its own mounts on a directory; `/etc/hosts` is bound from outside."""

    def __init__(self, tasks: Tasks, busybox: str, more: str = "") -> None:
        self.tasks = tasks
        self.place = tasks.place
        self.root = self.place / "root"
        for name in ("bin", "etc", "proc", "dev", "old", "tmp", "a", "a]:b", "data"):
            (self.root / name).mkdir(parents=True)
        (self.root / "bin/busybox").write_bytes(Path(busybox).read_bytes())
        (self.root / "bin/busybox").chmod(0o755)
        (self.root / "etc/hosts").touch()
        (self.place / "outside").write_text("from outside\n", encoding="ascii")
        for name in ("one", "two"):
            (self.place / name).mkdir()
        self.pid = tasks.start("unshare", "-m", "sh", "-c", CONTAINER, "sh", str(self.place), more)
        wait_for((self.root / "ready").exists)
        wait_for(lambda: command_of(self.pid) == b"/bin/busybox")

    def restore(
        self,
        session: Session,
        images: KPath,
        hooks: Mapping[str, Hook] | None = None,
        **options: object,
    ) -> int:
        """Restore it on its directory."""
        wanted: dict[str, object] = {
            "kind": Kind.RESTORE,
            "images": images,
            "root": encode(str(self.root)),
            "externals": (f"mnt[hosts]:{encode(str(self.place / 'outside'))}",),
        }
        pid = session.restore(made(wanted, options), hooks)
        return self.tasks.own(pid)

    def mounts(self, pid: int) -> dict[str, str]:
        """Mountpoint to root, as the process sees them."""
        table = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8")
        return {line.split()[4]: line.split()[3] for line in table.splitlines()}


@pytest.fixture
def container(tasks: Tasks, require: Callable[[str], str]) -> Container:
    return Container(tasks, require("busybox"))


def test_externals_can_be_added_late(session: Session, container: Container, images: KPath) -> None:
    """A bind from outside is refused, unless the hook at `query-ext-files` names it."""
    complaint = dumps(session, container.pid, images=images)
    assert "./etc/hosts doesn't have a proper root mount" in complaint

    def add(_: Notification) -> tuple[str, ...]:
        return (HOSTS,)

    options = CriuOptions(kind=Kind.DUMP, pid=container.pid, images=images)
    session.dump(options, {"query-ext-files": add})
    container.tasks.end(container.pid)
    pid = container.restore(session, images)
    assert container.mounts(pid)["/etc/hosts"].endswith("/outside")


def test_root_and_compatibility(session: Session, container: Container, images: KPath) -> None:
    """A mount namespace needs `root`; with `mntns_compat` CRIU restores it the older way."""
    assert dumps(session, container.pid, images=images, externals=(HOSTS,)) == ""
    container.tasks.end(container.pid)
    # CRIU 4.1.1 runs into an assertion of its own instead of asking for the option.
    with pytest.raises(CriuError, match=r"--root option is required|BUG at criu/mount\.c"):
        container.restore(session, images, root=None)
    stages: list[str] = []

    def note(stage: Notification) -> None:
        assert (stage.pid == container.pid) == (stage.script != "pre-restore")
        stages.append(stage.script)

    container.restore(session, images, dict.fromkeys(STAGES, note))
    assert stages == [
        "pre-restore",
        "setup-namespaces",
        "post-setup-namespaces",
        "post-restore",
        "pre-resume",
        "post-resume",
    ]
    assert "mnt-v2" in Path(images, "restore.log").read_text(encoding="utf-8")
    container.tasks.end(container.pid)
    container.restore(session, images, mntns_compat=True)
    assert "mnt-v2" not in Path(images, "restore.log").read_text(encoding="utf-8")


def test_mounts_are_there_at_post_restore(
    session: Session, container: Container, images: KPath
) -> None:
    """At `post-restore`, while CRIU can still turn back, the task has the mounts of the dump."""
    assert dumps(session, container.pid, images=images, externals=(HOSTS,)) == ""
    wanted = container.mounts(container.pid)
    container.tasks.end(container.pid)
    seen: list[dict[str, str]] = []

    def look(stage: Notification) -> None:
        seen.append(container.mounts(stage.pid))
        msg = "enough"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="enough"):
        container.restore(session, images, {"post-restore": look})
    assert seen == [wanted]
    assert not runs(container.pid)


def test_skipped_mount(session: Session, container: Container, images: KPath) -> None:
    """A mount in `skip_mnt` is not in the images."""
    options: dict[str, object] = {"images": images, "externals": (HOSTS,)}
    assert dumps(session, container.pid, skip_mnt=(KPath("/proc"),), **options) == ""
    (mounts,) = ImageSet(images).mount_namespaces().values()
    assert {mount.mountpoint for mount in mounts} == {"/", "/dev", "/etc/hosts"}


def test_enabled_filesystem(
    session: Session, tasks: Tasks, images: KPath, require: Callable[[str], str]
) -> None:
    """A file system that CRIU does not know is dumped when `enable_fs` names it."""
    container = Container(tasks, require("busybox"), 'mount -t ramfs ramfs "$1/root/data"')
    options: dict[str, object] = {"images": images, "externals": (HOSTS,)}
    assert "unsupported" in dumps(session, container.pid, **options)
    assert dumps(session, container.pid, enable_fs=("xfs", "ramfs"), **options) == ""
    assert "ramfs" in {
        mount.fstype
        for mount in ImageSet(images).mount_namespaces()[ImageSet(images).root_mount_namespace]
    }


def test_evasive_devices(
    session: Session, tasks: Tasks, images: KPath, require: Callable[[str], str]
) -> None:
    """An open device whose path leads to another node of the same device needs the option."""
    cover = (
        'mknod "$1/root/data/null" c 1 3; exec 5<"$1/root/data/null"; '
        'mount --bind "$1/root/dev/null" "$1/root/data/null"'
    )
    container = Container(tasks, require("busybox"), cover)
    options: dict[str, object] = {"images": images, "externals": (HOSTS,)}
    assert "Unaccessible path opened" in dumps(session, container.pid, **options)
    assert dumps(session, container.pid, evasive_devices=True, **options) == ""


def test_bracket_and_colon_in_a_mountpoint(
    session: Session, tasks: Tasks, images: KPath, require: Callable[[str], str]
) -> None:
    """Such a key needs no escape, but it is also taken for the shorter mountpoint before it."""
    binds = 'mount --bind "$1/one" "$1/root/a"; mount --bind "$1/two" "$1/root/a]:b"'
    container = Container(tasks, require("busybox"), binds)
    externals = (HOSTS, "mnt[/a]:b]:two")
    assert dumps(session, container.pid, images=images, externals=externals) == ""
    (mounts,) = ImageSet(images).mount_namespaces().values()
    keys = {str(mount.mountpoint): mount.external for mount in mounts}
    assert keys["/a]:b"] == "two"
    assert keys["/a"] == "b]:two"


def test_images_agree_with_proc(session: Session, container: Container, images: KPath) -> None:
    """Mounts, files, mappings and tasks in the images are those that /proc shows."""
    pid = container.pid
    assert dumps(session, pid, images=images, externals=(HOSTS,)) == ""
    found = ImageSet(images)
    table = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8")
    shown = {tuple(line.split()[i] for i in (0, 1, 2, 3, 4)) for line in table.splitlines()}
    mounts = found.mount_namespaces()[found.root_mount_namespace]
    assert {
        (str(mount.id), str(mount.parent), mount.dev, mount.root, mount.mountpoint)
        for mount in mounts
    } == shown
    files = {file.id: file for file in found.regular_files()}
    (task,) = found.tasks()
    assert (task.pid, task.parent) == (pid, 0)
    assert files[task.cwd].path == files[task.root].path == "/"
    status = os.stat(f"/proc/{pid}/exe")
    assert files[task.exe] == FileImage(
        id=task.exe,
        path=KPath("/bin/busybox"),
        mnt_id=next(mount.id for mount in mounts if mount.mountpoint == "/"),
        size=status.st_size,
        mode=status.st_mode,
    )
    assert {files[number].path for number in found.mapped_file_ids()} == {"/bin/busybox"}
    null = next(file for file in files.values() if file.path == "/dev/null")
    assert stat.S_ISCHR(null.mode or 0)
    assert null.flags & os.O_ACCMODE in {os.O_RDONLY, os.O_WRONLY}


def test_a_rewritten_image_is_restored(
    session: Session, container: Container, images: KPath
) -> None:
    """An external key that was changed in the image is the one CRIU then asks for."""
    from mountcr.criu import images_pb2 as pb
    from mountcr.criu.images import read, write

    assert dumps(session, container.pid, images=images, externals=(HOSTS,)) == ""
    container.tasks.end(container.pid)
    path = ImageSet(images).path(f"mountpoints-{ImageSet(images).root_mount_namespace}.img")
    image = read(path)
    (mount,) = (item for item in image.messages(pb.MountEntry) if item.ext_key)
    mount.ext_key = b"another name"
    write(path, image)
    with pytest.raises(CriuError, match="No mapping for"):
        container.restore(session, images)
    source = encode(str(container.place / "outside"))
    pid = container.restore(session, images, externals=(f"mnt[another\\040name]:{source}",))
    assert container.mounts(pid)["/etc/hosts"].endswith("/outside")


KEEP_MASTER = """
import fcntl, os, sys, time
master = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
fcntl.ioctl(master, 0x40045431, bytes(4))
if os.fork() == 0:
    os.setsid()
    open(sys.argv[2], "w").write(str(os.getpid()))
    time.sleep(1000)
"""


def test_master_of_a_terminal_is_handed_over(
    session: Session, tasks: Tasks, images: KPath, require: Callable[[str], str]
) -> None:
    """A terminal whose master is outside comes back with a new master, given to the hook."""
    keeper = tasks.place / "keeper"
    (tasks.place / "keep.py").write_text(KEEP_MASTER, encoding="ascii")
    more = (
        'mkdir "$1/root/dev/pts"; tty=/dev/pts/0; '
        'mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/root/dev/pts"; '
        f'{sys.executable} "$1/keep.py" "$1/root/dev/pts/ptmx" {keeper}'
    )
    container = Container(tasks, require("busybox"), more)
    tasks.own(int(keeper.read_text(encoding="ascii")))
    externals = (HOSTS,)
    assert dumps(session, container.pid, images=images, externals=externals) != ""
    options = made({"kind": "dump", "pid": container.pid, "images": images, "externals": externals})
    session.dump(options, {"orphan-pts-master": nothing})
    tasks.end(container.pid)
    masters: list[int] = []

    def take(stage: Notification) -> None:
        masters.append(os.dup(stage.fd))

    before = open_descriptors()
    pid = container.restore(session, images, {"orphan-pts-master": take})
    (master,) = masters
    assert os.readlink(f"/proc/{pid}/fd/1") == "/dev/pts/0"
    with open(f"/proc/{pid}/fd/1", "wb", buffering=0) as terminal:
        terminal.write(b"still here")
    assert os.read(master, 100) == b"still here"
    os.close(master)
    assert open_descriptors() == before
