# SPDX-License-Identifier: Apache-2.0
"""
Real engines: a container of each is dumped, rebuilt and restored while its engine is down.

`python -m live [--only podman-overlay] [--by-pid] [--keep]`, as root; `tools/provision --engines`
installs the engines. One that is missing is skipped, or has failed if MOUNTCR_REQUIRE names
`engines`. Prints what each engine takes away when its container dies, then a table, and ends with 1
if one failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from live.archives import (
    ForPodman,
    FromContainerd,
    FromContainerdsCri,
    FromCrio,
    FromPodman,
    ImageForPodman,
    ImageOfPodman,
)
from live.containerd import Containerd
from live.docker import Docker, DockerCr
from live.images import KEEPS_NAMES
from live.oci import Crun, Runc
from live.podman import Podman
from live.round_trip import STEPS, Outcome, round_trip
from mountcr.programs import DEFAULT_PREFIX
from mountcr.render.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from live.engine import Engine
    from live.ground import Ground
    from live.round_trip import Trip

__all__ = ["VARIANTS", "Variant", "main"]

_FUSE = "fuse-overlayfs"
_NEEDED = {"fuse": _FUSE, "through-containerd": "curl"}
"""Which programs variants need beside those of their engine, by a part of their names."""

_VERDICTS = ("passed", "FAILED", "skipped")


class Variant(NamedTuple):
    """
    An engine with a storage driver.

    `kind` says what is missing, `make` makes one; a container that is to be `refused` cannot be
    dumped. One that comes back `through` its engine does so while that is up. `trip` is where it
    goes, if not the way of all others.
    """

    kind: type[Engine]
    make: Callable[[Ground], Engine]
    refused: bool = False
    through: bool = False
    trip: type[Trip] | None = None


VARIANTS: Mapping[str, Variant] = {
    "podman-overlay": Variant(Podman, partial(Podman, driver="overlay")),
    "podman-vfs": Variant(Podman, partial(Podman, driver="vfs")),
    "podman-fuse-overlayfs": Variant(
        Podman, partial(Podman, driver=_FUSE, environment=(KEEPS_NAMES,))
    ),
    "podman-through-podman": Variant(Podman, partial(Podman, driver="overlay"), through=True),
    "podman-fuse-unlinked": Variant(Podman, partial(Podman, driver=_FUSE), refused=True),
    "docker-overlay2": Variant(Docker, partial(Docker, driver="overlay2")),
    "docker-vfs": Variant(Docker, partial(Docker, driver="vfs")),
    "docker-fuse-overlayfs": Variant(
        Docker, partial(Docker, driver=_FUSE, environment=(KEEPS_NAMES,))
    ),
    "docker-fuse-unlinked": Variant(Docker, partial(Docker, driver=_FUSE), refused=True),
    "docker-shareable": Variant(Docker, partial(Docker, driver="overlay2", shareable=True)),
    "docker-cr-overlay2": Variant(DockerCr, partial(DockerCr, driver="overlay2")),
    "docker-through-docker": Variant(
        Docker, partial(Docker, driver="overlay2", experimental=True), through=True
    ),
    "containerd-overlayfs": Variant(Containerd, partial(Containerd, snapshotter="overlayfs")),
    "containerd-native": Variant(Containerd, partial(Containerd, snapshotter="native")),
    "containerd-through-containerd": Variant(
        Containerd, partial(Containerd, snapshotter="overlayfs"), through=True
    ),
    "containerd-tidied": Variant(
        Containerd, partial(Containerd, snapshotter="overlayfs", tidied=True)
    ),
    "runc-overlay": Variant(Runc, Runc),
    "runc-tidied": Variant(Runc, partial(Runc, tidied=True)),
    "crun-overlay": Variant(Crun, Crun),
    "crun-tidied": Variant(Crun, partial(Crun, tidied=True)),
    "archive-of-podman": Variant(Podman, partial(Podman, driver="overlay"), trip=FromPodman),
    "archive-for-podman": Variant(Podman, partial(Podman, driver="overlay"), trip=ForPodman),
    "image-of-podman": Variant(Podman, partial(Podman, driver="overlay"), trip=ImageOfPodman),
    "image-for-podman": Variant(Podman, partial(Podman, driver="overlay"), trip=ImageForPodman),
    "archive-of-crio": Variant(Podman, partial(Podman, driver="overlay"), trip=FromCrio),
    "archive-of-containerds-cri": Variant(
        Podman, partial(Podman, driver="overlay"), trip=FromContainerdsCri
    ),
    "archive-of-containerd": Variant(
        Containerd, partial(Containerd, snapshotter="overlayfs"), trip=FromContainerd
    ),
}
"""
The tidied ones are those whose engine leaves a dead container mounted, when a person has removed
it. The unlinked ones hold a file without a name, which those on fuse-overlayfs else do not: it
keeps such a file in its work directory and says that it has one link, so that CRIU wants another.
"""


def main(words: list[str] | None = None) -> int:
    """Run as the command line says; 0 when nothing failed."""
    parser = argparse.ArgumentParser(prog="live", description=(__doc__ or "").split("\n")[1])
    parser.add_argument("--only", type=_variants, default=[*VARIANTS], help="variant,...")
    parser.add_argument("--by-pid", action="store_true", help="tell mountcr the pid and no name")
    parser.add_argument("--keep", action="store_true", help="keep the files of each variant")
    options = parser.parse_args(words)
    if os.geteuid() != 0:
        sys.stderr.write("the engines need root\n")
        return 2
    signal.signal(signal.SIGTERM, _end)
    _extend_path()
    demanded = {"engines", "all"} & {*os.environ.get("MOUNTCR_REQUIRE", "").split(",")}
    outcomes: list[Outcome] = []
    for variant in options.only:
        kind, make, refused, through, trip = VARIANTS[variant]
        needed = [program for word, program in _NEEDED.items() if word in variant]
        if reason := kind.missing(*needed):
            outcome = Outcome(variant, skipped="" if demanded else reason)
            if demanded:
                outcome.failed["run"] = reason
        else:
            outcome = round_trip(
                variant,
                make,
                refused=refused,
                through=through,
                by_name=through or not options.by_pid,
                keep=options.keep,
                kind=trip,
            )
        outcomes.append(outcome)
        _say(f"{variant}: {outcome.verdict}")
    _say("", *(line for outcome in outcomes for line in _told(outcome)), _table(outcomes))
    count = {word: sum(each.verdict == word for each in outcomes) for word in _VERDICTS}
    _say(", ".join(f"{count[word]} {word.lower()}" for word in _VERDICTS if _counts(word, count)))
    return 1 if count["FAILED"] else 0


def _counts(word: str, count: Mapping[str, int]) -> bool:
    return word != "skipped" or bool(count[word])


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """End as the signal would have it, but undo everything before."""
    sys.exit(128 + number)


def _variants(text: str) -> list[str]:
    """Give the variants whose names are said, or begin like this."""
    chosen = [each for each in VARIANTS for word in text.split(",") if each.startswith(word)]
    if not chosen:
        raise argparse.ArgumentTypeError(f"there are {', '.join(VARIANTS)}")
    return chosen


def _extend_path() -> None:
    """Let the CRIU and the crun of tools/provision come first."""
    prefix = os.environ.get("MOUNTCR_PREFIX", DEFAULT_PREFIX)
    directories = (f"{prefix}/bin", *os.get_exec_path(), "/usr/local/sbin", "/usr/sbin", "/sbin")
    os.environ["PATH"] = os.pathsep.join(directories)


def _told(outcome: Outcome) -> list[str]:
    """Give what there is to say about a variant beside its row."""
    lines = [f"  {line}" for line in (*outcome.remains, *outcome.notes)]
    if outcome.skipped:
        lines.append(f"  skipped: {outcome.skipped}")
    for step, said in outcome.failed.items():
        lines += (f"  {step} FAILED:", *(f"    {line}" for line in said.splitlines()))
    return [f"{outcome.variant} {outcome.version}", *lines, ""]


def _table(outcomes: list[Outcome]) -> str:
    titles = ("VARIANT", "VERSION", *(step.upper() for step in STEPS))
    table = Table((*titles, "COUNTER", "VERDICT", "SECONDS"))
    for each in outcomes:
        table.add(
            each.variant,
            each.version,
            *(_cell(each, step) for step in STEPS),
            f"{each.before} to {each.after}",
            each.verdict,
            f"{each.seconds:.1f}",
        )
    return table.plain()


def _cell(outcome: Outcome, step: str) -> str:
    if step in outcome.failed:
        return "FAILED"
    return f"{outcome.passed[step]:.2f}" if step in outcome.passed else "-"


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
