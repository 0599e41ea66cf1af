# SPDX-License-Identifier: Apache-2.0
"""
Archives of other tools on the command line, as they were recorded, and changed by somebody hostile.

They lack the contents of memory, so nothing is restored here: `tox -e engines` does that.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from archives import CONTAINERD, PODMAN, copied, cri_of_containerd, crio, edited, unpacked
from mountcr.bundle.foreign.podman import standard_streams
from mountcr.criu import images_pb2 as pb
from mountcr.criu.imagefile import CGROUP, Entry, Image
from mountcr.criu.images import read, write
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.requires("root")]

SCRATCH = Path("/var/lib/mountcr/exports")
ID = json.loads((PODMAN / "config.dump").read_bytes())["id"]
LAYERS = [f"sha256:{hashlib.sha256(word).hexdigest()}" for word in (b"lowest", b"top")]


class Done(NamedTuple):
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document that was printed."""
        return json.loads(self.out)


def mountcr(*words: object) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "mountcr", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves anything where archives are unpacked."""
    before = {*os.listdir(SCRATCH)} if SCRATCH.exists() else set[str]()
    yield
    ours = (f".{os.getpid()}",)
    left = {*os.listdir(SCRATCH)} - before if SCRATCH.exists() else set[str]()
    assert not [each for each in left if each.endswith(ours)]


def packed(top: Path, archive: Path) -> Path:
    """Pack a directory, compressed as the suffix says."""
    mode = "w:gz" if archive.suffix == ".gz" else "w"
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]  # both are modes
        for path in sorted(top.rglob("*")):
            if path.name != "README.md":
                tar.add(path, str(path.relative_to(top)), recursive=False)
    return archive


@pytest.fixture
def podman(tmp_path: Path) -> Path:
    """Pack the recorded archive of podman."""
    return packed(PODMAN, tmp_path / "podman.tar")


@pytest.fixture
def store(tmp_path: Path) -> tuple[str, ...]:
    """Make a store with the image of the recorded archive, whose layers are others; give roots."""
    graph, run = tmp_path / "graph", tmp_path / "run"
    run.mkdir()
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": LAYERS}}).encode()
    image = hashlib.sha256(config).hexdigest()
    images = graph / "overlay-images"
    name = base64.b64encode(f"sha256:{image}".encode()).decode()
    (images / image).mkdir(parents=True)
    (images / image / f"={name}").write_bytes(config)
    entry = {"id": image, "names": ["localhost/mountcr-live:1"], "layer": "b" * 64}
    (images / "images.json").write_text(json.dumps([entry]))
    (graph / "overlay-layers").mkdir()
    ids = ["a" * 64, "b" * 64]
    entries = [
        {"id": ids[0], "diff-digest": LAYERS[0]},
        {"id": ids[1], "parent": ids[0], "diff-digest": LAYERS[1]},
    ]
    (graph / "overlay-layers/layers.json").write_text(json.dumps(entries))
    for number, each in enumerate(ids):
        (graph / "overlay" / each / "diff/etc").mkdir(parents=True)
        (graph / "overlay" / each / "diff/etc" / f"file{number}").write_text("x")
        (graph / "overlay" / each / "link").write_text(f"LINK{number}")
    (graph / "overlay" / ids[0] / "diff/etc/motd").write_text("of the image")
    (graph / "overlay" / ids[1] / "lower").write_text("l/LINK0")
    return "--root", str(graph), "--runroot", str(run)


def members(archive: Path) -> dict[str, bytes]:
    """Give the members of an archive."""
    with tarfile.open(archive) as tar:
        return {
            each.name: file.read()
            for each in tar
            if each.isfile() and (file := tar.extractfile(each)) is not None
        }


def layer(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {each.name: each for each in tar}


# --- Looking --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_an_archive_is_looked_at(tmp_path: Path, suffix: str) -> None:
    """inspect, facts, graph and files take one, however it is packed and called."""
    archive = packed(PODMAN, tmp_path / f"anything.{suffix}")
    document = mountcr("inspect", archive, "--json").document
    assert (document["schema"], document["format"]) == ("mountcr/archive/1", "podman")
    outline = mountcr("inspect", archive)
    assert outline.status == 0
    assert outline.out.startswith(f"podman checkpoint of {ID} (foreignct)")
    facts = mountcr("facts", archive).document
    assert facts["of_images"] is True
    assert facts["tasks"][0]["command"] == "count.sh"
    assert "/data/vol" in mountcr("graph", archive).out
    assert "/app/count.log" in mountcr("files", archive).out


def test_every_format_is_looked_at(tmp_path: Path) -> None:
    """So are archives of CRI-O and containerd, and one that is unpacked."""
    made = {
        "cri-o": packed(crio(tmp_path / "a"), tmp_path / "a.tar"),
        "containerd-cri": packed(cri_of_containerd(tmp_path / "b"), tmp_path / "b.tar"),
        "containerd-image": packed(CONTAINERD, tmp_path / "c.tar"),
        "podman": PODMAN,
    }
    for name, archive in made.items():
        assert mountcr("inspect", archive, "--json").document["format"] == name


def test_what_is_none_is_said_to_be_none(tmp_path: Path) -> None:
    """A tar of something else, and what is no tar, are refused in one line."""
    (tmp_path / "some").mkdir()
    (tmp_path / "some/file").write_text("x")
    other = packed(tmp_path / "some", tmp_path / "other.tar")
    found = mountcr("inspect", other)
    assert found.status == 2
    assert "neither a bundle nor a checkpoint of another tool" in found.err
    (tmp_path / "noise").write_bytes(b"\x01noise" * 1000)
    assert mountcr("inspect", tmp_path / "noise").status == 2


# --- Verifying ------------------------------------------------------------------------------------


def test_a_whole_archive_has_no_difference(podman: Path, tmp_path: Path) -> None:
    """Where the container is not here, what was never put in cannot be said, and that is said."""
    (tmp_path / "empty/overlay-layers").mkdir(parents=True)
    found = mountcr("verify", podman, "--root", tmp_path / "empty")
    assert (found.status, found.out) == (0, "")
    assert "is not on this host" in found.err


def test_damage_is_named(tmp_path: Path) -> None:
    """An image and a diff that are cut off, and a blob that is another one, are differences."""
    top = copied(PODMAN, tmp_path / "podman")
    files = top / "checkpoint/files.img"
    files.write_bytes(files.read_bytes()[:-7])
    diff = top / "rootfs-diff.tar"
    diff.write_bytes(diff.read_bytes()[:700])
    found = mountcr("verify", packed(top, tmp_path / "a.tar"), "--json")
    assert found.status == 5
    paths = [each["path"] for each in found.document["differences"]]
    assert paths == ["files.img", "rootfs-diff.tar"]
    top = copied(CONTAINERD, tmp_path / "containerd")
    blob = sorted((top / "blobs/sha256").iterdir())[1]
    blob.write_bytes(blob.read_bytes() + b"x")
    found = mountcr("verify", packed(top, tmp_path / "b.tar"), "--json")
    assert found.status == 5
    assert f"blobs/sha256/{blob.name}" in [each["path"] for each in found.document["differences"]]


# --- Converting -----------------------------------------------------------------------------------


def test_an_image_that_is_nowhere_is_named(podman: Path, tmp_path: Path) -> None:
    """Without the image there is no bundle, no plan and no import; the image is named."""
    empty = tmp_path / "empty"
    (empty / "overlay-layers").mkdir(parents=True)
    for words in (
        ("convert", podman, "--to", "bundle", "-o", tmp_path / "bundle"),
        ("plan", podman, "--for", "restore"),
        ("import", podman, "--into", tmp_path / "imported"),
    ):
        found = mountcr(*words, "--root", empty)
        assert found.status == 3
        assert "localhost/mountcr-live:1 (21c48dac7078" in found.err
    assert not (tmp_path / "bundle").exists()
    assert not (tmp_path / "imported").exists()


def test_podman_becomes_a_bundle(podman: Path, tmp_path: Path, store: tuple[str, ...]) -> None:
    """A bundle has the images, the changes as a layer, the shared memory, and what was recorded."""
    bundle = tmp_path / "bundle"
    words = ("--to", "bundle", "-o", bundle, "--compress", "none")
    found = mountcr("convert", podman, *words, *store)
    assert found.status == 0, found.err
    assert "says no more of its image than localhost/mountcr-live:1" in found.err
    document = mountcr("inspect", bundle, "--json").document
    assert [each["diff_id"] for each in document["layers"]] == LAYERS[::-1]
    assert [each["mountpoint"] for each in document["mounts"]] == [
        "/dev/shm", "/etc/hostname", "/etc/hosts", "/run/.containerenv",
    ]  # fmt: skip
    held = members(bundle)
    assert held["foreign/config.dump"] == (PODMAN / "config.dump").read_bytes()
    upper = layer(held["layers/upper.tar"])
    assert "etc/.wh.motd" in upper
    assert "data/base.txt" in upper
    assert "data" not in upper
    root = next(each for name, each in upper.items() if name in {"", "."})
    assert root.mode == 0o555
    assert "before" in layer(held["mounts/1.tar"])
    assert mountcr("verify", bundle).status == 0


def test_all_layers_can_go_along(podman: Path, tmp_path: Path, store: tuple[str, ...]) -> None:
    """With --layers all the layers of the store are in the bundle."""
    bundle = tmp_path / "bundle"
    words = ("--to", "bundle", "-o", bundle, "--compress", "none", "--layers", "all", "--json")
    found = mountcr("convert", podman, *words, *store)
    assert found.document["layers"] == [2, 2]
    held = members(bundle)
    assert "etc/file1" in layer(held["layers/1.tar"])
    assert "etc/file0" in layer(held["layers/2.tar"])


def test_the_restore_of_an_archive_is_planned(podman: Path, store: tuple[str, ...]) -> None:
    """All that the user has to answer is named: a bind of the host, and nothing of podman's own."""
    planned = mountcr("plan", podman, "--for", "restore", "--json", *store)
    assert planned.status == 4
    findings = planned.document["findings"]
    assert [each["mount"] for each in findings if each["rule"] == "M3"] == ["/data/vol"]
    planned = mountcr(
        "plan", podman, "--for", "restore", "--json", "--bind", "/data/vol=/srv", *store
    )
    assert planned.status == 0, planned.err
    argv = " ".join(planned.document["criu"]["restore"])
    assert "mnt[/data/vol]:/srv" in argv
    assert "mnt[/dev/null]:/dev/null" in argv


