# SPDX-License-Identifier: Apache-2.0
"""
Bundles as nobody should write them: a valid one, made by hand, and one thing wrong in each other.

Nothing here looks at the machine. `SPOILED` has those that are refused while they are read, and
`LAYERS` tars that are refused when they are unpacked, each with the rule that an error has to name.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import builders
from mountcr.bundle.document import Bundle, BundleLayer, Carried, Digested, to_json
from mountcr.compression import Compression, Level, compressed
from mountcr.criu.options import CgroupMode
from mountcr.manifest import Manifest
from mountcr.model import CgroupMember, InodeType
from mountcr.paths import KPath
from mountcr.planning.planner import make_plan
from mountcr.planning.records import Rootfs
from mountcr.record import Record
from mountcr.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mountcr.model import Facts

    Change = Callable[[dict[str, Any]], None]

__all__ = [
    "ARCHIVES",
    "DOCUMENTS",
    "IDS",
    "LAYERS",
    "MEMBERS",
    "ROOT",
    "SPOILED",
    "Spoiled",
    "bundle",
    "document",
    "facts",
    "member",
    "outer",
    "tar",
]

ROOT: Final = "10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w"
HOST: Final = """\
1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
5 1 0:50 / /srv/web/rootfs rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
7 1 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
"""


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, **fields: Any) -> bytes:
    """Give a tar of regular files, by name and content, and of members that are given whole."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, **fields) as archive:
        for each in members:
            if isinstance(each, tarfile.TarInfo):
                archive.addfile(each, io.BytesIO(bytes(each.size)))
                continue
            info = member(each[0], size=len(each[1]))
            archive.addfile(info, io.BytesIO(each[1]))
    return file.getvalue()


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    """Give a member of a tar."""
    found = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(found, field, value)
    return found


MEMBERS: Final[Mapping[str, bytes]] = {
    "images/inventory.img": struct.pack("<I", 0x58313116),
    "mounts/1.tar": tar(member("./", type=tarfile.DIRTYPE, mode=0o755), ("file", b"volume")),
    "mounts/2": b"web\n",
    "layers/1.tar": tar(("etc/hosts", b"127.0.0.1 localhost\n")),
    "layers/upper.tar": tar(("etc/new", b"new\n")),
}


def facts(mounts: str = "", host: str = "", *, cgroup_namespace: bool = True) -> Facts:
    """Give the facts of a container on an overlay, with more mounts in it and on its host."""
    found = builders.facts(
        f"{ROOT}\n{mounts}",
        f"{HOST}{host}",
        rootfs=KPath("/srv/web/rootfs"),
        cgroup_namespace=cgroup_namespace,
    )
    group = CgroupMember(hierarchy=0, controllers="", path=KPath("/web"))
    task = _replaced(found.tasks[0], cgroups=(group,))
    known: Facts = _replaced(found, tasks=(task,))
    return known


def _replaced(record: Any, **fields: Any) -> Any:
    import msgspec

    assert isinstance(record, Record)
    return msgspec.structs.replace(record, **fields)


