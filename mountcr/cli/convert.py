# SPDX-License-Identifier: Apache-2.0
"""`mountcr convert`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.bundle.foreign import Format
from mountcr.cli.inputs import absolute, check_of, roots_of
from mountcr.cli.output import note, print_document, talk
from mountcr.cli.progress import shown_progress
from mountcr.compression import parse_level
from mountcr.errors import UsageError
from mountcr.operations.convert import convert
from mountcr.operations.exporting import ExportChoices
from mountcr.operations.foreign_export import TARGETS, to_foreign
from mountcr.operations.foreign_import import BUNDLE, to_bundle
from mountcr.planning.bundling import LayerMode
from mountcr.render.text import printable

if TYPE_CHECKING:
    import argparse

    from mountcr.operations.foreign_import import ConvertedArchive

__all__ = ["run"]

_ARCHIVES: Final = frozenset({BUNDLE, *TARGETS})
"""What is no dialect of layers but a format of archives."""


def run(arguments: argparse.Namespace) -> int:
    """Write a layer in another dialect, or an archive in another format."""
    if arguments.target in _ARCHIVES:
        return _convert_archive(arguments)
    if arguments.source is None:
        msg = "--from is missing: the dialect that the layer is in"
        raise UsageError(msg, hint=f"archives go without it, --to {', '.join(sorted(_ARCHIVES))}")
    if arguments.oci:
        msg = f"--oci is about an archive: --to {arguments.target} is not"
        raise UsageError(msg, hint="write the layer with -o")
    with shown_progress("converting") as progress:
        result = convert(
            absolute(arguments.layer),
            absolute(arguments.output),
            source=arguments.source,
            target=arguments.target,
            lowers=tuple(map(absolute, arguments.lower)),
            data=tuple(map(absolute, arguments.data)),
            progress=progress,
        )
    for path in result.left_out:
        talk(f"note: {path} is left out: a socket")
    if arguments.json:
        print_document(result)
    else:
        print(
            f"{result.output}: {result.files} files, {result.bytes} bytes, "
            f"{result.removed} removed, {result.opaque} opaque, {result.seconds:.2f} s"
        )
    return 0


def _convert_archive(arguments: argparse.Namespace) -> int:
    if arguments.source or arguments.lower or arguments.data:
        msg = f"--to {arguments.target} is about an archive: --from, --lower and --data are not"
        raise UsageError(msg, hint="an archive is told by what is in it")
    result = _converted(arguments)
    for line in result.told():
        note(line)
    if arguments.json:
        print_document(result)
    else:
        line = f"{result.output}: {result.bytes} bytes, {result.seconds:.2f} s"
        print(printable(f"{line}, image {result.image}" if result.image else line))
    return 0


def _converted(arguments: argparse.Namespace) -> ConvertedArchive:
    level = parse_level(arguments.compress) if arguments.compress else None
    roots = roots_of(arguments)
    output, oci = arguments.oci or arguments.output, bool(arguments.oci)
    if arguments.target == BUNDLE:
        wanted = ExportChoices(output=output, oci=oci, layers=LayerMode(arguments.layers))
        if level is not None:
            wanted = ExportChoices(
                output=output,
                oci=oci,
                layers=LayerMode(arguments.layers),
                compression=level.compression,
                level=level.number,
            )
        return to_bundle(arguments.layer, wanted, roots=roots)
    return to_foreign(
        arguments.layer,
        Format(arguments.target),
        output,
        oci=oci,
        level=level,
        roots=roots,
        check=check_of(arguments),
    )
