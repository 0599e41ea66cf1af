# SPDX-License-Identifier: Apache-2.0
"""OCI image layouts: what is written is as the specification has it, and read or refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mountcr.bundle.annotations import BUNDLE_DIGEST
from mountcr.bundle.layout import Image, WrittenImage, write_layout
from mountcr.bundle.names import Selected, is_archive, is_layout, selected
from mountcr.bundle.reader import is_bundle, opened_members
from mountcr.compression import Compression, Level, decompressed
from mountcr.errors import DocumentError, MountcrError, NotFoundError, RefusedError
from mountcr.errors import VerificationError as Differs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mountcr.bundle.writer import Sink
    from mountcr.compression import Output

IMAGE = Image(
    reference="web",
    created="2020-01-01T00:00:00+00:00",
    architecture="amd64",
    annotations={BUNDLE_DIGEST: "00"},
)

MEMBERS = {"manifest.json": b"{}", "images/core-1.img": b"x" * 70_000}

NOWHERE = "0" * 64


def put_bytes(content: bytes, file: Output) -> None:
    file.write(content)


def members_into(members: dict[str, bytes], sink: Sink) -> None:
    for name, content in members.items():
        sink.add(name, len(content), partial(put_bytes, content))


def write(
    at: Path,
    compression: Compression = Compression.ZSTD,
    image: Image = IMAGE,
    members: dict[str, bytes] = MEMBERS,
) -> WrittenImage:
    at.mkdir()
    fd = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return write_layout(fd, Level(compression), image, partial(members_into, members))
    finally:
        os.close(fd)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write(tmp_path / "layout")
    return tmp_path / "layout"


def read(path: object) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with opened_members(str(path)) as (_, members):
        for member, content in members:
            parts: list[bytes] = []
            while piece := content.some():
                parts.append(bytes(piece))
            found[member.name] = b"".join(parts)
    return found


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs/sha256" / digest.removeprefix("sha256:")


def document(path: Path) -> Any:
    return json.loads(path.read_bytes())


def manifest_of(layout: Path) -> Any:
    return document(blob(layout, document(layout / "index.json")["manifests"][0]["digest"]))


def put(layout: Path, content: bytes) -> tuple[str, int]:
    """Add a blob; give its digest and its size."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    blob(layout, digest).write_bytes(content)
    return digest, len(content)


def change_manifest(layout: Path, change: Callable[[Any], None]) -> None:
    """Change the manifest, and the index so that it fits."""
    manifest = manifest_of(layout)
    change(manifest)
    digest, size = put(layout, json.dumps(manifest).encode())
    change_index(layout, lambda index: index["manifests"][0].update(digest=digest, size=size))


def change_index(layout: Path, change: Callable[[Any], None]) -> None:
    index = document(layout / "index.json")
    change(index)
    (layout / "index.json").write_text(json.dumps(index))


def error(path: object, kind: type[MountcrError]) -> str:
    with pytest.raises(kind) as caught:
        read(path)
    assert caught.value.hint
    return caught.value.message


# --- What is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", list(Compression))
def test_a_layout_is_as_the_specification_has_it(compression: Compression, tmp_path: Path) -> None:
    """Every blob is called by its digest; the configuration has that of the tar before packing."""
    written = write(tmp_path / "layout", compression)
    at = tmp_path / "layout"
    assert document(at / "oci-layout") == {"imageLayoutVersion": "1.0.0"}
    (named,) = document(at / "index.json")["manifests"]
    assert named["digest"] == written.digest
    assert named["annotations"] == {"org.opencontainers.image.ref.name": "web"}
    manifest = manifest_of(at)
    assert manifest["schemaVersion"] == 2
    assert manifest["artifactType"] == "application/vnd.mountcr.bundle.v1"
    assert manifest["annotations"] == IMAGE.annotations
    (layer,) = manifest["layers"]
    kind = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}[compression]
    assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.tar{kind}"
    for each in (named, manifest["config"], layer):
        content = blob(at, each["digest"]).read_bytes()
        assert each["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert each["size"] == len(content)
    packed = io.BytesIO(blob(at, layer["digest"]).read_bytes())
    tar = b"".join(decompressed(packed, compression))
    config = document(blob(at, manifest["config"]["digest"]))
    assert config["rootfs"] == {
        "type": "layers",
        "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"],
    }
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == list(MEMBERS)
    files = [each for each in at.rglob("*") if each.is_file()]
    assert len(files) == 5
    assert sum(each.stat().st_size for each in files) == written.bytes
    assert {each.stat().st_mode & 0o777 for each in files} == {0o600}


