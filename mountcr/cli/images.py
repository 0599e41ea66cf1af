# SPDX-License-Identifier: Apache-2.0
"""`mountcr images`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mountcr.cli.inputs import absolute
from mountcr.cli.output import print_document, print_outline, talk
from mountcr.criu.rewriting import (
    CgroupMap,
    ExternalOverlay,
    NamedExternal,
    Operation,
    PathMap,
    Unchecked,
)
from mountcr.errors import UsageError
from mountcr.operations.images import change_images, show_images
from mountcr.paths import KPath, encode
from mountcr.render.images import outline_changes, outline_images

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print what images say, or what was changed in them."""
    directory = absolute(arguments.images)
    operations = [_operation(option, word) for option, word in arguments.operations]
    if operations:
        result = change_images(directory, operations, dry_run=arguments.dry_run)
    else:
        result = show_images(directory)
    if arguments.json:
        print_document(result)
    elif operations:
        print_outline(outline_changes(result, dry_run=arguments.dry_run))
    else:
        print_outline(outline_images(result))
    for note in result.notes:
        talk(f"note: {note}")
    return 0


def _operation(option: str, word: str) -> Operation:
    """Give what an option asks for."""
    because = f"asked for with {option} {encode(word)}"
    match option:
        case "--map":
            old, new = _pair(option, word, "/srv/data=/mnt/data")
            return PathMap(because=because, old=_path(old), new=_path(new))
        case "--map-cgroup":
            groups, controller = word, None
            if not word.startswith("/"):
                controller, _, groups = word.partition(":")
            old, new = _pair(option, groups, "/docker/web=/lxc/web")
            return CgroupMap(because=because, old=_path(old), new=_path(new), controller=controller)
        case "--unchecked":
            return Unchecked(because=because, path=_path(word))
        case _:
            mountpoint, key = _pair(option, word, "/etc/hosts=hosts")
            kind = ExternalOverlay if option == "--external-overlay" else NamedExternal
            return kind(because=because, mountpoint=_path(mountpoint), key=encode(key))


def _pair(option: str, word: str, example: str) -> tuple[str, str]:
    first, equals, second = word.partition("=")
    if not equals or not second or not first.startswith("/"):
        msg = f"{option} {encode(word)}: no absolute path, `=` and what it becomes"
        raise UsageError(msg, hint=f"{option} {example}")
    return first, second


def _path(word: str) -> KPath:
    """Spell a path of the container, which is none of ours, in its shortest form."""
    if not word.startswith("/"):
        raise UsageError(f"{encode(word)} is no absolute path", hint="begin it with /")
    return encode("/" + os.path.normpath(word).lstrip("/"))
