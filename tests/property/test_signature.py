# SPDX-License-Identifier: Apache-2.0
"""Signatures are read as they are written, and no changed bit gets through."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keyfiles
from mountcr.bundle.signature import (
    PublicKey,
    SecretKey,
    read_public_key,
    read_secret_key,
    scrypt_parameters,
    sign,
    verify,
)
from mountcr.errors import DocumentError, NotFoundError, VerificationError
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS: Final = st.binary(min_size=32, max_size=32)
PASSWORDS: Final = st.binary(max_size=40)
COMMENTS: Final = st.text(
    st.characters(categories=("L", "N", "P", "S")) | st.sampled_from(" \t"), max_size=200
)
REFUSALS: Final = (DocumentError, VerificationError)


def pair(seed: bytes, password: bytes | None = None) -> tuple[SecretKey, PublicKey]:
    """Read both halves of a key that was written."""
    packed = keyfiles.plain_secret(seed)
    if password is not None:
        packed = keyfiles.encrypted_secret(seed, password)
    with tempfile.TemporaryDirectory() as directory:
        path = keyfiles.write_secret(Path(directory), packed)
        secret = read_secret_key(path, None if password is None else lambda: password)
    return secret, read_public_key(keyfiles.public_line(seed))


@settings(deadline=None)
@given(SEEDS, PASSWORDS | st.none(), st.binary(), COMMENTS)
def test_what_was_signed_is_verified(
    seed: bytes, password: bytes | None, data: bytes, comment: str
) -> None:
    """Any data and comment, signed with any key, gives the comment when it is verified."""
    secret, public = pair(seed, password)
    assert secret.public == public
    assert verify(data, sign(data, secret, comment=comment), public) == comment


@settings(deadline=None)
@given(SEEDS, st.binary(), COMMENTS)
def test_a_signature_is_deterministic_and_minisigns(seed: bytes, data: bytes, comment: str) -> None:
    """But for the first line, it is byte by byte what the format says, each time."""
    secret, _ = pair(seed)
    signed = sign(data, secret, comment=comment)
    assert signed == sign(data, secret, comment=comment)
    expected = keyfiles.signature(seed, data, comment.encode())
    assert signed.split(b"\n")[1:] == expected.split(b"\n")[1:]


SEED: Final = b"\7" * 32
DATA: Final = b'{"schema": "mountcr/bundle/1"}'
COMMENT: Final = "web at noon"
EVERY_FORM: Final = pytest.mark.parametrize("legacy", [False, True], ids=["prehashed", "legacy"])


def flipped(content: bytes, bit: int) -> bytes:
    """Give the content with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@EVERY_FORM
def test_no_bit_of_the_data_can_be_changed(legacy: bool) -> None:
    """Data with any one bit changed is not the data that was signed."""
    public = read_public_key(keyfiles.public_line(SEED))
    signed = keyfiles.signature(SEED, DATA, COMMENT.encode(), legacy=legacy)
    assert verify(DATA, signed, public) == COMMENT
    for bit in range(8 * len(DATA)):
        with pytest.raises(VerificationError, match="not one of this data"):
            verify(flipped(DATA, bit), signed, public)


@EVERY_FORM
def test_no_bit_of_a_signature_can_be_changed(legacy: bool) -> None:
    """A signature with any one bit changed, but those of the untrusted comment, is refused."""
    public = read_public_key(keyfiles.public_line(SEED))
    signed = keyfiles.signature(SEED, DATA, COMMENT.encode(), legacy=legacy)
    free = range(8 * len(b"untrusted comment: "), 8 * signed.index(b"\n"))
    for bit in range(8 * len(signed)):
        if bit not in free:
            with pytest.raises(REFUSALS):
                verify(DATA, flipped(signed, bit), public)


def test_no_bit_of_a_public_key_can_be_changed() -> None:
    """A public key with any one bit changed verifies nothing."""
    signed = keyfiles.signature(SEED, DATA, COMMENT.encode())
    line = keyfiles.public_line(SEED).encode()
    for bit in range(8 * len(line)):
        with pytest.raises((*REFUSALS, NotFoundError)):  # or the name of no file
            verify(DATA, signed, read_public_key(flipped(line, bit).decode(errors="replace")))


@settings(deadline=None)
@given(st.binary(max_size=400), st.binary())
def test_bytes_that_are_no_signature_are_refused(content: bytes, data: bytes) -> None:
    """Whatever the file holds, it is no signature of anything, and nothing else is raised."""
    public = read_public_key(keyfiles.public_line(SEED))
    with pytest.raises(REFUSALS):
        verify(data, content, public)


@settings(deadline=None)
@given(st.binary(max_size=400) | st.binary(min_size=158, max_size=158).map(keyfiles.text))
def test_bytes_that_are_no_key_are_refused(content: bytes) -> None:
    """Whatever a key file holds, a key is read or a DocumentError says what is wrong."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "key"
        path.touch(0o600)
        path.write_bytes(content)
        for read in (
            lambda: read_secret_key(encode(str(path))),
            lambda: read_public_key(str(path)),
        ):
            with contextlib.suppress(DocumentError):
                read()


@pytest.mark.requires("minisign")
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 18), st.integers(0, 1 << 24), PASSWORDS)
def test_scrypt_takes_what_libsodium_takes(opslimit: int, memlimit: int, password: bytes) -> None:
    """For every pair of limits, the stream is the one that minisign's own library makes."""
    cost, block, parallel = scrypt_parameters(opslimit, memlimit)
    ours = hashlib.scrypt(
        password, salt=keyfiles.SALT, n=cost, r=block, p=parallel, maxmem=1 << 26, dklen=104
    )
    assert ours == sodium_stream()(password, opslimit, memlimit)


def sodium_stream() -> Callable[[bytes, int, int], bytes]:
    """Give crypto_pwhash_scryptsalsa208sha256() of the libsodium that minisign is linked with."""
    name = ctypes.util.find_library("sodium")
    if name is None:
        pytest.skip("minisign is there, but no libsodium that can be loaded")
    derive = ctypes.CDLL(name).crypto_pwhash_scryptsalsa208sha256
    size, wide = 104, ctypes.c_ulonglong

    def stream(password: bytes, opslimit: int, memlimit: int) -> bytes:
        out = ctypes.create_string_buffer(size)
        length = wide(len(password))
        salt, limits = keyfiles.SALT, (wide(opslimit), ctypes.c_size_t(memlimit))
        assert derive(out, wide(size), password, length, salt, *limits) == 0
        return out.raw

    return stream
