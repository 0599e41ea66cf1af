# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have: references, drivers, sources of mounts, bundles."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import argparse

__all__ = [
    "add_binds",
    "add_cgroups",
    "add_dry_run",
    "add_engines",
    "add_imported",
    "add_key",
    "add_network",
    "add_reference",
    "add_requests",
    "add_rewriting",
    "add_rootfs",
    "add_tcp",
]

_MODES: Final = ("none", "props", "soft", "full", "strict", "ignore")


def add_reference(
    parser: argparse.ArgumentParser, name: str = "reference", metavar: str = "REF"
) -> None:
    """Add a reference, and where engines look for it."""
    given = parser.add_argument(name, metavar=metavar)
    vars(given)["completer"] = _references
    add_engines(parser)


def _references(prefix: str, **given: Any) -> list[str]:
    """Complete a reference; argcomplete calls it, when a shell asks."""
    completion = importlib.import_module("mountcr.cli.completion")
    found: list[str] = completion.references(prefix, **given)
    return found


def add_engines(parser: argparse.ArgumentParser) -> None:
    """Add where engines look."""
    parser.add_argument(
        "--engine", metavar="E", help="ask only this engine, as `E:REF` does: docker, podman, …"
    )
    parser.add_argument(
        "--root",
        dest="engine_root",
        action="append",
        metavar="DIR",
        help="the data root of an engine, instead of the usual ones: /var/lib/docker, …; can be "
        "given several times",
    )
    parser.add_argument(
        "--runroot",
        action="append",
        metavar="DIR",
        help="the state or exec root that belongs to the --root of the same place",
    )
    parser.add_argument("--namespace", metavar="NS", help="only this namespace of containerd")
    parser.add_argument(
        "--runtime-root",
        action="append",
        default=[],
        metavar="DIR",
        help="a state directory of runc, crun or youki to look in first (also: "
        "$MOUNTCR_RUNTIME_ROOT)",
    )


def add_rootfs(parser: argparse.ArgumentParser) -> None:
    """Add how the root file system comes back."""
    parser.add_argument(
        "--driver",
        metavar="D",
        help="the storage driver of the root: overlay, vfs, aufs, unionfs, fuse-overlayfs",
    )
    parser.add_argument("--upper", metavar="DIR", help="a new directory for the writable layer")


def add_binds(parser: argparse.ArgumentParser) -> None:
    """Add where external mounts come from."""
    parser.add_argument(
        "--bind",
        action="append",
        default=[],
        metavar="DST=SRC",
        help="where an external mount comes from on this host",
    )


def add_requests(parser: argparse.ArgumentParser) -> None:
    """Add what answers the requests of a bundle for paths of this host."""
    parser.add_argument(
        "--allow-bind",
        action="append",
        default=[],
        metavar="DIR",
        help="let a bundle have mounts from the paths below DIR that it names",
    )
    parser.add_argument(
        "--create-missing",
        action="store_true",
        help="give a mount of a bundle something empty where nothing is given for it",
    )


def add_imported(parser: argparse.ArgumentParser) -> None:
    """Add what says how a bundle is put on this host."""
    parser.add_argument("--id", metavar="NEW", help="the id that the container of a bundle gets")
    parser.add_argument(
        "--into", metavar="DIR", help="a new directory for a bundle, instead of one of its id"
    )


def add_key(parser: argparse.ArgumentParser) -> None:
    """Add the key that a bundle must be signed with."""
    parser.add_argument(
        "--key",
        metavar="PUBKEY",
        help="a public key of minisign, or its file, that a bundle must be signed with",
    )


def add_tcp(parser: argparse.ArgumentParser) -> None:
    """Have the options for TCP connections."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--tcp-established",
        dest="tcp",
        action="store_const",
        const="established",
        help="keep TCP connections; they go on where their addresses are",
    )
    group.add_argument(
        "--tcp-close",
        dest="tcp",
        action="store_const",
        const="close",
        help="close TCP connections",
    )


def add_network(parser: argparse.ArgumentParser) -> None:
    """Have the options for the network namespace of a restore."""
    parser.add_argument(
        "--net",
        metavar="recorded|host|none|PATH",
        help="the network namespace that the tasks come into: one as it was recorded, with veths, "
        "addresses and routes, that of the host, one with loopback only, or the one at PATH; "
        "default: recorded",
    )
    parser.add_argument(
        "--bridge",
        action="append",
        default=[],
        metavar="[OLD=]NEW",
        help="the bridge that the other ends of veths go into, instead of the recorded one; "
        "what comes from elsewhere goes into none that is not named",
    )


def add_cgroups(parser: argparse.ArgumentParser) -> None:
    """Add what CRIU does with control groups."""
    parser.add_argument(
        "--manage-cgroups-mode",
        choices=_MODES,
        metavar="MODE",
        help=f"what CRIU does with control groups: {', '.join(_MODES)}; the plan says the default",
    )


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add the option that changes nothing."""
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="say what would be done, and do nothing"
    )


def add_rewriting(parser: argparse.ArgumentParser, option: str, metavar: str, text: str) -> None:
    """Add an option that rewrites images; all are done in the order in which they are given."""
    parser.add_argument(
        option,
        dest="operations",
        action="append",
        type=lambda word: (option, word),
        metavar=metavar,
        help=text,
    )
