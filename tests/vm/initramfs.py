# SPDX-License-Identifier: Apache-2.0
"""
The initramfs: busybox, the modules that mountcr and CRIU need, and the first program of the guest.

Which modules a kernel has built in differs; one that it has not at all is left out.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vm.errors import VmError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["key", "write"]

GUEST: Final = Path(__file__).parent / "guest"

_MODULES: Final = (
    # the disks, and what is on them
    "virtio_pci", "virtio_blk", "virtio_rng", "squashfs", "ext4", "btrfs", "loop",
    # the subject
    "overlay", "fuse", "autofs4", "binfmt_misc",
    # sockets, for CRIU: criu/sockets.c
    "unix_diag", "inet_diag", "tcp_diag", "udp_diag", "raw_diag", "packet_diag", "netlink_diag",
    # CRIU locks the network, and does not start without nf_tables: criu/kerndat.c
    "nf_tables", "nfnetlink", "nft_ct", "nft_compat", "xt_mark", "xt_conntrack", "ip_tables",
    "iptable_filter", "ip6table_filter", "veth", "tun",
)  # fmt: skip


def key() -> str:
    """Give what changes when what is packed does."""
    content = [(GUEST / "init").read_bytes(), " ".join(_MODULES).encode()]
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:12]


def write(path: Path, tree: Path, release: str) -> None:
    """Write the archive for a kernel whose package was unpacked into a tree."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise VmError("there is no busybox", hint="tools/provision --kernels installs it")
    with tempfile.TemporaryDirectory(prefix="mountcr-vm-") as scratch:
        top = Path(scratch)
        for name in ("bin", "proc", "sys", "dev", "root", "modules"):
            (top / name).mkdir()
        shutil.copy(busybox, top / "bin/busybox")
        shutil.copy(GUEST / "init", top / "init")
        (top / "init").chmod(0o755)
        names = [_unpacked(each, top / "modules") for each in _modules(tree, release)]
        (top / "modules/order").write_text("\n".join(names), encoding="ascii")
        path.write_bytes(gzip.compress(_archive(top, busybox), compresslevel=1))


def _archive(top: Path, busybox: str) -> bytes:
    files = sorted(str(each.relative_to(top)) for each in top.rglob("*"))
    listing = "\n".join([".", *files]).encode()
    words = [busybox, "cpio", "-o", "-H", "newc"]
    done = subprocess.run(words, cwd=top, input=listing, capture_output=True, check=True)
    return done.stdout


def _modules(tree: Path, release: str) -> Iterator[Path]:
    """Give the files of the modules, each after those that it depends on."""
    subprocess.run(["depmod", "-b", tree, release], check=True, capture_output=True)
    seen: set[str] = set()
    for module in _MODULES:
        words = ["modprobe", "-d", str(tree), "-S", release, "--show-depends", module]
        shown = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        for line in shown.splitlines():
            word, _, path = line.strip().partition(" ")
            if word == "insmod" and path not in seen:
                seen.add(path)
                yield Path(path.split()[0])


def _unpacked(module: Path, into: Path) -> str:
    """Copy a module without its compression; give its name."""
    content = module.read_bytes()
    name = module.name
    if name.endswith(".xz"):
        content, name = lzma.decompress(content), name.removesuffix(".xz")
    elif name.endswith(".gz"):
        content, name = gzip.decompress(content), name.removesuffix(".gz")
    elif name.endswith(".zst"):
        words = ["zstd", "--decompress", "--stdout", str(module)]
        content = subprocess.run(words, capture_output=True, check=True).stdout
        name = name.removesuffix(".zst")
    (into / name).write_bytes(content)
    return name