def test_the_same_gives_the_same_layout(tmp_path: Path) -> None:
    """Names and contents of all files."""
    for name in ("one", "other"):
        write(tmp_path / name)
    one, other = (
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "other")
    )
    assert one == other


@pytest.mark.parametrize("compression", list(Compression))
def test_what_was_written_is_read(compression: Compression, tmp_path: Path) -> None:
    """Members with their contents, by the directory, the name and the digest."""
    written = write(tmp_path / "layout", compression)
    for suffix in ("", ":web", f"@{written.digest}"):
        path = f"{tmp_path}/layout{suffix}"
        assert read(path) == MEMBERS
        assert is_archive(path)
        assert is_bundle(path)


# --- Which one ------------------------------------------------------------------------------------


def test_a_word_names_a_layout(layout: Path) -> None:
    """What is there by the whole name comes first; a name may have colons."""
    assert selected(str(layout)) == Selected(str(layout))
    assert selected(f"{layout}:a/b:1") == Selected(str(layout), "a/b:1")
    assert selected(f"{layout}@sha256:{NOWHERE}") == Selected(str(layout), f"sha256:{NOWHERE}")
    for word in ("-", "web", "docker:web", ":web", f"{layout}/blobs", f"{layout}x:web", "x@y"):
        assert selected(word) is None
    (layout.parent / "layout:web").mkdir()
    assert selected(f"{layout}:web") is None
    assert not is_layout(f"{layout}:web")


def test_one_of_several_has_to_be_named(layout: Path, tmp_path: Path) -> None:
    """The error says which there are; an image of something else is passed over."""
    other = IMAGE._replace(reference="db", annotations={BUNDLE_DIGEST: "11"})
    write(tmp_path / "other", image=other)
    for each in (tmp_path / "other/blobs/sha256").iterdir():
        shutil.copy(each, layout / "blobs/sha256")
    more = document(tmp_path / "other/index.json")["manifests"]
    change_index(layout, lambda index: index["manifests"].extend(more))
    assert "2 images of checkpoints" in error(layout, DocumentError)
    with pytest.raises(DocumentError) as caught:
        read(layout)
    assert caught.value.hint == "say which: DIR:NAME or DIR@DIGEST; there are web, db"
    assert read(f"{layout}:db") == MEMBERS
    assert "is called nobody" in error(f"{layout}:nobody", NotFoundError)

    plain: dict[str, Any] = {
        "schemaVersion": 2,
        "config": manifest_of(layout)["config"],
        "layers": [],
    }
    digest, size = put(layout, json.dumps(plain).encode())
    changed = {"digest": digest, "size": size}
    change_index(layout, lambda index: index["manifests"][1].update(changed))
    assert read(layout) == MEMBERS
    nested = {"mediaType": "application/vnd.oci.image.index.v1+json"}
    change_index(layout, lambda index: index["manifests"][1].update(nested))
    assert read(layout) == MEMBERS
    change_index(layout, lambda index: index["manifests"].pop(0))
    assert not is_bundle(str(layout))
    assert "no image of a checkpoint" in error(layout, DocumentError)


