# SPDX-License-Identifier: Apache-2.0
"""
The executor: steps done one after the other, and undone in reverse when one fails.

It decides nothing. The dry run is the same executor with a `Recorder` for a kernel.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from mountcr.errors import LeftBehindError, MountcrError, StepError
from mountcr.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from mountcr.overlayopts import OverlayOptions
    from mountcr.paths import KPath
    from mountcr.planning.steps import Step

__all__ = ["Kernel", "Recorder", "applied"]


class Kernel(Protocol):
    """Everything that steps may do to a machine. Every method raises OSError or MountcrError."""

    def make_directory(self, path: KPath) -> bool:
        """Make a directory with its parents; tell whether it had to be made."""
        ...

    def remove_directory(self, path: KPath) -> None:
        """Remove an empty directory."""
        ...

    def mount_overlay(self, at: KPath, options: OverlayOptions) -> None:
        """Mount an overlay that is read back and found equal."""
        ...

    def bind(self, source: KPath, at: KPath) -> None:
        """Bind without what is mounted below the source; the mount is private."""
        ...

    def copy_layers(self, options: OverlayOptions, into: KPath) -> None:
        """Copy the merged tree of layers into a directory that must not be there yet."""
        ...

    def remove_tree(self, path: KPath) -> None:
        """Remove a directory with everything in it, not crossing into other mounts."""
        ...

    def make_cgroup(self, path: KPath) -> bool:
        """Make a control group that tasks can be put in; tell whether it had to be made."""
        ...

    def mount_scratch(self, at: KPath) -> None:
        """Mount an empty tmpfs of 1 MiB over a directory that is made if it is not there."""
        ...

    def make_mountpoint(self, root: KPath, path: KPath, *, directory: bool) -> list[KPath]:
        """Make an empty file or directory beneath a root; give what was made, parents first."""
        ...

    def remove_mountpoint(self, root: KPath, made: list[KPath]) -> None:
        """Remove what `make_mountpoint` made, where it is still empty."""
        ...

    def set_attributes(self, at: KPath, attributes: Iterable[str]) -> None:
        """Set attributes of a mount."""
        ...

    def set_propagation(self, at: KPath, propagation: str) -> None:
        """Set the propagation of a mount."""
        ...

    def unmount(self, at: KPath) -> None:
        """Unmount what lies topmost at a path."""
        ...


class Recorder:
    """A kernel that does nothing and remembers the name and arguments of every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def _record(self, *words: object) -> None:
        self.calls.append(tuple(map(str, words)))

    def make_directory(self, path: KPath) -> bool:
        """Record; every directory is taken for missing."""
        self._record("make_directory", path)
        return True

    def remove_directory(self, path: KPath) -> None:
        """Record."""
        self._record("remove_directory", path)

    def mount_overlay(self, at: KPath, options: OverlayOptions) -> None:
        """Record."""
        self._record("mount_overlay", at, *options.lowers)

    def bind(self, source: KPath, at: KPath) -> None:
        """Record."""
        self._record("bind", source, at)

    def copy_layers(self, options: OverlayOptions, into: KPath) -> None:
        """Record."""
        self._record("copy_layers", into, *options.lowers)

    def remove_tree(self, path: KPath) -> None:
        """Record."""
        self._record("remove_tree", path)

    def make_cgroup(self, path: KPath) -> bool:
        """Record; every control group is taken for missing."""
        self._record("make_cgroup", path)
        return True

    def mount_scratch(self, at: KPath) -> None:
        """Record."""
        self._record("mount_scratch", at)

    def make_mountpoint(self, root: KPath, path: KPath, *, directory: bool) -> list[KPath]:
        """Record; every mountpoint is taken for missing."""
        self._record("make_mountpoint", root, path, "directory" if directory else "file")
        return [path]

    def remove_mountpoint(self, root: KPath, made: list[KPath]) -> None:
        """Record."""
        self._record("remove_mountpoint", root, *made)

    def set_attributes(self, at: KPath, attributes: Iterable[str]) -> None:
        """Record."""
        self._record("set_attributes", at, *attributes)

    def set_propagation(self, at: KPath, propagation: str) -> None:
        """Record."""
        self._record("set_propagation", at, propagation)

    def unmount(self, at: KPath) -> None:
        """Record."""
        self._record("unmount", at)


class _Rollback:
    """The undo actions of the steps done so far, last first."""

    def __init__(self) -> None:
        self._undo: list[tuple[str, Callable[[], None]]] = []

    def push(self, what: str, undo: Callable[[], None]) -> None:
        self._undo.append((what, undo))

    def run(self) -> list[str]:
        """Undo everything; give what could not be undone and why."""
        left: list[str] = []
        while self._undo:
            what, undo = self._undo.pop()
            try:
                undo()
            except OSError as error:
                left.append(f"{what} ({error.strerror or error})")
            except MountcrError as error:
                left.append(f"{what} ({error.message})")
        return left


@contextmanager
def applied(
    steps: Iterable[Step], kernel: Kernel, *, report: Callable[[Step], None] | None = None
) -> Generator[Callable[[], None]]:
    """
    Do the steps for the length of a `with` block and undo them when it is left by an exception.

    Gives a function that undoes them too, for a caller that is done with them. Leaving the block
    normally leaves everything in place. `report` is called after each finished step.

    Raises StepError when a step failed and what came before was undone, LeftBehindError when
    undoing failed; an error raised by the step's kernel that is a MountcrError stays what it is.
    """
    rollback = _Rollback()

    def undo() -> None:
        with held_back():
            left = rollback.run()
        if left:
            msg = f"could not undo: {'; '.join(left)}"
            raise LeftBehindError(msg, left, hint="unmount or remove it by hand")

    with ExitStack() as on_failure:
        on_failure.callback(undo)
        for step in steps:
            _execute(step, kernel, rollback)
            if report:
                report(step)
        yield undo
        on_failure.pop_all()


def _execute(step: Step, kernel: Kernel, rollback: _Rollback) -> None:
    try:
        undo = step.execute(kernel)
    except MountcrError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        msg = f"{step.describe()}: {error.strerror}{where}"
        raise StepError(msg, errno=error.errno or 0) from error
    if undo:
        rollback.push(step.describe(), undo)