def test_a_bundle_goes_back(podman: Path, tmp_path: Path, store: tuple[str, ...]) -> None:
    """What podman wrote down goes back to it word by word; and again into the same bundle."""
    bundle, back, again = tmp_path / "bundle", tmp_path / "back", tmp_path / "again"
    plain = ("--compress", "none", *store)
    assert mountcr("convert", podman, "--to", "bundle", "-o", bundle, *plain).status == 0
    assert mountcr("convert", bundle, "--to", "podman", "-o", back, *plain).status == 0
    held = members(back)
    for name in ("config.dump", "spec.dump", "network.status"):
        assert held[name] == (PODMAN / name).read_bytes()
    assert json.loads(held["deleted.files"]) == ["/etc/motd"]
    streams = tuple(json.loads(held["checkpoint/descriptors.json"]))
    assert streams == standard_streams(unpacked(PODMAN))
    assert "app/before" in layer(held["rootfs-diff.tar"])
    assert "before" in layer(held["devshm-checkpoint.tar"])
    assert mountcr("convert", back, "--to", "bundle", "-o", again, *plain).status == 0
    assert members(again)["layers/upper.tar"] == members(bundle)["layers/upper.tar"]


def test_a_bundle_of_podman_goes_to_crio(
    podman: Path, tmp_path: Path, store: tuple[str, ...]
) -> None:
    """CRI-O gets a configuration of checkpointctl, and the types and modes of the binds."""
    bundle, archive = tmp_path / "bundle", tmp_path / "archive"
    assert mountcr("convert", podman, "--to", "bundle", "-o", bundle, *store).status == 0
    assert mountcr("convert", bundle, "--to", "cri-o", "-o", archive, *store).status == 0
    held = members(archive)
    config = json.loads(held["config.dump"])
    assert (config["id"], config["rootfsImageName"]) == (ID, "localhost/mountcr-live:1")
    binds = json.loads(held["bind.mounts"])
    assert [(each["destination"], each["file_type"]) for each in binds] == [
        ("/data/vol", "directory")
    ]
    assert "devshm-checkpoint.tar" not in held
    assert mountcr("inspect", archive, "--json").document["format"] == "cri-o"