def test_what_copying_loses_is_not_needed(layout: Path) -> None:
    """An image is one of a bundle by its type or by its annotation, and a layer may be Docker's."""
    change_manifest(layout, lambda manifest: manifest.pop("artifactType"))
    assert read(layout) == MEMBERS
    docker = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    change_manifest(layout, lambda manifest: manifest["layers"][0].update(mediaType=docker))
    assert read(layout) == MEMBERS
    change_manifest(layout, lambda manifest: manifest.pop("annotations"))
    assert "no image of a checkpoint" in error(layout, DocumentError)


@pytest.mark.parametrize(
    "name",
    [
        "io.podman.annotations.checkpoint.name",
        "io.kubernetes.cri-o.annotations.checkpoint.name",
        "org.criu.checkpoint.container.name",
    ],
)
def test_an_image_of_another_tool_is_no_bundle(name: str, tmp_path: Path) -> None:
    """It is read by the same rules, and told from a bundle by what is in it."""
    image = IMAGE._replace(annotations={name: "web"}, artifact="")
    members = {"config.dump": b"{}", "spec.dump": b"{}"}
    write(tmp_path / "layout", image=image, members=members)
    assert "artifactType" not in manifest_of(tmp_path / "layout")
    assert read(tmp_path / "layout") == members
    assert is_archive(str(tmp_path / "layout"))
    assert not is_bundle(str(tmp_path / "layout"))


# --- Hostile ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../../etc/passwd",
        "sha256:/etc/passwd",
        "../../secret",
        f"sha256:{'A' * 64}",
        f"sha256:{'a' * 63}",
        f"sha256:{'a' * 64}\n",
        f"sha256:{'a' * 64}/x",
        f"sha512:{'a' * 128}",
        "sha256:",
        "",
    ],
)
def test_a_digest_is_no_path(layout: Path, digest: str) -> None:
    """Whatever is not 64 lower-case hexadecimal digits is no name of a blob, wherever it stands."""
    (layout.parent / "secret").write_text("{}")
    change_manifest(layout, lambda manifest: manifest["layers"][0].update(digest=digest))
    assert "(rule: names of blobs)" in error(layout, RefusedError)
    change_index(layout, lambda index: index["manifests"][0].update(digest=digest))
    assert "(rule: names of blobs)" in error(layout, RefusedError)


def test_a_blob_that_is_not_there_is_named(layout: Path) -> None:
    """So is a manifest."""
    digest = manifest_of(layout)["layers"][0]["digest"]
    blob(layout, digest).unlink()
    assert f"{digest[7:]} is missing (rule: digests)" in error(layout, Differs)
    name = document(layout / "index.json")["manifests"][0]["digest"]
    blob(layout, name).unlink()
    assert f"{name[7:]} is missing (rule: digests)" in error(layout, Differs)


@pytest.mark.parametrize("lie", [1, -1, 1 << 40])
def test_a_size_has_to_be_true(layout: Path, lie: int) -> None:
    """Of a layer and of a manifest, before anything of them is read."""

    def change(of: Any) -> None:
        of["size"] += lie

    change_manifest(layout, lambda manifest: change(manifest["layers"][0]))
    assert "(rule: digests)" in error(layout, Differs)
    change_index(layout, lambda index: change(index["manifests"][0]))
    error(layout, RefusedError if lie > 1 << 22 else Differs)


@pytest.mark.parametrize("size", [-1, 1 << 63, 1 << 70, 1.5, "9", None])
def test_a_size_is_a_size(layout: Path, size: object) -> None:
    """Any other is refused, or no document."""
    change_manifest(layout, lambda manifest: manifest["layers"][0].update(size=size))
    error(layout, MountcrError)
    change_index(layout, lambda index: index["manifests"][0].update(size=size))
    error(layout, MountcrError)


def test_a_layer_is_what_its_digest_says(layout: Path) -> None:
    """A layer of the same size that is another one is found out, when it was read to the end."""
    shutil.rmtree(layout)
    write(layout, Compression.NONE)
    path = blob(layout, manifest_of(layout)["layers"][0]["digest"])
    content = bytearray(path.read_bytes())
    content[content.index(b"xxx")] ^= 1
    path.write_bytes(content)
    assert "its SHA-256 differs (rule: digests)" in error(layout, Differs)


