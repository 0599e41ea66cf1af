# SPDX-License-Identifier: Apache-2.0
"""What reads something that comes from anywhere, each with what it is fed with at first."""

from __future__ import annotations

import io
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

import hostile
import keyfiles
from mountcr.bundle.document import to_json
from mountcr.bundle.limits import Limits
from mountcr.bundle.members import Members
from mountcr.bundle.reader import Reader
from mountcr.bundle.signature import read_public_key, verify
from mountcr.bundle.stream import Stream
from mountcr.compression import Compression, Level, compressed
from mountcr.criu import images_pb2 as pb
from mountcr.criu.imagefile import FILES, GHOST_FILE, IMG_COMMON, MM, MOUNTS, PSTREE, parse
from mountcr.model import Imported
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices
from mountcr.planning.placement import choose_layers, place
from mountcr.planning.planner import make_plan
from mountcr.planning.renaming import rename
from mountcr.rootfs.dialects.oci import Oci
from mountcr.rootfs.tar import Limits as LayerLimits
from mountcr.rootfs.tar import TarTree
from mountcr.rootfs.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mountcr.planning.records import External

__all__ = ["TARGETS", "WORDS", "Target_"]

_LIMITS: Final = Limits(size=1 << 23, small=1 << 20, members=5000)
_LAYER: Final = LayerLimits(size=1 << 23, members=20_000, implied=1 << 22)


class Target_(NamedTuple):  # noqa: N801 - a target of a restore is another thing
    """`make` gives the function that takes an input, which may write below a directory."""

    make: Callable[[str], Callable[[bytes], None]]
    seeds: Callable[[], Iterator[bytes]]