def test_crio_goes_there_and_back(tmp_path: Path, store: tuple[str, ...]) -> None:
    """Of an archive of CRI-O the configuration and the binds go back word by word."""
    top = crio(tmp_path / "crio")
    archive = packed(top, tmp_path / "archive.tar")
    bundle, back = tmp_path / "bundle", tmp_path / "back"
    assert mountcr("convert", archive, "--to", "bundle", "-o", bundle, *store).status == 0
    assert mountcr("convert", bundle, "--to", "cri-o", "-o", back, *store).status == 0
    held = members(back)
    for name in ("config.dump", "spec.dump", "bind.mounts"):
        assert held[name] == (top / name).read_bytes()
    refused = mountcr("convert", bundle, "--to", "podman", "-o", tmp_path / "no", *store)
    assert refused.status == 4
    assert "none of podman" in refused.err


def test_what_an_opaque_directory_hides_is_listed(tmp_path: Path, store: tuple[str, ...]) -> None:
    """A list of removed paths has each that an opaque directory hides; without layers none can."""
    top = cri_of_containerd(tmp_path / "cri")
    with tarfile.open(top / "rootfs-diff.tar", "w:gz") as tar:
        tar.addfile(_info("etc", tarfile.DIRTYPE))
        for name in ("etc/.wh..wh..opq", "etc/file1"):
            tar.addfile(_info(name))
    archive = packed(top, tmp_path / "archive.tar")
    bundle, made = tmp_path / "bundle", tmp_path / "made"
    assert mountcr("convert", archive, "--to", "bundle", "-o", bundle, *store).status == 0
    found = mountcr("convert", bundle, "--to", "cri-o", "-o", made, *store)
    assert found.status == 0, found.err
    assert sorted(json.loads(members(made)["deleted.files"])) == ["/etc/file0", "/etc/motd"]
    empty = tmp_path / "empty"
    (empty / "overlay-layers").mkdir(parents=True)
    words = ("--to", "cri-o", "-o", tmp_path / "no", "--root", empty)
    refused = mountcr("convert", bundle, *words)
    assert refused.status == 4
    assert "what /etc hides of the image is not known here" in refused.err