def test_a_manifest_is_what_its_digest_says(layout: Path) -> None:
    """It is compared before it is believed."""
    path = blob(layout, document(layout / "index.json")["manifests"][0]["digest"])
    path.write_bytes(path.read_bytes().replace(b'"00"', b'"01"'))
    assert "its SHA-256 differs (rule: digests)" in error(layout, Differs)


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
def test_a_huge_document_is_not_read(layout: Path, name: str) -> None:
    """One that no registry would take is refused by its size."""
    os.truncate(layout / name, 1 << 40)
    assert "(rule: size of documents)" in error(layout, RefusedError)


def test_a_huge_manifest_is_not_read(layout: Path) -> None:
    """Nor opened, if its descriptor says so."""
    change_index(layout, lambda index: index["manifests"][0].update(size=1 << 30))
    assert "(rule: size of documents)" in error(layout, RefusedError)


def test_an_index_has_not_too_many_images(layout: Path) -> None:
    """The rule is named."""
    change_index(layout, lambda index: index.update(manifests=index["manifests"] * 1001))
    assert "more than 1000 images (rule: members)" in error(layout, RefusedError)
    change_index(layout, lambda index: index.update(manifests=index["manifests"][:1000]))
    assert read(layout) == MEMBERS


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"schemaVersion": 2, "manifests": {}}',
        b'{"schemaVersion": 2, "manifests": [{"digest": 1}]}',
        b'{"schemaVersion": 2, "manifests": ' + b"[" * 100_000,
        b'{"schemaVersion": 2, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_an_index_that_is_none_is_named(layout: Path, text: bytes) -> None:
    """Damaged, nested without end or of another form: an error in one line."""
    (layout / "index.json").write_bytes(text)
    assert "index.json is damaged" in error(layout, DocumentError)


def test_a_later_layout_is_named(layout: Path) -> None:
    """One of version 2 is not guessed at."""
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    assert "a layout of version 2.0.0" in error(layout, DocumentError)


@pytest.mark.parametrize("which", ["index", "layer", "blobs"])
def test_links_lead_nowhere(layout: Path, tmp_path: Path, which: str) -> None:
    """No symbolic link is followed, whether it is a file or a directory on the way."""
    path = {
        "index": layout / "index.json",
        "layer": blob(layout, manifest_of(layout)["layers"][0]["digest"]),
        "blobs": layout / "blobs",
    }[which]
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert "(rule: types of members)" in error(layout, RefusedError)


def test_a_fifo_holds_nobody_up(layout: Path) -> None:
    """A blob that is no regular file is refused at once."""
    path = blob(layout, manifest_of(layout)["layers"][0]["digest"])
    path.unlink()
    os.mkfifo(path)
    assert "is no regular file (rule: types of members)" in error(layout, RefusedError)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_bundle_is_one_layer(layout: Path, layers: int) -> None:
    """Which of several would be meant is not guessed."""
    change_manifest(
        layout, lambda manifest: manifest.update(layers=manifest["layers"][:1] * layers)
    )
    assert "(rule: layers)" in error(layout, RefusedError)


def test_a_layer_of_another_type_is_refused(layout: Path) -> None:
    """Its media type is named."""
    change_manifest(layout, lambda manifest: manifest["layers"][0].update(mediaType="text/plain"))
    assert "other layers than one tar: text/plain (rule: layers)" in error(layout, RefusedError)


def test_addresses_in_a_descriptor_are_not_asked(layout: Path) -> None:
    """A layer comes from the layout, whatever `urls` say, and `data` is not taken for it."""
    more = {"urls": ["http://127.0.0.1:1/x"], "data": "eA=="}
    change_manifest(layout, lambda manifest: manifest["layers"][0].update(more))
    assert read(layout) == MEMBERS
