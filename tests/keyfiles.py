# SPDX-License-Identifier: Apache-2.0
"""Keys and signatures as minisign writes them, made from seeds, so that they may be wrong too."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from pathlib import Path

KEY_ID: Final = bytes(range(1, 9))
NAME: Final = "807060504030201"
"""What minisign calls that id."""

LIMITS: Final = (32768, 1 << 24)
"""opslimit and memlimit that take 1 MiB and no time: N is 1024."""

NO_CHECKSUM: Final = bytes(32)
SALT: Final = bytes(range(32))


def _private(seed: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed)


def point(seed: bytes) -> bytes:
    """Give the public half of a key."""
    return _private(seed).public_key().public_bytes_raw()


def text(packed: bytes, comment: bytes = b"a key") -> bytes:
    """Give the two lines of a key file."""
    return b"untrusted comment: %s\n%s\n" % (comment, base64.b64encode(packed))


def public_line(seed: bytes, key_id: bytes = KEY_ID) -> str:
    """Give what `minisign -P` takes."""
    return base64.b64encode(b"Ed" + key_id + point(seed)).decode()


def public_text(seed: bytes, key_id: bytes = KEY_ID) -> bytes:
    """Give the file of a public key."""
    return text(b"Ed" + key_id + point(seed))


def _secret(seed: bytes, key_id: bytes) -> bytes:
    secret = key_id + seed + point(seed)
    return secret + hashlib.blake2b(b"Ed" + secret, digest_size=32).digest()


def plain_secret(seed: bytes, key_id: bytes = KEY_ID, *, checksum: bytes | None = None) -> bytes:
    """Give the bytes of a secret key without a password."""
    secret = _secret(seed, key_id)
    if checksum is not None:
        secret = secret[:-32] + checksum
    return b"Ed\0\0B2" + bytes(48) + secret


def encrypted_secret(
    seed: bytes, password: bytes, key_id: bytes = KEY_ID, *, limits: tuple[int, int] = LIMITS
) -> bytes:
    """Give the bytes of a secret key with a password; `limits` are only written down."""
    stream = hashlib.scrypt(password, salt=SALT, n=1024, r=8, p=1, dklen=104)
    covered = bytes(a ^ b for a, b in zip(_secret(seed, key_id), stream, strict=True))
    return b"EdScB2" + SALT + struct.pack("<QQ", *limits) + covered


def signature(seed: bytes, data: bytes, comment: bytes, *, legacy: bool = False) -> bytes:
    """Give a `.minisig` file with the key of that seed, as `minisign -S`, or `-S -l`, writes it."""
    message = data if legacy else hashlib.blake2b(data).digest()
    signed = _private(seed).sign(message)
    first = base64.b64encode((b"Ed" if legacy else b"ED") + KEY_ID + signed)
    second = base64.b64encode(_private(seed).sign(signed + comment))
    lines = (b"untrusted comment: by a test", first, b"trusted comment: " + comment, second)
    return b"\n".join(lines) + b"\n"


def write_secret(directory: Path, packed: bytes) -> KPath:
    """Write a secret key that only its owner can read."""
    path = directory / "test.key"
    path.touch(0o600)
    path.write_bytes(text(packed))
    return encode(str(path))
