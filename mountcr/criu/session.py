# SPDX-License-Identifier: Apache-2.0
"""
A conversation with CRIU: `criu swrk` on a socket pair, requests, and the stages it reports.

One request is one CRIU process: it is started with the request and reaped before the answer is
given, whatever happens. CRIU is never killed while it has an answer to give: a process that is
dumped may have CRIU's code in it, and only CRIU takes it out again. When this process dies CRIU
finds the socket closed and undoes what it did, so it is not tied to our life either.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import tempfile
from typing import IO, TYPE_CHECKING, Final, NamedTuple, TypeAlias

from mountcr import paths
from mountcr.criu import log
from mountcr.criu.options import CriuOptions, Kind, config_text, external_bytes, to_request
from mountcr.errors import CriuError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from mountcr.criu import rpc_pb2
    from mountcr.paths import KPath

__all__ = [
    "CONFIG_NAME",
    "STAGES",
    "STDERR_NAME",
    "Hook",
    "Notification",
    "Reply",
    "Session",
]

CONFIG_NAME: Final = "criu.conf"
"""The file in the work directory that holds the extra options of a request."""

STDERR_NAME: Final = "criu.stderr"
"""The file in the work directory that holds what CRIU printed; removed when it printed nothing."""

STAGES: Final = frozenset(
    {
        "network-lock",
        "network-unlock",
        "orphan-pts-master",
        "post-dump",
        "post-resume",
        "post-restore",
        "post-setup-namespaces",
        "pre-dump",
        "pre-restore",
        "pre-resume",
        "query-ext-files",
        "setup-namespaces",
    }
)
"""The stages that CRIU reports, criu(8) `--action-script`."""

_QUERY_EXTERNALS: Final = "query-ext-files"

_LARGEST: Final = 1 << 20  # bytes; CRIU's answers are a few hundred


class Notification(NamedTuple):
    """
    A stage that CRIU reached, and where it waits for the answer.

    `pid` is that of the restored root task as CRIU sees it, 0 before `setup-namespaces` (without a
    mount namespace of the tasks: before `post-restore`) and in a dump. `fd` is the master of a
    terminal at `orphan-pts-master`, else -1; it is closed when the hook returns.
    """

    script: str
    pid: int = 0
    fd: int = -1


Reply: TypeAlias = "Sequence[str] | None"
"""What a hook answers: at `query-ext-files` more external resources, else nothing."""

Hook: TypeAlias = "Callable[[Notification], Reply]"


class Session:
    """
    CRIU at work, one request after the other. Use it as a context manager or call `close()`.

    `command` starts CRIU: `("criu",)` or what `mountcr.criu.binary.require().command` holds. What
    it writes is for its user only if it is `private`, whatever the umask of the caller is.
    Not for several threads at once. A hook for `orphan-pts-master` also tells CRIU that terminals
    may have lost their master; a dump of such a terminal needs the hook although it never calls it.
    """

    def __init__(self, command: Sequence[str], *, private: bool = False) -> None:
        self._command = tuple(command)
        self._umask = 0o077 if private else -1
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> int:
        """
        Hang up and wait until CRIU has ended, which it does by itself; give its exit status.

        0 when none runs, negative for a signal. Interrupted while it waits, it kills CRIU.
        """
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        child, self._child = self._child, None
        if child is None:
            return 0
        try:
            return child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise

    def version(self) -> str:
        """Ask CRIU for its version, `4.1.1`."""
        from mountcr.criu import rpc_pb2 as rpc

        version = self.request(rpc.Request(type=rpc.VERSION)).version
        numbers = [version.major_number, version.minor_number]
        if version.HasField("sublevel"):
            numbers.append(version.sublevel)
        return ".".join(str(number) for number in numbers)

    def dump(self, options: CriuOptions, hooks: Mapping[str, Hook] | None = None) -> None:
        """
        Dump a process tree; the images and work directories must be there.

        The tasks are dead when this returns, unless `leave_running`. On any error they run on:
        CriuError if CRIU failed, or what a hook raised, raised when CRIU has resumed them. What
        CRIU wrote stays: some images, the log, `criu.stderr` if it printed anything, and
        `criu.conf` if there are extra options.
        """
        if options.kind is not Kind.DUMP:
            raise UsageError("these options are not those of a dump")
        self._perform(options, hooks or {}, {})

    def restore(
        self,
        options: CriuOptions,
        hooks: Mapping[str, Hook] | None = None,
        inherit: Mapping[int, int] | None = None,
    ) -> int:
        """
        Restore a process tree and give the pid of its root task, whose parent is then init.

        `inherit` maps the numbers in `options.inherit_fds` to descriptors of this process, which
        stay the caller's. On any error, CriuError or what a hook raised, CRIU has killed what it
        restored, with one exception: at `pre-resume` and `post-resume` it no longer turns back;
        what a hook raises there carries a note with the pid that runs. The log and the files
        named at `dump` stay.
        """
        if options.kind is not Kind.RESTORE:
            raise UsageError("these options are not those of a restore")
        inherit = inherit or {}
        for number, key in options.inherit_fds:
            if number not in inherit:
                raise UsageError(f"no descriptor is given for fd[{number}]:{key}")
        return self._perform(options, hooks or {}, inherit).restore.pid

    def request(
        self,
        request: rpc_pb2.Request,
        hooks: Mapping[str, Hook] | None = None,
        fds: Sequence[int] = (),
    ) -> rpc_pb2.Response:
        """
        Send any request, answer CRIU's notifications by the hooks, and give its answer.

        `fds` are open in CRIU under the same numbers. Raises CriuError if CRIU does not succeed,
        UsageError for a hook that is no stage. What a hook raises makes CRIU undo what it did and
        is raised here after that.
        """
        from mountcr.criu import rpc_pb2 as rpc

        name = rpc.RequestType.Name(request.type).lower().replace("_", " ")
        with tempfile.TemporaryFile() as printed:
            return self._converse(request, hooks or {}, fds, _Case(name, printed))

    def _perform(
        self, options: CriuOptions, hooks: Mapping[str, Hook], inherit: Mapping[int, int]
    ) -> rpc_pb2.Response:
        with contextlib.ExitStack() as stack:
            images = stack.enter_context(_directory(options.images))
            work = stack.enter_context(_directory(options.work)) if options.work else images
            config = _write_config(options, work)
            request = to_request(options, images, work, config_file=config)
            for entry in request.options.inherit_fds:
                # Above the standard streams, which CRIU gets from elsewhere.
                entry.fd = fcntl.fcntl(inherit[entry.fd], fcntl.F_DUPFD_CLOEXEC, 3)
                stack.callback(os.close, entry.fd)
            if "orphan-pts-master" in hooks:
                request.options.orphan_pts_master = True
            fds = [entry.fd for entry in request.options.inherit_fds]
            _forget(options.log_name, work)
            case = _Case(
                name=f"dump of {options.pid}" if options.kind is Kind.DUMP else "restore",
                printed=stack.enter_context(_printed(work)),
                log=paths.join(options.work_directory, options.log_name),
                # The restored tasks of a shell job get the process group that CRIU is in.
                same_group=options.shell_job and options.kind is Kind.RESTORE,
            )
            return self._converse(request, hooks, fds, case)

    def _converse(
        self, request: rpc_pb2.Request, hooks: Mapping[str, Hook], fds: Sequence[int], case: _Case
    ) -> rpc_pb2.Response:
        for name in hooks:
            if name not in STAGES:
                raise UsageError(f"{name!r} is no stage of CRIU", hint=", ".join(sorted(STAGES)))
        if self._child is not None:
            raise UsageError("this session is busy with another request")
        if request.HasField("options"):
            # Without a hook too: it is how CRIU finds out that nobody waits for it any more.
            request.options.notify_scripts = True
        failure: BaseException | None = None
        try:
            connection = self._start(fds, case)
            _send(connection, request)
            response, fd = _receive(connection)
            pid = 0
            while response is not None and response.HasField("notify"):
                pid = response.notify.pid or pid
                stage = Notification(os.fsdecode(response.notify.script), pid, fd)
                answer, error = _ask(stage, hooks)
                failure = failure or error
                _send(connection, answer)
                response, fd = _receive(connection)
        finally:
            status = self.close()
        if failure is not None:
            if response is not None and response.success and response.HasField("restore"):
                failure.add_note(f"CRIU went on: the restored process {response.restore.pid} runs")
            raise failure
        if response is None:
            raise _lost(case, status)
        if not response.success:
            raise _failed(case, response)
        return response

    def _start(self, fds: Sequence[int], case: _Case) -> socket.socket:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._child = subprocess.Popen(
                    [*self._command, "swrk", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=case.printed,
                    stderr=case.printed,
                    pass_fds=(theirs.fileno(), *fds),
                    # Ctrl-C must reach us and not kill CRIU while it is inside of a task.
                    process_group=None if case.same_group else 0,
                    umask=self._umask,
                )
            except OSError as error:
                raise CriuError(
                    f"{self._command[0]} cannot be started: {error.strerror}",
                    hint="name a CRIU that runs in $MOUNTCR_CRIU",
                ) from error
        return self._socket


class _Case(NamedTuple):
    """A request, as its errors speak of it: its name, what CRIU printed, where its log is."""

    name: str
    printed: IO[bytes]
    log: KPath | None = None
    same_group: bool = False


def _send(connection: socket.socket, message: rpc_pb2.Request) -> None:
    # If CRIU is gone, reading says so, and how.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(message.SerializeToString())


def _receive(connection: socket.socket) -> tuple[rpc_pb2.Response | None, int]:
    """Give the next message and the descriptor that came with it, -1 if none; None at the end."""
    from google.protobuf.message import DecodeError

    from mountcr.criu import rpc_pb2 as rpc

    fds = array.array("i")
    room = socket.CMSG_SPACE(fds.itemsize)
    try:
        raw, extra, _, _ = connection.recvmsg(_LARGEST, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None, -1
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    fd = fds[0] if fds else -1
    if not raw:
        return None, fd
    try:
        return rpc.Response.FromString(raw), fd
    except DecodeError as error:
        raise CriuError("CRIU answered something that is not its protocol") from error


def _ask(
    stage: Notification, hooks: Mapping[str, Hook]
) -> tuple[rpc_pb2.Request, BaseException | None]:
    """Run the hook of a stage; give the answer for CRIU and what the hook raised."""
    from mountcr.criu import rpc_pb2 as rpc

    answer = rpc.Request(type=rpc.NOTIFY, notify_success=True)
    hook = hooks.get(stage.script)
    try:
        externals = hook(stage) if hook else None
        if externals and stage.script == _QUERY_EXTERNALS:
            answer.options.images_dir_fd = -1  # a field that must be there; CRIU does not look
            answer.options.external.extend(external_bytes(text, Kind.DUMP) for text in externals)
    except BaseException as error:  # noqa: BLE001 - CRIU must be told, whatever it was
        return rpc.Request(type=rpc.NOTIFY, notify_success=False), error
    finally:
        if stage.fd >= 0:
            os.close(stage.fd)
    return answer, None


@contextlib.contextmanager
def _directory(path: KPath) -> Generator[int]:
    """Open a directory as long as the context lasts."""
    try:
        fd = os.open(paths.decode(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CriuError(
            f"{path}: {error.strerror}", hint="CRIU's images and log need a directory that is there"
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)


_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def _printed(work: int) -> Generator[IO[bytes]]:
    """Keep what CRIU prints in a file of the work directory, unless it prints nothing."""
    with os.fdopen(os.open(STDERR_NAME, _CREATE, 0o600, dir_fd=work), "r+b") as file:
        try:
            yield file
        finally:
            if os.fstat(file.fileno()).st_size == 0:
                _forget(STDERR_NAME, work)


def _write_config(options: CriuOptions, work: int) -> str:
    """Write the extra options into the work directory; give the absolute path, empty if none."""
    text = config_text(options.extra)
    if not text:
        return ""
    with os.fdopen(os.open(CONFIG_NAME, _CREATE, 0o600, dir_fd=work), "wb") as file:
        file.write(os.fsencode(text))
    return os.path.abspath(os.fsdecode(paths.decode(options.work_directory)) + "/" + CONFIG_NAME)


def _forget(name: str, work: int) -> None:
    """Remove a file of an earlier request, so that it is not taken for one of this request."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=work)