def test_what_was_paused_runs_again(tmp_path: Path, store: tuple[str, ...]) -> None:
    """CRI-O and containerd pause a container for its checkpoint; in a bundle it is not paused."""
    top = copied(PODMAN, tmp_path / "podman")
    path = encode(str(top / "checkpoint/cgroup.img"))
    (entry,) = read(path).messages(pb.CgroupEntry)
    for hierarchy in entry.controllers:
        for directory in hierarchy.directories:
            directory.properties.add(name=b"freezer.state", value=b"FROZEN")
    write(path, Image(CGROUP, [Entry(entry)]))
    bundle = tmp_path / "bundle"
    archive = packed(top, tmp_path / "archive.tar")
    words = ("--to", "bundle", "-o", bundle, "--compress", "none", *store)
    assert mountcr("convert", archive, *words).status == 0
    assert b"FROZEN" not in members(bundle)["images/cgroup.img"]


def test_what_is_not_done_is_told(tmp_path: Path, store: tuple[str, ...]) -> None:
    """Hooks and devices of the archive's configuration are told when it is converted."""
    top = copied(PODMAN, tmp_path / "podman")
    edited(top / "spec.dump", {"hooks": {"prestart": [{"path": "/bin/evil"}]}})
    archive = packed(top, tmp_path / "archive.tar")
    found = mountcr("convert", archive, "--to", "bundle", "-o", tmp_path / "bundle", *store)
    assert found.status == 0
    assert "not done: spec.dump: hooks.prestart[0]: /bin/evil" in found.err
    assert "/bin/evil" in mountcr("inspect", archive).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "overlay"), "--from is missing"),
        (("--to", "bundle", "--from", "oci"), "--from, --lower and --data are not"),
        (("--to", "bundle", "--lower", "/x"), "--from, --lower and --data are not"),
        (("--to", "containerd-image"), "--from is missing"),
    ],
)
def test_words_that_make_no_sense(podman: Path, words: tuple[str, ...], said: str) -> None:
    """A layer has a dialect, and an archive has none."""
    found = mountcr("convert", podman, *words, "-o", "/nowhere/x")
    assert found.status == 2
    assert said in found.err


