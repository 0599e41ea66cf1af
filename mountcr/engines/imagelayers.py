# SPDX-License-Identifier: Apache-2.0
"""
Image layers of this host: the directories that engines keep them in, by DiffID and by chain id.

A DiffID is the digest of the uncompressed tar of a layer, so it means the same layer on every host.
A directory that holds all that lies below the layer too, as the driver vfs has it, is only known by
its chain id, which is that of the layer and all below it (OCI image-spec, config.md).
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from mountcr.errors import UsageError
from mountcr.paths import KPath, fsdecode, is_beneath
from mountcr.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mountcr.container import Container, Damage
    from mountcr.engines.roots import Roots

__all__ = [
    "Found",
    "ImageLayer",
    "LayerSurvey",
    "above",
    "base_of",
    "chain_ids",
    "identify",
    "identify_opened",
    "image_layers",
    "is_digest",
    "pile",
    "survey_layers",
]

_Find: TypeAlias = "Callable[[Roots, str], Iterable[Found]]"
"""Gives what is in each store of an engine, by the roots and the name of the engine."""

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class ImageLayer(Record, frozen=True, kw_only=True):
    """
    A layer of an image, in a directory of this host.

    `diff_id` is the digest of its uncompressed tar, `chain_id` that of it and all below, empty
    where one of those has none on record; both are `sha256:` and 64 digits. `path` has no symbolic
    link in it. `dialect` is that of the marks in it (`mountcr.rootfs.dialect`). `flat`: it holds
    all that lies below too, so that only `chain_id` tells what is in it. `mapped`: its files have
    other owners than the tar says, those of a user namespace. `provenance` says who told: a file
    and its field.
    """

    diff_id: str
    chain_id: str
    path: KPath
    dialect: str
    flat: bool
    engine: str
    provenance: str
    mapped: bool = False


class Found(NamedTuple):
    """Image layers of a store, and what of it could not be read."""

    layers: Sequence[ImageLayer]
    damages: Sequence[Damage] = ()


class LayerSurvey(NamedTuple):
    """Every image layer that is in a directory, each directory once, and damages by engine."""

    layers: tuple[ImageLayer, ...]
    damages: tuple[tuple[str, Damage], ...]


def is_digest(word: str) -> bool:
    """Tell whether a word is a digest of sha256, as DiffIDs and chain ids are."""
    return _DIGEST.fullmatch(word) is not None


def above(chain_id: str, diff_id: str) -> str:
    """Give the chain id of a layer on those that have one; of the lowest, below which is none."""
    if not chain_id:
        return diff_id
    return f"sha256:{hashlib.sha256(f'{chain_id} {diff_id}'.encode()).hexdigest()}"


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """Give the chain id of each layer of an image, of which the lowest comes first."""
    found: list[str] = []
    for diff_id in diff_ids:
        found.append(above(found[-1] if found else "", diff_id))
    return tuple(found)


def pile(layer: ImageLayer, layers: Iterable[ImageLayer]) -> tuple[ImageLayer, ...]:
    """
    Give a layer and all below it, the lowest first; empty where one of them is not among `layers`.

    Which one is below is told by the chain ids alone: with the DiffID above, its makes the other.
    """
    by_chain: dict[str, ImageLayer] = {}
    for each in layers:
        if each.chain_id:
            by_chain.setdefault(each.chain_id, each)
    found = [layer]
    while found[-1].chain_id != found[-1].diff_id:
        top = found[-1]
        below = next((c for c in by_chain if above(c, top.diff_id) == top.chain_id), None)
        if below is None:
            return ()
        found.append(by_chain[below])
    return tuple(reversed(found))


def identify(
    directories: Iterable[KPath], layers: Iterable[ImageLayer]
) -> tuple[ImageLayer | None, ...]:
    """
    Give the image layer that each of some directories is, None for one that is none.

    Paths are compared as they are spelled: those of `directories` must have no symbolic link in
    them. Where the store of an engine is mounted in two places, `identify_opened` knows.
    """
    by_path: dict[KPath, ImageLayer] = {}
    for layer in layers:
        by_path.setdefault(layer.path, layer)
    return tuple(by_path.get(each) for each in directories)


def identify_opened(
    directories: Iterable[KPath], layers: Iterable[ImageLayer]
) -> tuple[ImageLayer | None, ...]:
    """
    Give the image layer that each of some directories is, by device and inode.

    However a directory is spelled, and wherever it is mounted, it is the same. One that is not
    there is no layer.
    """
    by_inode: dict[tuple[int, int], ImageLayer] = {}
    for layer in layers:
        inode = _inode(layer.path)
        if inode:
            by_inode.setdefault(inode, layer)
    inodes = map(_inode, directories)
    return tuple(by_inode.get(each) if each else None for each in inodes)


def _inode(path: KPath) -> tuple[int, int] | None:
    try:
        found = os.stat(fsdecode(path))
    except OSError:
        return None
    return found.st_dev, found.st_ino


def image_layers(roots: Roots | None = None) -> tuple[ImageLayer, ...]:
    """Give the layers of `survey_layers`."""
    return survey_layers(roots).layers


def survey_layers(roots: Roots | None = None) -> LayerSurvey:
    """
    Give every image layer that an engine of this host has in a directory.

    Engines are asked where `mountcr.engines.survey` asks them for containers. What of their state
    is damaged is left out, and is a damage; a layer whose DiffID is not on record is left out, and
    so is one that is no directory, as those of devicemapper, composefs or EROFS. Nothing is locked,
    and the content of layers is not looked at.

    Raises UsageError when the roots name an engine that there is not.
    """
    from mountcr.engines.roots import Roots

    roots = roots or Roots.of_host()
    found: dict[KPath, ImageLayer] = {}
    damages: dict[tuple[str, Damage], None] = {}
    for engine, store in _asked(roots):
        for layer in store.layers:
            found.setdefault(layer.path, layer)
        for damage in store.damages:
            damages.setdefault((engine, damage))
    return LayerSurvey(tuple(found.values()), tuple(damages))


def base_of(
    container: Container, layers: Iterable[ImageLayer], roots: Roots | None = None
) -> ImageLayer | None:
    """
    Give the topmost layer of the image that a container is on, by the records of its engine.

    A stack of several directories tells it too; that of a driver which copies does not. Of several
    directories with the same layer it is one in the container's own store, if there is one. None
    where the engine keeps no images or does not tell, or where the layer is in no directory.
    `roots` are those that the container was found with.
    """
    from mountcr.engines.roots import Roots

    tell = _tellers().get(container.engine)
    chain = tell(container, roots or Roots.of_host()) if tell else ""
    found = [each for each in layers if chain and each.chain_id == chain]
    home = container.state_root
    own = (each for each in found if home and is_beneath(each.path, home))
    return next(own, next(iter(found), None))


def _tellers() -> Mapping[str, Callable[[Container, Roots], str]]:
    """Give who tells the chain id of the image that a container of an engine is on."""
    from mountcr.engines.containerd import images as containerd
    from mountcr.engines.docker import images as docker
    from mountcr.engines.storage import images as storage

    of_storage = dict.fromkeys(("podman", "crio", "buildah"), storage.base)
    return {"docker": docker.base, "containerd": containerd.base, **of_storage}


def _asked(roots: Roots) -> Iterator[tuple[str, Found]]:
    """Ask the engines that keep images, or the only one that shall be asked."""
    from mountcr.engines import engines

    known = [engine.name for engine in engines()]
    if roots.engine and roots.engine not in known:
        raise UsageError(
            f"no engine is called {roots.engine}", hint=f"engines are {', '.join(known)}"
        )
    for engine, find in _keepers(roots.engine).items():
        yield from ((engine, each) for each in find(roots, engine))


def _keepers(only: str) -> Mapping[str, _Find]:
    """
    Give who keeps images, by the name of the engine that the layers are said to be of.

    Those of containers/storage are of no one engine: they are podman's, unless CRI-O or buildah is
    the only one that is asked.
    """
    from mountcr.engines.containerd import images as containerd
    from mountcr.engines.docker import images as docker
    from mountcr.engines.storage import images as storage

    keepers: dict[str, _Find] = {
        "docker": docker.found,
        "containerd": containerd.found,
        "podman": storage.found,
    }
    if not only:
        return keepers
    keepers |= {"crio": storage.found, "buildah": storage.found}
    return {only: keepers[only]} if only in keepers else {}