def _lost(case: _Case, status: int) -> CriuError:
    """CRIU hung up without an answer."""
    how = f"exit status {status}"
    if status < 0:
        how = f"killed by signal {-status} ({signal.strsignal(-status)})"
    first, context = log.first_error(_log_text(case) or _printed_text(case))
    why = first or (context[-1].strip() if context else "")
    return CriuError(
        f"CRIU {case.name} ended without an answer, {how}" + (f": {why}" if why else ""),
        first_error=first,
        context=context,
        log=case.log or "",
        hint=_hint(case),
    )


def _failed(case: _Case, response: rpc_pb2.Response) -> CriuError:
    """CRIU said that it failed."""
    told, _ = log.first_error(response.cr_errmsg.decode("utf-8", "backslashreplace"))
    first, context = log.first_error(_log_text(case))
    if told and not log.is_noise(told):
        first = told
    if not context:
        printed, context = log.first_error(_printed_text(case))
        first = first or printed or (context[-1].strip() if context else "")
    if not first or log.is_noise(first):
        first = os.strerror(response.cr_errno) if response.cr_errno else "CRIU does not say why"
    return CriuError(
        f"CRIU {case.name} failed: {first}",
        first_error=first,
        context=context,
        log=case.log or "",
        hint=_hint(case),
    )


def _log_text(case: _Case) -> str:
    """Give the log, empty if CRIU did not come to open one."""
    if case.log is not None:
        with contextlib.suppress(OSError), open(paths.decode(case.log), "rb") as file:
            return file.read().decode("utf-8", "backslashreplace")
    return ""


def _printed_text(case: _Case) -> str:
    case.printed.seek(0)
    return case.printed.read().decode("utf-8", "backslashreplace")


def _hint(case: _Case) -> str | None:
    if case.log is None:
        return None
    if os.path.exists(paths.decode(case.log)):
        return f"CRIU's log is {case.log}"
    return f"what CRIU printed is in {paths.join(paths.parent(case.log), STDERR_NAME)}"
