# SPDX-License-Identifier: Apache-2.0
"""`mountcr export`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mountcr.bundle.names import STANDARD
from mountcr.cli.inputs import absolute, choices_of, container_of, is_images, roots_of
from mountcr.cli.output import print_document, talk
from mountcr.cli.password import key_password
from mountcr.cli.progress import shown_progress
from mountcr.compression import parse_level
from mountcr.errors import UsageError
from mountcr.operations.exporting import ExportChoices, export_container, export_images
from mountcr.planning.bundling import ALL_VOLUMES, LayerMode
from mountcr.render.text import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from mountcr.operations.exporting import ExportResult

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Write a bundle; what is said of it goes to stderr where the bundle goes to stdout."""
    wanted = _wanted(arguments)
    sign = _signing(arguments.sign) if arguments.sign else None
    with shown_progress("exporting") as progress:
        if is_images(arguments.reference):
            result = export_images(
                absolute(arguments.reference),
                wanted,
                roots=roots_of(arguments),
                sign=sign,
                progress=progress,
            )
        else:
            result = export_container(
                container_of(arguments),
                choices_of(arguments),
                wanted,
                roots=roots_of(arguments),
                sign=sign,
                progress=progress,
                tell=talk,
            )
    _say(arguments, result)
    return 0


def _wanted(arguments: argparse.Namespace) -> ExportChoices:
    if arguments.output == STANDARD and arguments.json:
        msg = "--json and -o - exclude each other: both go to stdout"
        raise UsageError(msg, hint="write the bundle into a file")
    if arguments.output == STANDARD and sys.stdout.isatty():
        raise UsageError("a bundle is nothing for a terminal", hint="-o FILE, or a pipe")
    level = parse_level(arguments.compress)
    volumes = [each for each in arguments.volume if each != ALL_VOLUMES]
    return ExportChoices(
        output=arguments.oci or arguments.output,
        oci=bool(arguments.oci),
        compression=level.compression,
        level=level.number,
        layers=LayerMode(arguments.layers),
        volumes=tuple(map(absolute, volumes)),
        all_volumes=len(volumes) < len(arguments.volume),
    )


def _signing(path: str) -> Callable[[bytes], bytes]:
    """Give what signs with a secret key; the password is asked for at once, if there is one."""
    from mountcr.bundle import signature

    key = signature.read_secret_key(absolute(path), key_password)
    return lambda text: signature.sign(text, key, comment="a bundle of mountcr")


def _say(arguments: argparse.Namespace, result: ExportResult) -> None:
    for each in result.left_out:
        talk(printable(f"note: the socket {each} is not in it: its server binds it again"))
    if arguments.json:
        print_document(result)
        return
    frozen = f", frozen {result.seconds.frozen:.2f} s" if result.seconds.frozen else ""
    line = (
        f"exported {result.bytes} bytes with {result.layers[0]} of {result.layers[1]} lower layers "
        f"in {result.seconds.total:.2f} s{frozen}: {result.digest}"
    )
    if result.image:
        line = f"{line}, image {result.image}"
    if result.output == STANDARD:
        talk(line)
    else:
        print(line)
