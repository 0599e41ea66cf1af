# SPDX-License-Identifier: Apache-2.0
"""Where containers/storage is looked for: what was named, and which configuration counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mountcr.engines import Place, Roots
from mountcr.engines.storage.configuration import Files, settings
from mountcr.engines.storage.places import storage_places
from mountcr.paths import encode

if TYPE_CHECKING:
    from pathlib import Path


class Host:
    """A made-up host: its configuration, and a user."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.files = Files(share=str(base / "share"), etc=str(base / "etc"))
        self.user = Files(
            share=self.files.share, etc=self.files.etc, user=1000, home=str(base / "home")
        )

    def write(self, name: str, text: str) -> str:
        """Write a file of configuration."""
        file = self.base / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return str(file)

    def storage(self, name: str, graph: str, more: str = "") -> str:
        """Write a storage.conf."""
        return self.write(name, f'[storage]\ngraphroot = "{graph}"\n{more}')


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without configuration."""
    return Host(tmp_path)


def usual(host: Host, files: Files | None = None, **environ: str) -> tuple[str, str]:
    """Give the roots that are used on a host, wherever they are."""
    found = settings(files or host.files, environ)
    return found.graph_root, found.run_root


def test_the_file_that_counts(host: Host) -> None:
    """One in /etc counts more than the one of the distribution, that of a variable most."""
    assert usual(host) == ("", "")
    host.storage("share/storage.conf", "/share", 'runroot = "/run/share"')
    assert usual(host) == ("/share", "/run/share")
    host.storage("etc/storage.conf", "/etc")
    assert usual(host) == ("/etc", "")
    host.write("etc/storage.conf.d/10.conf", '[storage]\nrunroot = "/run/ten"\n')
    host.write("etc/storage.conf.d/20.conf", '[storage]\ngraphroot = "/twenty"\n')
    host.write("etc/storage.conf.d/README", "nothing")
    assert usual(host) == ("/twenty", "/run/ten")
    named = host.storage("named.conf", "/named")
    assert usual(host, CONTAINERS_STORAGE_CONF=named) == ("/named", "")


def test_the_files_of_a_user(host: Host) -> None:
    """The roots of the system are not those of a user, who may have a file of their own."""
    host.storage("etc/storage.conf", "/etc", 'rootless_storage_path = "/srv/$UID/storage"')
    assert usual(host, host.user) == ("/srv/1000/storage", "")
    host.storage("home/.config/containers/storage.conf", "$HOME/mine")
    assert usual(host, host.user) == (f"{host.base}/home/mine", "")
    host.storage("xdg/containers/storage.conf", "/xdg/")
    assert usual(host, host.user, XDG_CONFIG_HOME=str(host.base / "xdg")) == ("/xdg", "")
    assert usual(host, XDG_CONFIG_HOME=str(host.base / "xdg")) == ("/xdg", "")


def test_the_usual_places(host: Host, tmp_path: Path) -> None:
    """Without configuration the roots are the usual ones of root, and of another user."""
    data = tmp_path / "home/.local/share/containers/storage"
    (data / "vfs-layers").mkdir(parents=True)
    roots = Roots(usual=True)
    (found,) = storage_places(roots, host.user)
    assert (found.graph_root, found.run_root) == (str(data), "/run/user/1000/containers")
    environ = {"XDG_DATA_HOME": f"{tmp_path}/home/.local/share", "XDG_RUNTIME_DIR": "/run/me"}
    (found,) = storage_places(Roots(usual=True, environ=environ), host.user)
    assert (found.graph_root, found.run_root) == (str(data), "/run/me/containers")


def test_other_stores_and_programs(host: Host) -> None:
    """Image stores, layer stores and the program that mounts are read, from variables too."""
    host.write(
        "etc/storage.conf",
        '[storage]\nimagestore = "/images"\ntransient_store = true\n'
        '[storage.options]\nadditionalimagestores = ["/a/", "/b"]\n'
        'additionallayerstores = ["/layers:ref"]\n'
        '[storage.options.overlay]\nmount_program = "/usr/bin/fuse-overlayfs"\n',
    )
    found = settings(host.files, {"STORAGE_OPTS": "overlay.imagestore=/c,overlay.mountopt=nodev"})
    assert found.image_stores == ("/images", "/a", "/b", "/c")
    assert found.layer_stores == ("/layers",)
    assert (found.mount_program, found.transient) == ("/usr/bin/fuse-overlayfs", True)
    found = settings(host.files, {"STORAGE_OPTS": "overlay.mount_program=/bin/other"})
    assert found.mount_program == "/bin/other"
    host.write("etc/storage.conf.d/1.conf", '[storage.options]\nadditionalimagestores = ["/d"]\n')
    found = settings(host.files, {})
    assert found.image_stores == ("/images", "/d")
    assert found.mount_program == "/usr/bin/fuse-overlayfs"


def test_every_containers_conf(host: Host) -> None:
    """What a later file does not say, an earlier one does; a variable names the only one."""
    host.write("share/containers.conf", '[engine]\nstatic_dir = "/s"\nvolume_path = "/v"\n')
    host.write("etc/containers.conf", '[engine]\nruntime = "crun"\n')
    host.write("etc/containers.conf.d/1.conf", '[engine]\nvolume_path = "/v1"\n')
    found = settings(host.files, {})
    assert (found.static_dir, found.volume_path) == ("/s", "/v1")
    host.write("home/.config/containers/containers.conf", '[engine]\nvolume_path = "$HOME/v"\n')
    assert settings(host.user, {}).volume_path == f"{host.base}/home/v"
    named = host.write("named.conf", '[engine]\nstatic_dir = "/named"\n')
    found = settings(host.files, {"CONTAINERS_CONF": named})
    assert (found.static_dir, found.volume_path) == ("/named", "")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[storage", "no TOML"),
        ("[storage]\ngraphroot = 5\n", "Expected `str`, got `int`"),
        ('[storage]\noptions = "none"\n', "Expected `object`, got `str`"),
    ],
)
def test_damaged_configuration(host: Host, text: str, what: str) -> None:
    """A file that is damaged is named, and counts as if it were empty."""
    file = host.write("etc/storage.conf", text)
    host.write("share/containers.conf", "[engine")
    found = settings(host.files, {})
    assert found.graph_root == ""
    assert [each.file for each in found.damages] == [file, f"{host.base}/share/containers.conf"]
    assert what in found.damages[0].what


def test_a_file_that_a_variable_names_is_missing(host: Host) -> None:
    """A variable that leads nowhere is a damage, and not a reason to look elsewhere."""
    host.storage("etc/storage.conf", "/etc")
    found = settings(host.files, {"CONTAINERS_STORAGE_CONF": "/nowhere/storage.conf"})
    assert (found.graph_root, len(found.damages)) == ("", 1)


def test_places_that_were_named(host: Host, tmp_path: Path) -> None:
    """Only a directory that has the layout is one; nothing else is looked at then."""
    docker = tmp_path / "docker"
    (docker / "overlay2").mkdir(parents=True)
    for name in ("overlay-containers", "vfs-layers", "libpod"):
        (tmp_path / name / name).mkdir(parents=True)
    (tmp_path / "sqlite").mkdir()
    (tmp_path / "sqlite/db.sql").touch()
    names = ("docker", "overlay-containers", "vfs-layers", "libpod", "sqlite", "missing")
    places = tuple(Place(data=encode(str(tmp_path / name))) for name in names)
    found = storage_places(Roots(places=places, usual=True), host.files)
    assert [each.graph_root for each in found] == [str(tmp_path / name) for name in names[1:5]]
    assert {each.run_root for each in found} == {""}
    assert storage_places(Roots(), host.files) == []


def test_configuration_holds_for_its_own_root(host: Host, tmp_path: Path) -> None:
    """Of a root that was named, what is configured for another one is not believed."""
    for name in ("one", "two"):
        (tmp_path / name / "overlay-layers").mkdir(parents=True)
    host.storage(
        "etc/storage.conf",
        str(tmp_path / "one"),
        'runroot = "/run/one"\n[storage.options]\nadditionalimagestores = ["/images"]\n',
    )
    (tmp_path / "link").symlink_to("one")
    named = tuple(Place(data=encode(str(tmp_path / name))) for name in ("one", "link", "two"))
    one, link, two = storage_places(Roots(places=named), host.files)
    assert (one.run_root, one.image_stores) == ("/run/one", ("/images",))
    assert (link.graph_root, link.image_stores) == (str(tmp_path / "link"), ("/images",))
    assert (two.run_root, two.image_stores) == ("", ())
    with_run = Place(data=named[0].data, run=encode("/run/other"))
    (found,) = storage_places(Roots(places=(with_run,)), host.files)
    assert found.run_root == "/run/other"
