# SPDX-License-Identifier: Apache-2.0
"""
The commands and their options. Nothing here does anything: each names the function that does.

The modules behind the commands are imported when a command runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from mountcr.cli.options import (
    add_binds,
    add_cgroups,
    add_dry_run,
    add_engines,
    add_imported,
    add_key,
    add_network,
    add_reference,
    add_requests,
    add_rewriting,
    add_rootfs,
    add_tcp,
)
from mountcr.interrupts import held_back

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Subparsers = Any  # argparse keeps the type of what add_subparsers() gives to itself

__all__ = ["configure"]

_BUNDLE: Final = (
    "a bundle, - for stdin; or an OCI image layout with one, DIR, DIR:NAME or DIR@sha256:…"
)


def _later(name: str) -> Callable[[argparse.Namespace], int]:
    """
    Give a function that imports `mountcr.cli.NAME` and calls its `run`.

    Signals wait until the import is done: msgspec 0.22 loses an exception that comes while it
    imports datetime (`PyDateTime_IMPORT` without a check), and crashes later.
    """

    def run(arguments: argparse.Namespace) -> int:
        with held_back():
            module = importlib.import_module(f"mountcr.cli.{name}")
        status: int = module.run(arguments)
        return status

    return run


def _add(
    subparsers: Subparsers, name: str, text: str, *, document: bool = True
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    parser.set_defaults(run=_later(name.replace("-", "_")))
    if document:
        parser.add_argument("--json", action="store_true", help="print the document as JSON")
    return parser


def _ls(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "ls", "list the containers of every engine, running or not")
    parser.add_argument(
        "--size", action="store_true", help="say what each writable layer takes on disk"
    )
    add_engines(parser)


def _inspect(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "inspect", "say all that is recorded of a container, and by whom")
    add_reference(parser, metavar="REF|FILE|LAYOUT")
    add_key(parser)


def _plan(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "plan", "say what a dump and a restore would do, and change nothing")
    add_reference(parser, metavar="REF|FACTS|DIR")
    parser.add_argument(
        "--for", dest="purpose", choices=("dump", "restore"), default="dump", help="default: dump"
    )
    parser.add_argument(
        "--explain", action="store_true", help="say the fact behind every choice, and what is cured"
    )
    parser.add_argument(
        "--as",
        dest="dialect",
        choices=("argv", "legacy", "conf", "rpc-json"),
        help="print only what CRIU is told: as a command line, as one for CRIU 1.3 to 2, as a "
        "configuration file for a runtime (annotation org.criu.config), as JSON of criu_opts",
    )
    _add_choices(parser)


def _graph(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "graph", "show the mounts of a container and how they hang together")
    add_reference(parser, metavar="REF|FACTS|DIR")
    parser.add_argument(
        "--format",
        choices=("tree", "json", "dot", "svg", "html"),
        help="default: tree; svg needs Graphviz, html is one page with a picture and a table",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead of stdout")


def _files(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "files", "say what every open and mapped file really is")
    add_reference(parser, metavar="REF|FACTS|DIR|CAPTURE")
    parser.add_argument(
        "--quirks", action="store_true", help="only what the kernel shows otherwise than it is"
    )


def _facts(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "facts", "print all that can be observed of a container, as JSON")
    add_reference(parser, metavar="REF|FACTS|DIR|CAPTURE")


def _dump(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "dump", "plan, then have CRIU dump a container")
    add_reference(parser)
    parser.add_argument("--images", metavar="DIR", required=True, help="where the images go")
    parser.add_argument("--leave-running", action="store_true", help="let the container go on")
    parser.add_argument(
        "--fingerprint",
        choices=("none", "upper", "all"),
        default="upper",
        help="what is recorded for `verify`: the writable layer and which directories the others "
        "are, or the contents of all; default: upper",
    )
    add_tcp(parser)
    add_cgroups(parser)
    add_dry_run(parser)
    parser.set_defaults(takes_criu_options=True)


def _rebuild(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "rebuild", "mount the root file system of a container")
    add_reference(parser, metavar="DIR|REF|FILE")
    parser.add_argument("--at", metavar="DIR", required=True, help="where it is mounted")
    parser.add_argument(
        "--ro",
        action="store_true",
        help="read-only: no layer is written into; what is unpacked of a bundle goes at umount",
    )
    add_rootfs(parser)
    parser.add_argument("--id", metavar="NEW", help="the id that the container of a bundle gets")
    add_key(parser)
    add_dry_run(parser)


def _umount(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "umount", "undo a rebuild; what was written stays in its layer")
    parser.add_argument("at", metavar="DIR")


def _cleanup(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "cleanup", "remove what was left behind by a mountcr that was killed")
    add_dry_run(parser)


def _restore(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "restore", "verify, rebuild, have CRIU restore, compare the mounts")
    parser.add_argument("images", metavar="DIR|FILE|LAYOUT", help=f"images, or {_BUNDLE}")
    _add_choices(parser)
    parser.add_argument("--root", metavar="DIR", help="mount the root there on the host too")
    parser.add_argument(
        "--via",
        choices=("criu", "runtime", "engine"),
        default="criu",
        help="who restores: CRIU, the OCI runtime, or podman, containerd or Docker, which then "
        "knows the container; default: criu",
    )
    parser.add_argument(
        "--stdio",
        default="null",
        metavar="null|inherit|FILE",
        help="what becomes of standard streams that led to a runtime; default: null",
    )
    add_dry_run(parser)


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """Have what a restore can be told, and so a plan of one."""
    add_rootfs(parser)
    add_binds(parser)
    add_requests(parser)
    add_imported(parser)
    add_key(parser)
    add_network(parser)
    add_tcp(parser)
    add_cgroups(parser)
    parser.add_argument("--cgroup-root", metavar="PATH", help="put the control groups below PATH")
    parser.add_argument(
        "--allow-changed",
        action="store_true",
        help="restore although the content of open or mapped files has changed",
    )
    parser.set_defaults(takes_criu_options=True)


def _verify(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "verify", "say what is not as it was when a container was dumped")
    parser.add_argument("images", metavar="DIR|FILE|LAYOUT", help=f"images, or {_BUNDLE}")
    parser.add_argument(
        "--quick", action="store_true", help="compare no contents of layers, nor of memory"
    )
    add_key(parser)
    add_engines(parser)


def _export(subparsers: Subparsers) -> None:
    text = "dump a container into a bundle: one file that another host can restore"
    parser = _add(subparsers, "export", text)
    add_reference(parser, metavar="REF|DIR")
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the bundle, - for stdout; with a slash at its end a directory",
    )
    output.add_argument(
        "--oci",
        metavar="DIR",
        help="the bundle as an image in a new OCI image layout, which `skopeo copy oci:DIR …` "
        "takes to a registry",
    )
    parser.add_argument("--leave-running", action="store_true", help="let the container go on")
    parser.add_argument(
        "--layers",
        choices=("none", "missing", "all"),
        default="missing",
        help="lower layers that go along: those that no image has, by which the other host could "
        "find them, none or all; default: missing",
    )
    parser.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="DST|all",
        help="take along what lies on this mount from outside; can be given several times",
    )
    parser.add_argument(
        "--compress",
        default="zstd",
        metavar="HOW[:LEVEL]",
        help="none, gzip or zstd; default: zstd",
    )
    parser.add_argument("--sign", metavar="KEY", help="sign it with a secret key of minisign")
    add_tcp(parser)
    add_cgroups(parser)
    parser.set_defaults(takes_criu_options=True)


def _import(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "import", "put a bundle on this host, ready to be restored")
    parser.set_defaults(run=_later("import_"))
    parser.add_argument("bundle", metavar="FILE|LAYOUT", help=_BUNDLE)
    parser.add_argument(
        "--driver",
        metavar="D",
        help="the storage driver of the root: overlay, vfs, aufs, unionfs, fuse-overlayfs",
    )
    add_imported(parser)
    add_key(parser)
    add_engines(parser)


def _convert(subparsers: Subparsers) -> None:
    text = "write a layer in the marks of another file system, or an archive in another format"
    parser = _add(subparsers, "convert", text)
    parser.add_argument(
        "layer",
        metavar="LAYER|ARCHIVE",
        help="a directory, for oci a tar file; or a bundle, or a checkpoint of podman, CRI-O or "
        "containerd",
    )
    parser.add_argument("--from", dest="source", metavar="D", help="the dialect that a layer is in")
    parser.add_argument(
        "--to",
        dest="target",
        metavar="D|FORMAT",
        required=True,
        help="the dialect that a layer shall be in, or bundle, podman or cri-o for an archive",
    )
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="a new directory, for oci a tar file; a file for an archive, - for stdout",
    )
    output.add_argument(
        "--oci",
        metavar="DIR",
        help="an archive as an image in a new OCI image layout; one for podman is what `podman "
        "container restore IMAGE` takes",
    )
    parser.add_argument(
        "--lower",
        action="append",
        default=[],
        metavar="DIR",
        help="a layer below it, in the same dialect; top first",
    )
    parser.add_argument(
        "--data", action="append", default=[], metavar="DIR", help="a data-only layer of overlay"
    )
    parser.add_argument(
        "--layers",
        choices=("none", "missing", "all"),
        default="missing",
        help="which lower layers a bundle gets, as `export --layers` has it; default: missing",
    )
    parser.add_argument(
        "--compress",
        metavar="HOW[:LEVEL]",
        help="how an archive is packed: none, gzip or zstd; default: zstd, none for cri-o",
    )
    add_key(parser)
    add_engines(parser)


def _images(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "images", "show the mounts, files and tasks in CRIU's images")
    parser.add_argument("images", metavar="DIR", help="images of any CRIU")
    add_rewriting(parser, "--map", "OLD=NEW", "look for files below OLD below NEW when restored")
    add_rewriting(
        parser,
        "--map-cgroup",
        "[CONTROLLER:]OLD=NEW",
        "put control groups below OLD below NEW, of the hierarchy with CONTROLLER or of all",
    )
    add_rewriting(
        parser, "--unchecked", "PATH", "have CRIU take PATH whatever its size, mode and build-id"
    )
    add_rewriting(
        parser,
        "--name-external",
        "MOUNTPOINT=KEY",
        "give a mount that CRIU detected (`mnt[]`) a key, for `--external mnt[KEY]:SOURCE`",
    )
    add_rewriting(
        parser,
        "--external-overlay",
        "MOUNTPOINT=KEY",
        "have an overlay in the container given to CRIU, by that key, instead of made by it",
    )
    add_dry_run(parser)
    parser.set_defaults(operations=[])


def _docker_cr(subparsers: Subparsers) -> None:
    text = "checkpoint or restore a container of Docker, called as docker_cr.sh is"
    parser = _add(subparsers, "docker-cr", text, document=False)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("-c", "--checkpoint", action="store_true", help="checkpoint the container")
    action.add_argument("-r", "--restore", action="store_true", help="restore the container")
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="say what is planned too and, on failure, what CRIU's log says",
    )
    parser.add_argument("--runroot", metavar="DIR", help="Docker's exec root, if not /run/docker")
    add_rootfs(parser)
    add_binds(parser)
    parser.add_argument(
        "--allow-changed",
        action="store_true",
        help="restore although the content of open or mapped files has changed",
    )
    parser.add_argument("container", nargs="?", metavar="ID", help="asked for when it is not given")
    parser.set_defaults(takes_criu_options=True)
    parser.epilog = (
        "Variables: DOCKER_HOME (default /var/lib/docker); CRIU_IMG_DIR ($DOCKER_HOME/criu_img), "
        "which has a directory for each container, with restore.pid when it was restored; "
        "CRIU_BINARY; DOCKERINIT_BINARY, the file below $DOCKER_HOME/init that is /.dockerinit, "
        "for Docker before 1.11. DOCKER_BINARY is not needed: Docker is not asked."
    )


def _doctor(subparsers: Subparsers) -> None:
    _add(
        subparsers,
        "doctor",
        "try whether a dump and a restore can work on this host, and with which drivers",
    )


def _compat(subparsers: Subparsers) -> None:
    text = "say what a container that is dumped on one host can lose or fail on on another one"
    parser = _add(subparsers, "compat", text)
    for option, name, where in (("--from", "source", "here"), ("--to", "target", "there")):
        parser.add_argument(
            option,
            dest=name,
            metavar="FILE|DIR",
            required=True,
            help=f"what `mountcr doctor --json` printed {where}, images or facts",
        )


def _demo(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "demo", "dump, take apart, rebuild and restore a small container")
    parser.add_argument(
        "--driver",
        choices=("overlay", "vfs", "unionfs", "fuse-overlayfs"),
        default="overlay",
        help="that the root comes back on; default: overlay",
    )


def _completion(subparsers: Subparsers) -> None:
    text = "print a script with which a shell completes commands, options and references"
    parser = _add(subparsers, "completion", text, document=False)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def _schema(subparsers: Subparsers) -> None:
    parser = _add(subparsers, "schema", "print the JSON Schema of a document")
    parser.add_argument("document", metavar="DOCUMENT", help="plan, facts, graph, manifest, …")


_COMMANDS: Final = {
    add.__name__.strip("_").replace("_", "-"): add
    for add in (
        _ls,
        _inspect,
        _plan,
        _graph,
        _files,
        _facts,
        _dump,
        _rebuild,
        _umount,
        _cleanup,
        _restore,
        _export,
        _import,
        _verify,
        _convert,
        _images,
        _docker_cr,
        _doctor,
        _compat,
        _demo,
        _completion,
        _schema,
    )
}


def configure(subparsers: Subparsers, word: str = "") -> None:
    """Add every command, or only the one that is called by a word: each takes its time."""
    for add in (_COMMANDS[word],) if word in _COMMANDS else _COMMANDS.values():
        add(subparsers)
