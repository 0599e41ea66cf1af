# SPDX-License-Identifier: Apache-2.0
"""
`storage.conf` and `containers.conf`: where they lie, which one counts, and what they say.

Of `storage.conf` one file counts: the one of $CONTAINERS_STORAGE_CONF, else the user's, else the
one in /etc, else the one in /usr/share; the files of `storage.conf.d` in /etc are read on top of
it, unless a variable named it (containers/storage types/options.go, containers-storage.conf(5)).
Of `containers.conf` all count, the later ones more, unless $CONTAINERS_CONF names one
(containers.conf(5)). A file that is damaged is a damage, and counts as if it were empty.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from mountcr.container import Damage
from mountcr.engines.reading import names_in
from mountcr.paths import encode
from mountcr.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Files", "StoragePlace", "settings"]

T = TypeVar("T")

_PROGRAM: Final = "mount_program"
_IMAGES: Final = frozenset({"imagestore", "additionalimagestore", "additionalimagestores"})
_LAYERS: Final = frozenset({"additionallayerstore", "additionallayerstores"})


class Files(Record, frozen=True, kw_only=True):
    """Where the configuration of the system and of a user lies; `home` is that of the user."""

    share: str = "/usr/share/containers"
    etc: str = "/etc/containers"
    user: int = 0
    home: str = ""

    @classmethod
    def of_host(cls, environ: Mapping[str, str]) -> Files:
        """Give the places of this host, for whoever this process belongs to."""
        return cls(user=os.geteuid(), home=environ.get("HOME", ""))


class StoragePlace(Record, frozen=True, kw_only=True):
    """
    One instance of containers/storage, by paths of this process.

    The roots are empty where they are not known. `image_stores` are other graph roots that layers
    are read from, `layer_stores` directories that the `diff` of a layer may be a link to.
    `static_dir` and `volume_path` are podman's, empty where they are below the graph root. `told`
    is the configuration file that counts; `damages` are those of the files.
    """

    graph_root: str = ""
    run_root: str = ""
    image_stores: tuple[str, ...] = ()
    layer_stores: tuple[str, ...] = ()
    mount_program: str = ""
    transient: bool = False
    static_dir: str = ""
    volume_path: str = ""
    told: str = ""
    damages: tuple[Damage, ...] = ()

    @property
    def readable(self) -> tuple[str, ...]:
        """Give the directories below which anything may be read."""
        every = (self.graph_root, self.run_root, self.static_dir, *self.image_stores)
        return tuple(each for each in every if each)


class _Overlay(msgspec.Struct, frozen=True):
    mount_program: str = ""


class _Options(msgspec.Struct, frozen=True):
    additionalimagestores: tuple[str, ...] = ()
    additionallayerstores: tuple[str, ...] = ()
    mount_program: str = ""
    overlay: _Overlay = _Overlay()


class _Storage(msgspec.Struct, frozen=True):
    graphroot: str = ""
    runroot: str = ""
    imagestore: str = ""
    rootless_storage_path: str = ""
    transient_store: bool = False
    options: _Options = _Options()


class _StorageConf(msgspec.Struct, frozen=True):
    storage: _Storage = _Storage()


class _Engine(msgspec.Struct, frozen=True):
    static_dir: str = ""
    volume_path: str = ""


class _ContainersConf(msgspec.Struct, frozen=True):
    engine: _Engine = _Engine()


def settings(files: Files, environ: Mapping[str, str]) -> StoragePlace:
    """Read the configuration, which may not name the roots; nothing is raised."""
    damages: list[Damage] = []
    storage, told = _storage(files, environ, damages)
    given = _options(environ.get("STORAGE_OPTS", ""))
    options = storage.options
    engine = _Engine()
    for file in _containers_confs(files, environ):
        found = _read(file, _ContainersConf, damages).engine
        engine = _Engine(
            static_dir=found.static_dir or engine.static_dir,
            volume_path=found.volume_path or engine.volume_path,
        )
    images = (storage.imagestore, *options.additionalimagestores, *given["images"])
    layers = (*options.additionallayerstores, *given["layers"])
    program = (*given["program"], options.overlay.mount_program, options.mount_program)
    rootless = (files.user and storage.rootless_storage_path) or ""
    return StoragePlace(
        graph_root=_expanded(storage.graphroot or rootless, files, environ),
        run_root=_expanded(storage.runroot, files, environ),
        image_stores=tuple(os.path.normpath(each) for each in images if each),
        layer_stores=tuple(os.path.normpath(each.partition(":")[0]) for each in layers if each),
        mount_program=next((each for each in program if each), ""),
        transient=storage.transient_store,
        static_dir=_expanded(engine.static_dir, files, environ),
        volume_path=_expanded(engine.volume_path, files, environ),
        told=told,
        damages=tuple(damages),
    )


def _storage(
    files: Files, environ: Mapping[str, str], damages: list[Damage]
) -> tuple[_Storage, str]:
    """Give the storage.conf that counts, with what is read on top of it, and its path."""
    named = environ.get("CONTAINERS_STORAGE_CONF", "")
    candidates = [named] if named else [*_storage_confs(files, environ)]
    file = next((each for each in candidates if os.path.exists(each)), named)
    found = _read(file, _StorageConf, damages).storage if file else _Storage()
    if files.user and not named and file != candidates[0]:
        # The roots of the system are not those of its users.
        found = msgspec.structs.replace(found, graphroot="", runroot="")
    for extra in () if named else _drop_ins(f"{files.etc}/storage.conf.d"):
        found = _over(found, _read(extra, _StorageConf, damages).storage)
    return found, file


def _storage_confs(files: Files, environ: Mapping[str, str]) -> Iterator[str]:
    """Give where the storage.conf may be that counts, the user's first."""
    if files.user:
        yield f"{_user_configuration(files, environ)}/storage.conf"
    elif environ.get("XDG_CONFIG_HOME"):
        yield f"{environ['XDG_CONFIG_HOME']}/containers/storage.conf"
    yield f"{files.etc}/storage.conf"
    yield f"{files.share}/storage.conf"


