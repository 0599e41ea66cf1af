# SPDX-License-Identifier: Apache-2.0
"""
Detached signatures in the format of minisign, over bytes such as the manifest of a bundle.

A key is made by `minisign -G`, and a signature is checked by `minisign -V` as well as by this
module. All files are a comment that nobody signed and a line of base64, of these bytes:

    public key  "Ed", id of the key (8), point (32)
    secret key  "Ed", "Sc" or two zero bytes, "B2", salt (32), opslimit (8), memlimit (8), and,
                under "Sc" xored with what scrypt makes of the password:
                id of the key (8), seed (32), point (32), BLAKE2b-256 of "Ed", id, seed, point
    signature   "ED" where the BLAKE2b-512 of the data is signed, "Ed" where the data is, id of
                the key (8), signature (64)

A signature has two more lines: the trusted comment, and a signature (64) of the first signature
and that comment. Numbers are little-endian. Keys without a password that minisign 0.11 made have
zero bytes for their checksum; the point, which follows from the seed, is compared all the same.

Ed25519 is that of the package cryptography, which `mountcr[sign]` brings; it is imported when
something is signed, verified or read as a secret key.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.errors import (
    CapabilityError,
    DocumentError,
    MountcrError,
    NotFoundError,
    UsageError,
    VerificationError,
)
from mountcr.paths import decode, encode
from mountcr.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

    from mountcr.paths import KPath

__all__ = [
    "PublicKey",
    "SecretKey",
    "read_public_key",
    "read_secret_key",
    "scrypt_parameters",
    "sign",
    "verify",
]

_UNTRUSTED: Final = b"untrusted comment: "
_TRUSTED: Final = b"trusted comment: "

_ED25519: Final = b"Ed"
_PREHASHED: Final = b"ED"
_SCRYPT: Final = b"Sc"
_PLAIN: Final = b"\0\0"
_BLAKE2B: Final = b"B2"

_ID: Final = 8
_KEY: Final = 32
_SIGNATURE: Final = 64
_SECRET: Final = slice(54, 158)
"""What the password covers of a secret key; it ends with the checksum."""

_PUBLIC_SIZE: Final = len(_ED25519) + _ID + _KEY
_SECRET_SIZE: Final = _SECRET.stop
_SIGNATURE_SIZE: Final = len(_ED25519) + _ID + _SIGNATURE

_LONGEST_FILE: Final = 16 * 1024
"""In bytes; more is none of these files."""

_LONGEST_COMMENT: Final = 4077
"""In bytes; minisign 0.11 writes no longer one."""

_OPSLIMIT: Final = 1 << 25
_MEMLIMIT: Final = 1 << 30
"""In bytes. Both are what minisign asks for, the `SENSITIVE` of libsodium, or halves of it."""


class PublicKey(Record, frozen=True, kw_only=True):
    """What a signature is verified by."""

    key_id: bytes
    point: bytes

    @property
    def name(self) -> str:
        """The id as minisign prints it."""
        return _name(self.key_id)


class SecretKey:
    """What data is signed by. Its text tells the id only."""

    __slots__ = ("_private", "public")

    def __init__(self, public: PublicKey, private: Ed25519PrivateKey) -> None:
        self.public = public
        self._private = private

    def __repr__(self) -> str:
        return f"<SecretKey {self.public.name}>"

    def sign(self, message: bytes) -> bytes:
        """Give the 64 bytes of an Ed25519 signature, the same for the same message."""
        return self._private.sign(message)


# --- Signatures -----------------------------------------------------------------------------------


def sign(data: bytes, key: SecretKey, *, comment: str) -> bytes:
    """
    Give the text of a `.minisig` file, the same for the same data, key and comment.

    The comment is signed too. It is one line of printable characters and tabs; raises UsageError
    for another one, and for one of more than 4077 bytes.
    """
    text = _checked(comment)
    signature = key.sign(hashlib.blake2b(data).digest())
    lines = (
        _UNTRUSTED + f"signature by the key {key.public.name}".encode(),
        _base64(_PREHASHED + key.public.key_id + signature),
        _TRUSTED + text,
        _base64(key.sign(signature + text)),
    )
    return b"\n".join(lines) + b"\n"


def _checked(comment: str) -> bytes:
    if not comment.replace("\t", " ").isprintable():
        raise UsageError(
            f"the comment of a signature is one line of printable characters: {comment!a:.80}",
            hint="leave out line breaks and control characters",
        )
    text = comment.encode()
    if len(text) > _LONGEST_COMMENT:
        raise UsageError(
            f"the comment of a signature has {len(text)} of at most {_LONGEST_COMMENT} bytes",
            hint="say less in it",
        )
    return text


class _Signature(NamedTuple):
    """A `.minisig` file."""

    prehashed: bool
    key_id: bytes
    signature: bytes
    comment: bytes
    of_comment: bytes


def verify(data: bytes, signature: bytes, key: PublicKey) -> str:
    """
    Give the trusted comment of a signature of these bytes; what is not printable is escaped.

    `signature` is the content of a `.minisig` file. Raises VerificationError when it is by another
    key, which is named, of other data, or has another comment; DocumentError, with the line, when
    it is no such file; CapabilityError without the package cryptography.
    """
    parsed = _parse_signature(signature)
    if parsed.key_id != key.key_id:
        raise VerificationError(
            f"the signature is by the key {_name(parsed.key_id)}, not by {key.name}",
            hint="give the public key of whoever signed, or do not trust it",
        )
    message = hashlib.blake2b(data).digest() if parsed.prehashed else data
    public = _public(key)
    if not _is_by(public, parsed.signature, message):
        raise VerificationError(
            f"the signature by the key {key.name} is not one of this data",
            hint="one of the two was changed, or they do not belong together",
        )
    if not _is_by(public, parsed.of_comment, parsed.signature + parsed.comment):
        raise VerificationError(
            f"the trusted comment is not the one that the key {key.name} signed",
            hint="it was changed; what it says is not to be trusted",
        )
    return _shown(parsed.comment)


def _parse_signature(content: bytes) -> _Signature:
    where = "signature"
    if len(content) > _LONGEST_FILE:
        raise _damaged(where, f"has {len(content)} bytes, which is too long for one", "signature")
    _, first, comment, second = _lines(content, where, (_UNTRUSTED, b"", _TRUSTED, b""))
    packed = _unbase64(first, _SIGNATURE_SIZE, f"{where}: line 2")
    algorithm, key_id, signature = packed[:2], packed[2:10], packed[10:]
    if algorithm not in (_PREHASHED, _ED25519):
        raise _damaged(f"{where}: line 2", f"algorithm {algorithm!r} is unknown", "signature")
    return _Signature(
        prehashed=algorithm == _PREHASHED,
        key_id=key_id,
        signature=signature,
        comment=comment,
        of_comment=_unbase64(second, _SIGNATURE, f"{where}: line 4"),
    )


def _shown(comment: bytes) -> str:
    text = comment.decode(errors="backslashreplace")
    return "".join(
        each if each.isprintable() or each == "\t" else each.encode("unicode_escape").decode()
        for each in text
    )


# --- Keys -----------------------------------------------------------------------------------------


def read_public_key(path_or_text: str) -> PublicKey:
    """
    Read the public key in a file that `minisign -G` wrote, or its line of base64 itself.

    Raises NotFoundError for a file that is not there, DocumentError, with the file and the line,
    for one that holds no key.
    """
    packed = _decoded(path_or_text.strip().encode(errors="surrogateescape"))
    if packed is not None and len(packed) == _PUBLIC_SIZE:
        return _parse_public(packed, "public key")
    path = encode(path_or_text)
    content = _read(path, "public key")
    _, line = _lines(content, path, (_UNTRUSTED, b""))
    return _parse_public(_unbase64(line, _PUBLIC_SIZE, f"{path}: line 2"), path)


def _parse_public(packed: bytes, where: str) -> PublicKey:
    if not packed.startswith(_ED25519):
        raise _damaged(where, f"algorithm {packed[:2]!r} is not Ed25519", "public key")
    return PublicKey(key_id=packed[2:10], point=packed[10:])


def read_secret_key(path: KPath, password: Callable[[], bytes] | None = None) -> SecretKey:
    """
    Read a secret key that `minisign -G` made; `password` is called if it is encrypted.

    As ssh does, a key of the caller's own that others may read is refused. scrypt gets at most
    the 1 GiB of memory that minisign asks for.

    Raises NotFoundError for a file that is not there, DocumentError, with the file and the field,
    for one that is no secret key, is readable by others, or that the password does not fit;
    CapabilityError without the package cryptography; MountcrError where there is not as much
    memory.
    """
    content = _read(path, "secret key", private=True)
    _, line = _lines(content, path, (_UNTRUSTED, b""))
    packed = _unbase64(line, _SECRET_SIZE, f"{path}: line 2")
    algorithm, derivation, checksum = packed[0:2], packed[2:4], packed[4:6]
    for field, value, known in (
        ("algorithm", algorithm, (_ED25519,)),
        ("key derivation", derivation, (_SCRYPT, _PLAIN)),
        ("checksum algorithm", checksum, (_BLAKE2B,)),
    ):
        if value not in known:
            raise _damaged(f"{path}: {field}", f"{value!r} is unknown", "secret key")
    if derivation == _PLAIN:
        return _open_secret(packed[_SECRET], path, encrypted=False)
    if password is None:
        raise DocumentError(
            f"{path}: the secret key is encrypted, and there is no password",
            hint="give its password, or make a key without one: minisign -G -W",
        )
    stream = _stream(password(), packed, path)
    opened = bytes(one ^ other for one, other in zip(packed[_SECRET], stream, strict=True))
    return _open_secret(opened, path, encrypted=True)


def _open_secret(secret: bytes, path: KPath, *, encrypted: bool) -> SecretKey:
    key_id, seed, point, checksum = secret[:8], secret[8:40], secret[40:72], secret[72:]
    right = hashlib.blake2b(_ED25519 + secret[:72], digest_size=_KEY).digest()
    unset = not encrypted and not any(checksum)
    if checksum != right and not unset:
        if encrypted:
            raise DocumentError(
                f"{path}: the password does not fit the secret key, or its checksum is damaged",
                hint="try the password again; minisign -R tells the same",
            )
        raise _damaged(f"{path}: checksum", "is not that of the key", "secret key")
    ed25519 = _ed25519()
    private: Ed25519PrivateKey = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    if private.public_key().public_bytes_raw() != point:
        raise _damaged(f"{path}: secret key", "its two halves do not fit", "secret key")
    return SecretKey(PublicKey(key_id=key_id, point=point), private)


def _stream(password: bytes, packed: bytes, path: KPath) -> bytes:
    salt = packed[6:38]
    opslimit, memlimit = (int.from_bytes(packed[at : at + 8], "little") for at in (38, 46))
    for field, value, most in (
        ("opslimit", opslimit, _OPSLIMIT),
        ("memlimit", memlimit, _MEMLIMIT),
    ):
        if value > most:
            raise _damaged(f"{path}: {field}", f"{value} is more than {most}", "secret key")
    cost, block, parallel = scrypt_parameters(opslimit, memlimit)
    memory = 128 * block * (cost + parallel)
    size = _SECRET.stop - _SECRET.start
    try:
        return hashlib.scrypt(
            password,
            salt=salt,
            n=cost,
            r=block,
            p=parallel,
            maxmem=memory + (1 << 16),
            dklen=size,
        )
    except (MemoryError, ValueError):
        raise MountcrError(
            f"{path}: the password of the secret key takes {memory >> 20} MiB of memory to check",
            hint="free as much, or make a key without a password: minisign -G -W",
        ) from None


def scrypt_parameters(opslimit: int, memlimit: int) -> tuple[int, int, int]:
    """
    Give scrypt's N, r and p as libsodium takes them from its two limits.

    It is `pickparams()` in crypto_pwhash/scryptsalsa208sha256 of libsodium. N and p together are
    at most `opslimit` / 32, so that memory is at most 32 times it.
    """
    operations, block = max(opslimit, 32768), 8
    if operations < memlimit // 32:
        most, parallel = operations // (block * 4), 1
        return 1 << _exponent(most), block, parallel
    cost = 1 << _exponent(memlimit // (block * 128))
    return cost, block, min(operations // 4 // cost, 0x3FFFFFFF) // block


def _exponent(most: int) -> int:
    return next(each for each in range(1, 63) if 1 << each > most // 2)


# --- Files ----------------------------------------------------------------------------------------


def _read(path: KPath, what: str, *, private: bool = False) -> bytes:
    try:
        with open(decode(path), "rb") as file:
            if private:
                _refuse_open_to_others(os.fstat(file.fileno()), path)
            content = file.read(_LONGEST_FILE + 1)
    except FileNotFoundError:
        raise NotFoundError(
            f"no such file: {path}", hint=f"name the {what} that minisign -G made"
        ) from None
    if len(content) > _LONGEST_FILE:
        raise _damaged(path, "is too long for one", what)
    return content


def _refuse_open_to_others(status: os.stat_result, path: KPath) -> None:
    # sshkey_perm_ok() in OpenSSH's authfile.c: what belongs to another user, root say, is its.
    others = stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    if others and status.st_uid == os.getuid():
        raise DocumentError(
            f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets others read the secret key",
            hint="take it from them: chmod 600",
        )


def _lines(content: bytes, where: str, prefixes: tuple[bytes, ...]) -> list[bytes]:
    """Give the lines without their ends and prefixes; there are as many as prefixes."""
    lines = content.removesuffix(b"\n").split(b"\n")
    if len(lines) != len(prefixes):
        what = f"{len(lines)} line(s) instead of {len(prefixes)}"
        raise DocumentError(f"{where}: {what}", hint=_HINT)
    for number, (line, prefix) in enumerate(zip(lines, prefixes, strict=True), 1):
        if not line.startswith(prefix):
            text = f"does not begin with {prefix.decode()!r}"
            raise DocumentError(f"{where}: line {number} {text}", hint=_HINT)
    return [
        line.removeprefix(prefix).removesuffix(b"\r")
        for line, prefix in zip(lines, prefixes, strict=True)
    ]


_HINT: Final = "give a file of minisign"


def _damaged(where: str, complaint: str, what: str) -> DocumentError:
    return DocumentError(f"{where}: {complaint}", hint=f"give a {what} of minisign")


def _base64(packed: bytes) -> bytes:
    return binascii.b2a_base64(packed, newline=False)


def _decoded(line: bytes) -> bytes | None:
    """Undo base64; nothing for what base64 does not write that way."""
    try:
        packed = binascii.a2b_base64(line, strict_mode=True)
    except ValueError:
        return None
    return packed if _base64(packed) == line else None


def _unbase64(line: bytes, size: int, where: str) -> bytes:
    packed = _decoded(line)
    if packed is None or len(packed) != size:
        raise DocumentError(f"{where} is not the base64 of {size} bytes", hint=_HINT)
    return packed


def _name(key_id: bytes) -> str:
    # minisign.c has PRIX64 without a width, so there are no zeros in front
    return f"{int.from_bytes(key_id, 'little'):X}"


# --- Ed25519 --------------------------------------------------------------------------------------


def _ed25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise CapabilityError(
            f"signatures need the Python package cryptography: {error}",
            probe="cryptography",
            hint="install it, as with: pip install 'mountcr[sign]'",
        ) from error
    return ed25519


def _public(key: PublicKey) -> Ed25519PublicKey:
    public: Ed25519PublicKey = _ed25519().Ed25519PublicKey.from_public_bytes(key.point)
    return public


def _is_by(public: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, message)
    except InvalidSignature:
        return False
    return True