def test_an_output_that_is_there_stays(
    podman: Path, tmp_path: Path, store: tuple[str, ...]
) -> None:
    """What is there is never written over."""
    there = tmp_path / "there"
    there.write_text("mine")
    for target in ("bundle", "podman"):
        assert mountcr("convert", podman, "--to", target, "-o", there, *store).status == 2
    assert there.read_text() == "mine"


# --- Hostile archives -----------------------------------------------------------------------------


def _with(info: tarfile.TarInfo, content: bytes = b"") -> Callable[[tarfile.TarFile], None]:
    info.size = len(content)
    return lambda tar: tar.addfile(info, io.BytesIO(content))


def _info(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


@pytest.mark.parametrize(
    ("add", "said"),
    [
        (_with(_info("../evil"), b"x"), "names of members"),
        (_with(_info("/etc/evil"), b"x"), "names of members"),
        (_with(_info("checkpoint/x", tarfile.SYMTYPE, "/etc")), "types of members"),
        (_with(_info("ctr.log", tarfile.LNKTYPE, "/etc/passwd")), "types of members"),
        (_with(_info("dev", tarfile.CHRTYPE)), "types of members"),
        (_with(_info("pipe", tarfile.FIFOTYPE)), "types of members"),
        (_with(_info("config.dump"), b"{}"), "duplicate members"),
    ],
    ids=["dots", "absolute", "symlink", "hardlink", "device", "fifo", "duplicate"],
)
def test_a_hostile_member_is_refused(
    podman: Path,
    tmp_path: Path,
    store: tuple[str, ...],
    add: Callable[[tarfile.TarFile], None],
    said: str,
) -> None:
    """A member that is no plain file by a plain name is refused by its rule, whoever asks."""
    with tarfile.open(podman, "a") as tar:
        add(tar)
    for words in (
        ("inspect", podman),
        ("facts", podman),
        ("verify", podman, *store),
        ("convert", podman, "--to", "bundle", "-o", tmp_path / "bundle", *store),
        ("import", podman, "--into", tmp_path / "imported", *store),
    ):
        found = mountcr(*words)
        assert found.status == 4, words
        assert f"(rule: {said})" in found.err
    assert {*os.listdir(tmp_path)} == {"podman.tar", "graph", "run"}


@pytest.mark.parametrize(
    ("name", "info"),
    [
        ("rootfs-diff.tar", _info("../../evil")),
        ("rootfs-diff.tar", _info("dev", tarfile.CHRTYPE)),
        ("devshm-checkpoint.tar", _info("/evil")),
    ],
)
def test_a_hostile_inner_tar_is_refused(
    tmp_path: Path, store: tuple[str, ...], name: str, info: tarfile.TarInfo
) -> None:
    """A path that leads out of the root and a device are refused in the tars inside, too."""
    top = copied(PODMAN, tmp_path / "podman")
    with tarfile.open(top / name, "w") as tar:
        tar.addfile(info)
    archive = packed(top, tmp_path / "archive.tar")
    found = mountcr("convert", archive, "--to", "bundle", "-o", tmp_path / "bundle", *store)
    assert found.status == 4
    assert not (tmp_path / "bundle").exists()