def document(members: Mapping[str, bytes] = MEMBERS, known: Facts | None = None) -> Bundle:
    """Give the document of a bundle with these members."""
    known = known or facts()
    stack = Stack(driver="overlay", lowers=(KPath("/l"),), upper=KPath("/u"), work=KPath("/w"))
    dump = Manifest(
        created="2026-01-01T00:00:00Z",
        facts=known,
        rootfs=Rootfs(driver="overlay", origin=stack, layers=stack.lowers, upper=stack.upper),
        externals=(),
        inherited=(),
        cgroups=CgroupMode.IGNORE,
        files=(),
    )
    carried = (
        Carried(mountpoint=KPath("/data"), member="mounts/1.tar", type=InodeType.DIRECTORY),
        Carried(mountpoint=KPath("/etc/hostname"), member="mounts/2", type=InodeType.FILE),
    )
    return Bundle(
        mountcr="0",
        kernel="6.1",
        criu="4.1.1",
        plan=make_plan(known),
        dump=dump,
        layers=(BundleLayer(member="layers/1.tar"),),
        mounts=carried,
        members=tuple(
            Digested(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in members.items()
        ),
    )


def outer(text: bytes, members: Mapping[str, bytes] = MEMBERS) -> bytes:
    """Give the archive of a document and members."""
    return tar(("manifest.json", text), *members.items())


def bundle(
    change: Change | None = None,
    members: Mapping[str, bytes] | None = None,
    known: Facts | None = None,
) -> bytes:
    """Give a bundle; `members` replace or add to the usual ones, `change` is done to its JSON."""
    whole = {**MEMBERS, **(members or {})}
    text = to_json(document(whole, known))
    if change is not None:
        decoded = json.loads(text)
        change(decoded)
        # as mountcr writes it, other characters as they are
        text = json.dumps(decoded, ensure_ascii=False, separators=(",", ":")).encode()
    return outer(text, whole)


# --- What is refused while it is read -------------------------------------------------------------


class Spoiled(NamedTuple):
    """An archive, made when it is wanted, what its error says, and the rule that it names."""

    make: Callable[[], bytes]
    said: str
    rule: str


def _with(*more: tuple[str, bytes] | tarfile.TarInfo) -> Callable[[], bytes]:
    """Give a maker of the valid bundle with more members behind the document."""
    return lambda: tar(("manifest.json", to_json(document())), *more, *MEMBERS.items())


def _kind(kind: bytes, **fields: Any) -> Callable[[], bytes]:
    return _with(member("images/core-1.img", type=kind, **fields))


def _set(*path: str | int, to: Any) -> Callable[[], bytes]:
    """Give a maker of the bundle with one value of its document changed."""

    def change(decoded: Any) -> None:
        *above, last = path
        for key in above:
            decoded = decoded[key]
        decoded[last] = to

    return lambda: bundle(change)


def _added(key: str, value: dict[str, Any]) -> Callable[[], bytes]:
    return lambda: bundle(lambda decoded: decoded[key].append(value))


def _named(name: str) -> Spoiled:
    """Give a bundle with a member of that name, which its document names too."""
    last = name.rpartition("/")[2]
    return Spoiled(lambda: bundle(members={name: b"x"}), last[:20], "names of members")


def zeros(begin: bytes, size: int) -> bytes:
    """Compress something and zeros behind it, without having them."""
    packed = io.BytesIO()
    with compressed(packed, Level(Compression.ZSTD)) as file:
        file.write(begin)
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return packed.getvalue()


def compressed_member() -> bytes:
    """Give a bundle with an image of 16 GiB of zeros, as far as anybody would read it."""
    name, size = "images/pages-1.img", 1 << 34

    def change(decoded: dict[str, Any]) -> None:
        decoded["members"].append({"name": name, "size": size, "sha256": "0" * 64})

    whole = bundle(change)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        last = archive.getmembers()[-1]
    whole = whole[: last.offset_data + last.size + -last.size % 512]
    return zeros(whole + header(name, tarfile.REGTYPE, size), 1 << 28)


def header(name: str, kind: bytes, size: int) -> bytes:
    """Give the header of a member that has none of what it says."""
    return member(name, type=kind, size=size).tobuf(tarfile.GNU_FORMAT)


def nested_headers(count: int) -> bytes:
    """Give extended headers that describe extended headers."""
    field = b"13 comment=x\n".ljust(512, b"\0")
    return (header("x", tarfile.XHDTYPE, 13) + field) * count


def sparse_map(blocks: int) -> bytes:
    """Give a sparse member of GNU tar whose map goes on in many blocks."""
    first = bytearray(header("sparse", tarfile.GNUTYPE_SPARSE, 0))
    first[482] = 1  # it is extended
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    more = (b"00000000001\0" * 42).ljust(504, b"\0") + b"\1".ljust(8, b"\0")
    return bytes(first) + more * blocks


def backwards() -> bytes:
    """Give a member that is shorter than nothing, so that the next one would be itself."""
    info = bytearray(member("a").tobuf(tarfile.GNU_FORMAT))
    info[124:136] = (-1024 & ((1 << 96) - 1)).to_bytes(12, "big")
    info[124] = 0xFF
    info[148:156] = b" " * 8
    info[148:156] = b"%06o\0 " % sum(info)
    return bytes(info)


_HARD: Final = "images/core-1.img is "
_SHA: Final = "0" * 64

ARCHIVES: Final[Mapping[str, Spoiled]] = {
    "symbolic link": Spoiled(
        _kind(tarfile.SYMTYPE, linkname="/etc/passwd"), f"{_HARD}a symbolic", "types of members"
    ),
    "hard link": Spoiled(
        _kind(tarfile.LNKTYPE, linkname="manifest.json"), f"{_HARD}a hard", "types of members"
    ),
    "character device": Spoiled(
        _kind(tarfile.CHRTYPE, devmajor=1, devminor=1), f"{_HARD}a char", "types of members"
    ),
    "block device": Spoiled(
        _kind(tarfile.BLKTYPE, devmajor=8), f"{_HARD}a block", "types of members"
    ),
    "FIFO": Spoiled(_kind(tarfile.FIFOTYPE), f"{_HARD}a FIFO", "types of members"),
    "sparse": Spoiled(
        _kind(
            tarfile.REGTYPE,
            pax_headers={
                "GNU.sparse.size": "9",
                "GNU.sparse.map": "0,9",
                "GNU.sparse.numblocks": "1",
            },
        ),
        f"{_HARD}a sparse",
        "types of members",
    ),
    "absolute": Spoiled(_with(("/etc/cron.d/x", b"")), "/etc/cron.d/x", "names of members"),
    "upwards": Spoiled(_with(("../../x", b"")), "../../x", "names of members"),
    "inside upwards": Spoiled(_with(("images/../../x", b"")), "../../x", "names of members"),
    "directory upwards": Spoiled(
        _with(member("../x", type=tarfile.DIRTYPE)), "../x", "names of members"
    ),
    "name in a PAX header": Spoiled(
        _with(member("a", pax_headers={"path": "../../x"})), "../../x", "names of members"
    ),
    "twice": Spoiled(
        lambda: tar(("manifest.json", to_json(document())), *MEMBERS.items(), *MEMBERS.items()),
        "images/inventory.img is there twice",
        "duplicate members",
    ),
    "document twice": Spoiled(_with(("./manifest.json", b"{}")), "twice", "duplicate members"),
    "unnamed": Spoiled(_with(("images/core-2.img", b"")), "core-2.img", "unknown members"),
    "PAX bomb": Spoiled(
        lambda: header("x", tarfile.XHDTYPE, 1 << 30) + bytes(1 << 12),
        "has more than",
        "size of headers",
    ),
    "long name bomb": Spoiled(
        lambda: header("x", tarfile.GNUTYPE_LONGNAME, 1 << 40), "more than", "size of headers"
    ),
    "nested headers": Spoiled(lambda: nested_headers(5000), "recursion", "tar"),
    "sparse map bomb": Spoiled(lambda: sparse_map(200_000), "more than", "size of headers"),
    "global headers": Spoiled(
        lambda: tar(("a", b""), pax_headers={f"a{number}": "x" * 100 for number in range(5000)}),
        "global header",
        "size of headers",
    ),
    "backwards": Spoiled(backwards, "byte", "tar"),
    "size bomb": Spoiled(
        lambda: header("manifest.json", tarfile.REGTYPE, 1 << 42), "bytes", "size of documents"
    ),
    "compression bomb": Spoiled(compressed_member, "unpack to more than", "ratio"),
    "nothing but zeros": Spoiled(lambda: zeros(b"", 1 << 20), "bundle", ""),
}
"""Archives that are none of a bundle, or have more than it may have."""

DOCUMENTS: Final[Mapping[str, Spoiled]] = {
    "deep JSON": Spoiled(
        lambda: outer(b'{"schema":"mountcr/bundle/1","plan":' + b"[" * 1_000_000),
        "manifest",
        "document",
    ),
    "JSON bomb": Spoiled(
        lambda: outer(b'{"schema":"mountcr/bundle/1","left_out":["' + b'","' * 4_000_000 + b'"]}'),
        "more than",
        "size of documents",
    ),
    "document bomb": Spoiled(
        lambda: outer(b'{"schema":"' + b"x" * (1 << 27)), "bytes, more than", "size of documents"
    ),
    "hidden dots": Spoiled(
        _set("mounts", 0, "mountpoint", to=r"/\056\056/x"), r"\056", "spelling of paths"
    ),
    "hidden slash": Spoiled(
        _set("dump", "facts", "container", "rootfs", to=r"/a\x2fb"), r"\x2f", "spelling of paths"
    ),
    "hidden NUL": Spoiled(_set("dump", "facts", "mountcr", to=r"\000"), r"\000", "spelling"),
    "member upwards": _named("images/../../x.img"),
    "criu.conf": _named("images/criu.conf"),
    "restore.log": _named("images/restore.log"),
    "mountcr.json": _named("images/mountcr.json"),
    "fingerprint": _named("images/fingerprint.json"),
    "hidden image": _named("images/.x.img"),
    "plug-in": _named("images/cuda_plugin.so"),
    "image in a directory": _named("images/a/b.img"),
    "mount by name": _named("mounts/etc"),
    "layer by name": _named("layers/x.tar"),
    "elsewhere": _named("etc/passwd"),
    "at the top": _named("passwd"),
    "no digest": Spoiled(_set("members", 0, "sha256", to="../x"), "no SHA-256", "digests"),
    "less than nothing": Spoiled(_set("members", 0, "size", to=-1), "no size", "digests"),
    "named twice": Spoiled(
        _added("members", {"name": "mounts/2", "size": 4, "sha256": _SHA}), "twice", "duplicate"
    ),
    "layer outside": Spoiled(
        _set("layers", 0, "member", to="../../../etc/x.tar"), "../../../etc/x.tar", "layers"
    ),
    "layer of memory": Spoiled(
        _set("layers", 0, "member", to="images/inventory.img"), "inventory", "layers"
    ),
    "upper below itself": Spoiled(
        _set("layers", 0, "member", to="layers/upper.tar"), "as another", "layers"
    ),
    "DiffID of a path": Spoiled(
        _set("layers", 0, "diff_id", to="sha256:../../x"), "sha256:../../x", "digests"
    ),
    "chain id of a path": Spoiled(_set("layers", 0, "chain_id", to="/etc"), "/etc", "digests"),
    "mount of a host file": Spoiled(
        _set("mounts", 1, "member", to="../../../etc/shadow"), "../etc/shadow", "mounts"
    ),
    "mount of memory": Spoiled(
        _set("mounts", 1, "member", to="images/inventory.img"), "inventory.img", "mounts"
    ),
    "mount of the other kind": Spoiled(
        _set("mounts", 1, "type", to="directory"), "mounts/2", "mounts"
    ),
    "mount of a device": Spoiled(
        _set("mounts", 1, "type", to=InodeType.CHARACTER.value), "mounts/2", "mounts"
    ),
    "mountpoint upwards": Spoiled(
        _set("mounts", 1, "mountpoint", to="/../etc"), "/../etc", "mounts"
    ),
    "no mountpoint": Spoiled(_set("mounts", 1, "mountpoint", to="etc"), "etc", "mounts"),
    "owner": Spoiled(_set("mounts", 1, "uid", to=1 << 40), "no owner", "mounts"),
    "mode": Spoiled(_set("mounts", 1, "mode", to=-1), "no owner or mode", "mounts"),
    "control group upwards": Spoiled(
        _set("dump", "facts", "tasks", 0, "cgroups", 0, "path", to="/../../etc/x"),
        "/../../etc/x",
        "control groups",
    ),
    "control group with a slash behind": Spoiled(
        _set("dump", "facts", "tasks", 0, "cgroups", 0, "path", to="/web/"),
        "/web/",
        "control groups",
    ),
}
"""Bundles whose document says what it may not: whoever reads it finds that."""

SPOILED: Final[Mapping[str, Spoiled]] = {**ARCHIVES, **DOCUMENTS}

IDS: Final[Sequence[str]] = ("../x", "/etc", "a/b", "..", ".", "", "a\nb", "x" * 200, "-x", "a.")


# --- What is refused when it is unpacked ----------------------------------------------------------


def _layer(*members: tuple[str, bytes] | tarfile.TarInfo) -> Callable[[], bytes]:
    return lambda: tar(*members)


def _deep(members: int, depth: int) -> bytes:
    """Give members of which each lies in many directories that nobody else is in."""
    return tar(*((f"{number}/" + "a/" * depth + "f", b"") for number in range(members)))


LAYERS: Final[Mapping[str, Spoiled]] = {
    "absolute": Spoiled(_layer(("/etc/x", b"")), "/etc/x", "names of members"),
    "upwards": Spoiled(_layer(("../../x", b"")), "../../x", "names of members"),
    "inside upwards": Spoiled(_layer(("a/../../x", b"")), "a/../../x", "names of members"),
    "long name": Spoiled(_layer(("x" * 300, b"")), "has 300 bytes", "names of members"),
    "twice": Spoiled(_layer(("a", b""), ("./a", b"")), "/a is there twice", "duplicate members"),
    "below a link": Spoiled(
        _layer(member("a", type=tarfile.SYMTYPE, linkname="/etc"), ("a/x", b"")),
        "/a/x lies below /a",
        "types of members",
    ),
    "hard link outside": Spoiled(
        _layer(member("a", type=tarfile.LNKTYPE, linkname="../../etc/passwd")),
        "../../etc/passwd",
        "names of members",
    ),
    "hard link to a host path": Spoiled(
        _layer(member("a", type=tarfile.LNKTYPE, linkname="/etc/passwd")),
        "/etc/passwd",
        "names of members",
    ),
    "hard link to nothing": Spoiled(
        _layer(member("a", type=tarfile.LNKTYPE, linkname="nothing")), "/nothing", "hard links"
    ),
    "hard links in a ring": Spoiled(
        _layer(
            member("a", type=tarfile.LNKTYPE, linkname="b"),
            member("b", type=tarfile.LNKTYPE, linkname="a"),
        ),
        "itself",
        "hard links",
    ),
    "character device": Spoiled(
        _layer(member("mem", type=tarfile.CHRTYPE, devmajor=1, devminor=1)), "/mem", "devices"
    ),
    "block device": Spoiled(
        _layer(member("sda", type=tarfile.BLKTYPE, devmajor=8)), "/sda", "devices"
    ),
    "whiteout as a device": Spoiled(
        _layer(member("gone", type=tarfile.CHRTYPE)), "/gone", "devices"
    ),
    "whiteout of what is above": Spoiled(_layer((".wh...", b"")), "/.wh...", "whiteouts"),
    "owner": Spoiled(_layer(member("a", uid=1 << 33)), "the owner", "owners"),
    "time": Spoiled(_layer(member("a", pax_headers={"mtime": "1e99"})), "mtime", "times|tar"),
    "attribute bomb": Spoiled(
        _layer(member("a", pax_headers={"SCHILY.xattr.user.x": "x" * 70_000})),
        "70000 bytes",
        "extended attributes",
    ),
    "PAX bomb": Spoiled(
        lambda: header("x", tarfile.XHDTYPE, 1 << 30) + bytes(1 << 12),
        "more than",
        "size of headers",
    ),
    "nested headers": Spoiled(lambda: nested_headers(5000), "", "tar"),
    "sparse map bomb": Spoiled(lambda: sparse_map(50_000), "more than", "size of headers"),
    "sparse map backwards": Spoiled(
        _layer(
            member(
                "a",
                pax_headers={
                    "GNU.sparse.size": "99",
                    "GNU.sparse.numblocks": "2",
                    "GNU.sparse.map": "50,1,0,1",
                },
            )
        ),
        "/a has extents in no order",
        "sparse files",
    ),
    "sparse map beyond": Spoiled(
        _layer(
            member(
                "a",
                pax_headers={
                    "GNU.sparse.size": "9",
                    "GNU.sparse.numblocks": "1",
                    "GNU.sparse.map": "0,99",
                },
            )
        ),
        "/a has extents beyond its end",
        "sparse files",
    ),
    "size bomb": Spoiled(lambda: header("a", tarfile.REGTYPE, 1 << 50), "more than", "size|tar"),
    "backwards": Spoiled(backwards, "byte", "tar"),
    "compression bomb": Spoiled(lambda: zeros(b"", 1 << 28), "unpacks to more than", "ratio"),
    "deep nesting": Spoiled(lambda: _deep(500, 900), "in one directory too many", "members"),
    "cut off": Spoiled(lambda: MEMBERS["layers/upper.tar"][:700], "", "tar"),
    "no tar": Spoiled(lambda: b"x" * 2000, "", "tar"),
}
"""What unpacking a layer or a directory finds; the error names the tar, its member and the rule."""
