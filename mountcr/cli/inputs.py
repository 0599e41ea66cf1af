# SPDX-License-Identifier: Apache-2.0
"""What the words of a command line mean: references, facts files, images, binds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import manifest as manifests
from mountcr.bundle.names import is_archive
from mountcr.criu.options import CgroupMode
from mountcr.documents import DocumentKind, read_document
from mountcr.engines import Roots, find
from mountcr.errors import UsageError, VerificationError
from mountcr.model import FACTS_SCHEMA, Facts
from mountcr.observation import observe
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices, Tcp
from mountcr.planning.network import HOST, NONE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from mountcr.bundle.reader import Reader
    from mountcr.model import Container
    from mountcr.operations.importing import ImportChoices

__all__ = [
    "absolute",
    "archive_choices",
    "check_of",
    "choices_of",
    "container_of",
    "facts_of",
    "is_foreign",
    "is_images",
    "read_facts",
    "roots_of",
    "without_driver",
]

_FACTS: Final = DocumentKind(
    FACTS_SCHEMA,
    "facts file",
    damaged="write one with `mountcr facts REF`",
    newer="write it with `mountcr facts REF` of this version",
    other="write one with `mountcr facts REF`",
)


def absolute(path: str) -> KPath:
    """Give a path of the command line as an absolute one, without following links."""
    return encode(os.path.abspath(path))


def is_images(path: str) -> bool:
    """Tell whether a word names a directory that a dump was written into."""
    return os.path.exists(os.path.join(path, manifests.MANIFEST))


def is_foreign(path: str) -> bool:
    """
    Tell whether a word names an archive of another tool: one that does not begin as a bundle does.

    Raises RefusedError for one that breaks a rule.
    """
    if not is_archive(path):
        return False
    from mountcr.bundle.reader import is_bundle  # what most commands have no use for

    return not is_bundle(path)


def archive_choices(arguments: argparse.Namespace) -> ImportChoices:
    """Gather how a bundle shall be put on this host."""
    from mountcr.operations.importing import ImportChoices

    given = vars(arguments)
    at = given.get("into")
    return ImportChoices(
        id=given.get("id") or "",
        driver=given.get("driver") or "",
        at=absolute(at) if at else None,
    )


def without_driver(choices: Choices) -> Choices:
    """Give choices for a bundle, whose layers are written for the driver when it is imported."""
    return msgspec.structs.replace(choices, driver=None)


def check_of(arguments: argparse.Namespace) -> Callable[[Reader], None]:
    """Give what sees that a bundle is signed with the key that was named, if one was."""
    key: str | None = vars(arguments).get("key")

    def check(reader: Reader) -> None:
        if key is None:
            return
        from mountcr.bundle.signature import read_public_key, verify

        public = read_public_key(key)
        if reader.signature is None:
            msg = f"{reader.shown} is not signed"
            raise VerificationError(msg, [msg], hint="export it with --sign, or leave out --key")
        verify(reader.text, reader.signature, public)

    return check


def roots_of(arguments: argparse.Namespace) -> Roots:
    """Say where engines shall look, by the options of a command; all of them may be missing."""
    given = vars(arguments)
    data, run = given.get("engine_root") or (), given.get("runroot") or ()
    if len(run) > len(data):
        msg = f"--runroot {run[len(data)]} belongs to no --root"
        raise UsageError(msg, hint="name the data root that it belongs to, in the same order")
    return Roots.of_host(
        given.get("runtime_root") or (),
        data=data,
        run=run,
        engine=given.get("engine") or "",
        namespace=given.get("namespace") or "",
    )


def container_of(arguments: argparse.Namespace) -> Container:
    """Find the container that a command is about."""
    return find(arguments.reference, roots=roots_of(arguments))


def facts_of(arguments: argparse.Namespace, *, thorough: bool = False) -> Facts:
    """
    Give facts: from a file that holds some, from images or a capture, or by observing a container.

    With `thorough`, the files of a container are looked up in all layers.
    """
    reference: str = arguments.reference
    if is_foreign(reference):
        from mountcr.operations.unpacking import foreign_facts

        return foreign_facts(reference)
    if is_archive(reference):
        from mountcr.bundle.reader import opened  # what most commands have no use for

        with opened(reference) as reader:
            return reader.bundle.dump.facts
    if os.path.isfile(reference):
        return read_facts(reference)
    if is_images(reference):
        return manifests.read(absolute(reference)).facts
    if os.path.isdir(os.path.join(reference, "proc")):
        from mountcr.observation.capture import is_capture, read_capture

        if is_capture(reference):
            return read_capture(reference)
    return observe(container_of(arguments), thorough=thorough)


def read_facts(path: str) -> Facts:
    """Read a facts file. Raises DocumentError naming the file and what is wrong in it."""
    with open(path, "rb") as file:
        return read_document(file.read(), Facts, _FACTS, encode(path))


def choices_of(arguments: argparse.Namespace) -> Choices:
    """Gather what the user chose; options that a command does not have count as not given."""
    given = vars(arguments)
    upper, mode = given.get("upper"), given.get("manage_cgroups_mode")
    root_at, images = given.get("root"), given.get("images")
    group = given.get("cgroup_root")
    defaults = Choices()
    return Choices(
        images=absolute(images) if images else defaults.images,
        driver=given.get("driver"),
        upper=absolute(upper) if upper else None,
        readonly=bool(given.get("ro")),
        binds=dict(map(_bind, given.get("bind", ()))),
        root_at=absolute(root_at) if root_at else None,
        cgroups=CgroupMode(mode) if mode else None,
        cgroup_root=encode(group) if group else None,
        leave_running=bool(given.get("leave_running")),
        net=_net(given.get("net")),
        bridges=dict(map(_bridge, given.get("bridge") or ())),
        tcp=Tcp(given["tcp"]) if given.get("tcp") else None,
        allow_changed=bool(given.get("allow_changed")),
        allowed=tuple(map(absolute, given.get("allow_bind") or ())),
        create_missing=bool(given.get("create_missing")),
        extra=tuple(map(_text, arguments.criu_options)),
    )


def _text(word: str) -> str:
    """Refuse a word that a plan or a manifest, which are JSON, could not hold."""
    try:
        word.encode()
    except UnicodeEncodeError:
        msg = f"{encode(word)} is not UTF-8"
        raise UsageError(msg, hint="options for CRIU are text") from None
    return word


def _net(word: str | None) -> str | None:
    """Give the network that was chosen; None for the recorded one."""
    if word is None or word == "recorded":
        return None
    return word if word in {HOST, NONE} else absolute(word)


def _bridge(word: str) -> tuple[str, str]:
    """Give a recorded bridge, empty for any, and the one that stands for it."""
    old, equals, new = word.partition("=")
    if not (new if equals else old) or (equals and not old):
        msg = f"--bridge {word}: neither NAME nor OLD=NEW"
        raise UsageError(msg, hint="--bridge br0, or --bridge cni0=br0")
    return (_text(old), _text(new)) if equals else ("", _text(old))


def _bind(word: str) -> tuple[KPath, KPath]:
    destination, equals, source = word.partition("=")
    if not equals or not source or not destination.startswith("/"):
        msg = f"--bind {word}: not DST=SRC with an absolute DST"
        raise UsageError(msg, hint="--bind /etc/hosts=/srv/hosts")
    return encode(os.path.normpath(destination)), absolute(source)