def _containers_confs(files: Files, environ: Mapping[str, str]) -> Iterator[str]:
    """Give every containers.conf that there is, the most important last."""
    named = environ.get("CONTAINERS_CONF", "")
    every = [named] if named else [*_usual_containers_confs(files, environ)]
    yield from (each for each in every if os.path.exists(each) or each == named)


def _usual_containers_confs(files: Files, environ: Mapping[str, str]) -> Iterator[str]:
    bases = [files.share, files.etc]
    if files.user:
        bases.append(_user_configuration(files, environ))
    for base in bases:
        yield f"{base}/containers.conf"
        yield from _drop_ins(f"{base}/containers.conf.d")


def _user_configuration(files: Files, environ: Mapping[str, str]) -> str:
    return f"{environ.get('XDG_CONFIG_HOME') or f'{files.home}/.config'}/containers"


def _drop_ins(directory: str) -> list[str]:
    return [f"{directory}/{name}" for name in names_in(directory) if name.endswith(".conf")]


def _over(below: _Storage, above: _Storage) -> _Storage:
    """Put what one file says over another."""
    options = _Options(
        additionalimagestores=above.options.additionalimagestores
        or below.options.additionalimagestores,
        additionallayerstores=above.options.additionallayerstores
        or below.options.additionallayerstores,
        mount_program=above.options.mount_program or below.options.mount_program,
        overlay=_Overlay(
            above.options.overlay.mount_program or below.options.overlay.mount_program
        ),
    )
    return _Storage(
        graphroot=above.graphroot or below.graphroot,
        runroot=above.runroot or below.runroot,
        imagestore=above.imagestore or below.imagestore,
        rootless_storage_path=above.rootless_storage_path or below.rootless_storage_path,
        transient_store=above.transient_store or below.transient_store,
        options=options,
    )


def _options(text: str) -> dict[str, list[str]]:
    """Take $STORAGE_OPTS apart: `overlay.mount_program=…,overlay.imagestore=…`."""
    found: dict[str, list[str]] = {"images": [], "layers": [], "program": []}
    for option in text.split(","):
        key, _, value = option.partition("=")
        name = key.strip().rpartition(".")[2]
        if name in _IMAGES:
            found["images"].append(value)
        elif name in _LAYERS:
            found["layers"].append(value)
        elif name == _PROGRAM:
            found["program"].append(value)
    return found


def _expanded(path: str, files: Files, environ: Mapping[str, str]) -> str:
    """Put the user in for $HOME and $UID, as containers/storage does (`expandEnvPath()`)."""
    known = {"HOME": files.home, "UID": str(files.user)} | dict(environ)
    for name in ("HOME", "UID", "USER", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
        value = known.get(name, "")
        path = path.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return os.path.normpath(path) if path else ""


def _read(file: str, kind: type[T], damages: list[Damage]) -> T:
    """Read a file of TOML; one that is damaged is as if it were empty."""
    import tomllib

    try:
        with open(file, "rb") as opened:
            return msgspec.convert(tomllib.load(opened), kind)
    except OSError as error:
        what, field = error.strerror or "cannot be read", ""
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$")
        field = place.rstrip("`").lstrip(".")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        what, field = f"no TOML: {error}", ""
    damages.append(Damage(file=encode(file), field=field, what=what))
    return kind()
