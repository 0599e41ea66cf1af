# SPDX-License-Identifier: Apache-2.0
"""
Work in batches, each in a process of its own, so that every processor is used.

A child is a fork that has its batch in memory, and sends back one answer through a pipe. It ends
with the thread that made it, whatever ends that (PR_SET_PDEATHSIG). A process that has other
threads is not forked, since one of them may hold a lock: there each batch is done on the spot.
"""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import select
import signal
import struct
import threading
import time
from contextlib import suppress
from typing import (
    TYPE_CHECKING,
    Final,
    Generic,
    NamedTuple,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    cast,
)

from mountcr.kernel.children import end_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Batches", "Count", "Progress"]

_TICK: Final = 0.1
"""Seconds between two looks at how far the children are."""

_READ: Final = 1 << 16
_SLOT: Final = struct.Struct("=QQ")


class Progress(Protocol):
    """Somebody who wants to know how far the work is."""

    def add(self, files: int, bytes: int) -> None:  # noqa: A002 - what it counts
        """Take notice of so many more files and bytes; called from one thread."""
        ...


class _Slot:
    """Files and bytes done by one child, in memory that its parent sees."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._memory = memory
        self._offset = offset
        self.files = 0
        self.bytes = 0

    def add(self, files: int, count: int) -> None:
        """Count what was done."""
        self.files += files
        self.bytes += count
        _SLOT.pack_into(self._memory, self._offset, self.files, self.bytes)

    def seen(self) -> tuple[int, int]:
        """Give what the process at work has counted."""
        files, count = _SLOT.unpack_from(self._memory, self._offset)
        return files, count

    def reset(self) -> None:
        """Begin again."""
        self.files = self.bytes = 0
        self.add(0, 0)


Count: TypeAlias = "Callable[[int, int], None]"
"""What work calls with every so many more files and bytes."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def _nothing(files: int, count: int) -> None:
    """Take notice of no progress."""


class _Child(NamedTuple):
    pid: int
    reader: int
    counter: _Slot
    told: list[int]
    said: bytearray


def _ended(pid: int) -> int:
    """Wait for a child; 0 as its status where SIGCHLD is ignored, which leaves none, wait(2)."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0


class Batches(Generic[Task, Result]):
    """
    Runs `work` on lists of tasks in up to `workers` children, for a `with` block.

    Results come in no order. The first error of a child is raised by the next call here, with its
    own type. Leaving the block with an error kills the children that are still at work.
    """

    def __init__(
        self,
        work: Callable[[list[Task], Count], Result],
        *,
        workers: int,
        progress: Progress | None = None,
    ) -> None:
        self._work = work
        self._progress = progress
        self._memory = mmap.mmap(-1, max(workers, 1) * _SLOT.size)
        slots = range(0, len(self._memory), _SLOT.size)
        self._free = [_Slot(self._memory, offset) for offset in slots]
        self._workers = workers
        self._children: list[_Child] = []
        self._looked = 0.0
        self.results: list[Result] = []

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what is still at work."""
        for child in self._children:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        for child in self._children:
            os.close(child.reader)
            _ended(child.pid)
        self._children.clear()
        self._free.clear()
        self._memory.close()

    def run(self, tasks: list[Task]) -> None:
        """Do the tasks, beside others if there may be more children. Raises what they raise."""
        if not tasks:
            return
        if not self.may_fork:
            self.run_here(tasks)
            return
        while not self._free:
            self._wait(_TICK)
        self._fork(tasks)
        self.look()

    @property
    def may_fork(self) -> bool:
        """Whether tasks are done in children: with other threads a child could wait for ever."""
        return self._workers > 1 and threading.active_count() == 1

    @property
    def begun(self) -> bool:
        """Whether any tasks were given to it."""
        return bool(self._children or self.results)

    def run_here(self, tasks: list[Task]) -> None:
        """Do the tasks in this process."""
        self.results.append(self._work(tasks, self._progress.add if self._progress else _nothing))

    def look(self) -> None:
        """Take what children have sent, now and then; costs nothing if called often."""
        now = time.monotonic()
        if self._children and now - self._looked > _TICK:
            self._looked = now
            self._wait(0)

    def finish(self) -> list[Result]:
        """Wait for all, and give the results."""
        while self._children:
            self._wait(_TICK)
        return self.results

    def _fork(self, tasks: list[Task]) -> None:
        counter = self._free.pop()
        counter.reset()
        reader, writer = os.pipe()
        parent = os.getpid()
        try:
            pid = os.fork()
        except BaseException:
            os.close(reader)
            os.close(writer)
            self._free.append(counter)
            raise
        if pid == 0:
            self._be_child(tasks, counter, writer, parent)
        os.close(writer)
        self._children.append(_Child(pid, reader, counter, [0, 0], bytearray()))

    def _be_child(self, tasks: list[Task], counter: _Slot, writer: int, parent: int) -> None:
        """Do the tasks, say the answer, end: nothing of the parent's is run or flushed here."""
        try:
            end_with(parent)
            gc.disable()  # it ends before that would be worth it
            try:
                answer = pickle.dumps((self._work(tasks, counter.add), None))
            except BaseException as error:  # noqa: BLE001 - it is raised in the parent
                answer = pickle.dumps((None, error))
            with open(writer, "wb", buffering=0) as pipe:
                left = memoryview(answer)
                while left:
                    left = left[pipe.write(left) or 0 :]
        finally:
            os._exit(0)

    def _wait(self, seconds: float) -> None:
        """Read what is there to be read, and let go of the children that have ended."""
        poll = select.poll()
        for child in self._children:
            poll.register(child.reader, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(seconds * 1000)}
        for child in tuple(self._children):
            if child.reader in ready:
                data = os.read(child.reader, _READ)
                child.said.extend(data)
                if not data:
                    self._end(child)
            self._tell(child.counter.seen(), child.told)

    def _end(self, child: _Child) -> None:
        self._children.remove(child)
        os.close(child.reader)
        status = _ended(child.pid)
        self._free.append(child.counter)
        if not child.said:
            code = os.waitstatus_to_exitcode(status)
            msg = f"a process that was copying files ended with {code} and no word"
            raise ChildProcessError(msg)
        answer = pickle.loads(child.said)  # noqa: S301 - written by our own child
        result, error = cast("tuple[Result, BaseException | None]", answer)
        if error is not None:
            raise error
        self.results.append(result)

    def _tell(self, seen: tuple[int, int], told: list[int]) -> None:
        files, count = seen[0] - told[0], seen[1] - told[1]
        if self._progress is not None and (files or count):
            self._progress.add(files, count)
            told[:] = seen
