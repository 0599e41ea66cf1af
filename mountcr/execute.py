# SPDX-License-Identifier: Apache-2.0
"""
The executor: steps done one after the other, and undone in reverse when one fails.

It decides nothing. The dry run is the same executor with a `Recorder` for a kernel.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from mountcr.errors import LeftBehindError, MountcrError, StepError
from mountcr.interrupts import held_back
from mountcr.kernel.servers import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from mountcr.aufsopts import AufsOptions
    from mountcr.network import Address, Route
    from mountcr.overlayopts import OverlayOptions
    from mountcr.paths import KPath
    from mountcr.planning.steps import Undo
    from mountcr.stack import StoredLayer

__all__ = ["Doable", "Kernel", "Recorder", "applied"]


class Doable(Protocol):
    """A step: `mountcr.planning.steps`, `mountcr.planning.network_steps`."""

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        ...

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; give what undoes it, None where nothing has to."""
        ...


S = TypeVar("S", bound=Doable)


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

    def mount_aufs(self, at: KPath, options: AufsOptions) -> None:
        """Mount AUFS that is read back and found equal."""
        ...

    def bind(self, source: KPath, at: KPath) -> None:
        """Bind without what is mounted below the source; the mount is private."""
        ...

    def copy_layers(
        self, layers: tuple[StoredLayer, ...], data: tuple[KPath, ...], into: KPath
    ) -> None:
        """Copy what layers show into a directory that must not be there yet."""
        ...

    def convert_layer(
        self,
        layers: tuple[StoredLayer, ...],
        data: tuple[KPath, ...],
        into: KPath,
        to: str,
        *,
        shared: bool,
    ) -> None:
        """
        Write what the topmost layer changes into a directory, in another dialect.

        It must not be there yet, unless it is shared: then it holds that already.
        """
        ...

    def make_layer(self, layers: tuple[StoredLayer, ...], into: KPath, to: str) -> None:
        """Make a layer that changes nothing of what others show; it must not be there yet."""
        ...

    def remove_tree(self, path: KPath) -> None:
        """Remove a directory with everything in it, not crossing into other mounts."""
        ...

    def remove_marker(self, path: KPath, identity: str) -> bool:
        """Remove the marker of a volatile overlay; tell whether there was one."""
        ...

    def make_cgroup(self, path: KPath) -> bool:
        """Make a control group that tasks can be put in; tell whether it had to be made."""
        ...

    def mount_scratch(self, at: KPath, options: str) -> None:
        """Mount an empty tmpfs over a directory that is made if it is not there."""
        ...

    def fill_directory(self, source: KPath, at: KPath) -> None:
        """Copy what is in a directory into an empty one."""
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

    def mount_fuse(
        self,
        at: KPath,
        programs: tuple[str, ...],
        package: str,
        layers: tuple[KPath, ...],
        arguments: tuple[KPath, ...],
    ) -> Server:
        """Start a FUSE server, one of some programs, and attach what it mounts."""
        ...

    def unmount_fuse(self, at: KPath, server: Server) -> None:
        """Unmount what `mount_fuse` attached and end its server."""
        ...

    def unmount(self, at: KPath) -> None:
        """Unmount what lies topmost at a path."""
        ...

    def make_network(self) -> None:
        """Make the network namespace that the steps that follow are about, and hold it."""
        ...

    def join_network(self, path: KPath) -> None:
        """Hold the network namespace whose file lies at a path for the steps that follow."""
        ...

    def leave_network(self) -> None:
        """Let go of the network namespace."""
        ...

    def make_veth(
        self, link: str, outer: str, *, index: int, mac: str, outer_mac: str, mtu: int
    ) -> None:
        """Make a veth, one end in the network namespace, the other in ours, both down."""
        ...

    def remove_link(self, name: str) -> None:
        """Remove a link of ours, a veth with its other end."""
        ...

    def set_link_up(self, link: str) -> None:
        """Bring a link of the network namespace up."""
        ...

    def add_address(self, address: Address) -> None:
        """Give a link of the network namespace an address, unless it has it."""
        ...

    def add_route(self, route: Route) -> None:
        """Make a route in the main table of the network namespace."""
        ...

    def connect(self, outer: str, bridge: str) -> None:
        """Put a link of ours into a bridge, unless that is empty, and bring it up."""
        ...

    def disconnect(self, outer: str) -> None:
        """Bring a link of ours down, if it is there."""
        ...

    def announce(self, link: str) -> None:
        """Tell the neighbours of a link of the network namespace where its addresses are."""
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

    def mount_aufs(self, at: KPath, options: AufsOptions) -> None:
        """Record."""
        branches = (f"{each.path}={each.permission}" for each in options.branches)
        self._record("mount_aufs", at, *branches, *options.others)

    def bind(self, source: KPath, at: KPath) -> None:
        """Record."""
        self._record("bind", source, at)

    def copy_layers(
        self,
        layers: tuple[StoredLayer, ...],
        data: tuple[KPath, ...],  # noqa: ARG002
        into: KPath,
    ) -> None:
        """Record."""
        self._record("copy_layers", into, *(layer.path for layer in layers))

    def convert_layer(
        self,
        layers: tuple[StoredLayer, ...],
        data: tuple[KPath, ...],  # noqa: ARG002
        into: KPath,
        to: str,
        *,
        shared: bool,  # noqa: ARG002
    ) -> None:
        """Record."""
        self._record("convert_layer", into, to, *(layer.path for layer in layers))

    def make_layer(self, layers: tuple[StoredLayer, ...], into: KPath, to: str) -> None:
        """Record."""
        self._record("make_layer", into, to, *(layer.path for layer in layers))

    def remove_tree(self, path: KPath) -> None:
        """Record."""
        self._record("remove_tree", path)

    def remove_marker(self, path: KPath, identity: str) -> bool:  # noqa: ARG002
        """Record; every marker is taken to be there."""
        self._record("remove_marker", path)
        return True

    def make_cgroup(self, path: KPath) -> bool:
        """Record; every control group is taken for missing."""
        self._record("make_cgroup", path)
        return True

    def mount_scratch(self, at: KPath, options: str) -> None:
        """Record."""
        self._record("mount_scratch", at, options)

    def fill_directory(self, source: KPath, at: KPath) -> None:
        """Record the call."""
        self._record("fill", source, at)

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

    def mount_fuse(
        self,
        at: KPath,
        programs: tuple[str, ...],
        package: str,  # noqa: ARG002
        layers: tuple[KPath, ...],  # noqa: ARG002
        arguments: tuple[KPath, ...],
    ) -> Server:
        """Record; the server has the pid 0."""
        self._record("mount_fuse", at, programs[0], *arguments)
        return Server(pid=0, start_time=0, dev="", words=arguments)

    def unmount_fuse(self, at: KPath, server: Server) -> None:  # noqa: ARG002
        """Record."""
        self._record("unmount_fuse", at)

    def unmount(self, at: KPath) -> None:
        """Record."""
        self._record("unmount", at)

    def make_network(self) -> None:
        """Record."""
        self._record("make_network")

    def join_network(self, path: KPath) -> None:
        """Record."""
        self._record("join_network", path)

    def leave_network(self) -> None:
        """Record."""
        self._record("leave_network")

    def make_veth(
        self,
        link: str,
        outer: str,
        *,
        index: int,  # noqa: ARG002
        mac: str,
        outer_mac: str,  # noqa: ARG002
        mtu: int,
    ) -> None:
        """Record."""
        self._record("make_veth", link, outer, mac, mtu)

    def remove_link(self, name: str) -> None:
        """Record."""
        self._record("remove_link", name)

    def set_link_up(self, link: str) -> None:
        """Record."""
        self._record("set_link_up", link)

    def add_address(self, address: Address) -> None:
        """Record."""
        self._record("add_address", address.link, f"{address.address}/{address.prefix}")

    def add_route(self, route: Route) -> None:
        """Record."""
        self._record("add_route", route.destination, route.gateway, route.link)

    def connect(self, outer: str, bridge: str) -> None:
        """Record."""
        self._record("connect", outer, bridge)

    def disconnect(self, outer: str) -> None:
        """Record."""
        self._record("disconnect", outer)

    def announce(self, link: str) -> None:
        """Record."""
        self._record("announce", link)


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
    steps: Iterable[S], kernel: Kernel, *, report: Callable[[S], None] | None = None
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


def _execute(step: Doable, kernel: Kernel, rollback: _Rollback) -> None:
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