def _repaired(data: bytes) -> bytes:
    """Give a tar with right checksums: no mutation would find them."""
    out = bytearray(data)
    for start in range(0, len(out) - 511, 512):
        if out.startswith(b"ustar", start + 257):
            out[start + 148 : start + 156] = b" " * 8
            total = sum(out[start : start + 512])
            out[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(out)


def _packed(data: bytes, compression: Compression) -> bytes:
    file = io.BytesIO()
    with compressed(file, Level(compression)) as into:
        into.write(data)
    return file.getvalue()


def _small(make: Callable[[], bytes]) -> bytes:
    data = make()
    return data if len(data) < 1 << 16 else b""


# --- The archive ----------------------------------------------------------------------------------


def _archive(_top: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        stream = Stream(io.BytesIO(_repaired(data)), "a.tar", _LIMITS)
        for _, content in Members(stream, _LIMITS):
            while content.some():
                pass

    return run


def _archives() -> Iterator[bytes]:
    whole = hostile.bundle()
    yield hostile.tar(("a", b"x"), ("b/c", b""))
    yield from (_small(each.make) for each in hostile.LAYERS.values())
    yield from (_packed(whole, each) for each in Compression)


def _bundle(_top: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        members = Members(Stream(io.BytesIO(_repaired(data)), "a.tar", _LIMITS), _LIMITS)
        for _, content in Reader("a.tar", iter(members), _LIMITS).members():
            while content.some():
                pass

    return run


def _bundles() -> Iterator[bytes]:
    yield hostile.bundle()
    yield from (_small(each.make) for each in hostile.SPOILED.values())


# --- The document, and what is planned of it ------------------------------------------------------

_STACK: Final = KPath("/var/lib/mountcr/containers/x")


def _document(_top: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        members = Members(Stream(io.BytesIO(hostile.outer(data, {})), "a.tar", _LIMITS), _LIMITS)
        bundle = Reader("a.tar", iter(members), _LIMITS).bundle
        unpacked = KPath("/unpacked")
        layers, missing = choose_layers(bundle, {}, unpacked)
        if missing:
            return
        upper = KPath(f"{_STACK}/upper")
        placement = place(
            bundle, layers, driver="overlay", dialect="", upper=upper, unpacked=unpacked,
            overlay={}, devices={},
        )  # fmt: skip
        _see(placement.stack.options, placement.stack.directories)
        imported = Imported(at=_STACK, stack=placement.stack)
        facts = msgspec.structs.replace(rename(bundle.dump.facts, "x"), imported=imported)
        _see_plan(make_plan(facts, Choices(dumped=bundle.dump.extra)).externals)

    return run


def _see(options: tuple[str, ...], directories: tuple[KPath, ...]) -> None:
    """See that no layer and no option of an overlay comes from a document."""
    ours = ("/var/lib/mountcr/", "/unpacked/")
    for path in directories:
        assert path.startswith(ours), path
        assert b".." not in os.fsencode(path).split(b"/"), path
    for option in options:
        assert option.partition("=")[2] in {"on", "off", "auto", "nofollow", "follow"}, option


def _see_plan(externals: tuple[External, ...]) -> None:
    """See that no source comes from a document but what every host has."""
    for each in externals:
        source = each.source
        assert source is None or source.startswith((_STACK, "/dev/", "/sys/fs/cgroup")), source


def _documents() -> Iterator[bytes]:
    yield to_json(hostile.document())
    external = "11 10 8:1 /srv/data /data rw - ext4 /dev/sda1 rw"
    group = "12 10 0:30 /web /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
    known = hostile.facts(f"{external}\n{group}")
    yield to_json(hostile.document(known=known))


# --- Layers ---------------------------------------------------------------------------------------


def _layer(top: str) -> Callable[[bytes], None]:
    path = os.path.join(top, "layer.tar")

    def run(data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(_repaired(data))
        with TarTree(encode(path), limits=_LAYER) as tree:
            view = View([Oci().layer(tree)], ())
            waiting = [b""]
            while waiting:
                directory = waiting.pop()
                for name in view.entries(directory):
                    assert name not in {b"", b".", b".."}
                    assert b"/" not in name
                    inside = b"/".join(filter(None, (directory, name)))
                    inode = view.inode(inside)
                    assert inode is not None
                    if inode.is_directory:
                        waiting.append(inside)
                    elif inode.is_file and inode.size < 1 << 16:
                        _read(view, inside)

    return run


def _read(view: View, path: bytes) -> None:
    content = view.content(path)
    os.pread(content.fd, content.size, content.offset)
    os.close(content.fd)


def _layers() -> Iterator[bytes]:
    yield from (each for name, each in hostile.MEMBERS.items() if name.endswith(".tar"))
    yield from (_small(each.make) for each in hostile.LAYERS.values())


# --- Signatures and images ------------------------------------------------------------------------


_SEED: Final = bytes(32)


def _signature(_top: str) -> Callable[[bytes], None]:
    key = read_public_key(keyfiles.public_line(_SEED))

    def run(data: bytes) -> None:
        verify(b"document", data, key)

    return run


def _signatures() -> Iterator[bytes]:
    for legacy in (False, True):
        yield keyfiles.signature(_SEED, b"document", b"a comment", legacy=legacy)


def _image(_top: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        image = parse(data, "x.img")
        assert len(image.to_bytes()) >= 0

    return run


def _images() -> Iterator[bytes]:
    mount = pb.MountEntry(fstype=1, mnt_id=1, root_dev=1, parent_mnt_id=2, flags=0)
    mount.root, mount.mountpoint, mount.source, mount.options = b"/", b"/a", b"b", b"c"
    messages = {
        PSTREE: pb.PstreeEntry(pid=1, ppid=0, pgid=1, sid=1, threads=[1]),
        MOUNTS: mount,
        MM: pb.MmEntry(),
        FILES: pb.FileEntry(type=1, id=1),
        GHOST_FILE: pb.GhostFile(),
    }
    for magic, message in messages.items():
        raw = message.SerializePartialToString()
        yield struct.pack("<3I", IMG_COMMON, magic, len(raw)) + raw


TARGETS: Final = {
    "archive": Target_(_archive, _archives),
    "bundle": Target_(_bundle, _bundles),
    "document": Target_(_document, _documents),
    "layer": Target_(_layer, _layers),
    "signature": Target_(_signature, _signatures),
    "image": Target_(_image, _images),
}

WORDS: Final = (
    b"..", b"/", b"\\\\056", b"\\u002e", b"ustar\x0000", b"GNU.sparse.map", b"GNU.sparse.size",
    b"GNU.sparse.offset", b"GNU.sparse.numblocks", b"GNU.sparse.major", b"SCHILY.xattr.",
    b"path=", b"linkpath=", b"size=", b"mtime=", b"uid=", b".wh.", b".wh..wh..opq", b"images/",
    b"layers/1.tar", b"layers/upper.tar", b"mounts/1", b"manifest.json", b"lowerdir+=", b"null",
    b'"redirect_dir=on"', b'"cgroup2"', b'"overlay"', b'"directory"', b'"source"', b'"stack"',
    b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x80", b"\xff" * 8,
)  # fmt: skip
"""Words that mean something, for whoever mutates."""
