# SPDX-License-Identifier: Apache-2.0
"""Signatures that minisign takes, its keys and signatures, and what is said of bad ones."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Final, NoReturn

import pytest

import keyfiles
from mountcr.bundle.signature import (
    PublicKey,
    SecretKey,
    read_public_key,
    read_secret_key,
    sign,
    verify,
)
from mountcr.cli.password import VARIABLE, key_password
from mountcr.errors import (
    CapabilityError,
    DocumentError,
    MountcrError,
    NotFoundError,
    UsageError,
    VerificationError,
)
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEED: Final = b"\7" * 32
DATA: Final = b'{"schema": "mountcr/bundle/1"}'
PUBLIC: Final = read_public_key(keyfiles.public_line(SEED))


def signature(comment: bytes = b"web at noon") -> bytes:
    """Give a signature of DATA."""
    return keyfiles.signature(SEED, DATA, comment)


def no_password() -> NoReturn:
    """Fail: a key without a password needs none."""
    pytest.fail("a password was asked for")


# --- The real minisign ----------------------------------------------------------------------------


class Minisign:
    """The program, in a directory with a pair of keys."""

    def __init__(self, program: str, directory: Path) -> None:
        self.program, self.directory = program, directory
        self.secret = directory / "minisign.key"
        self.public = directory / "minisign.pub"
        self.data = directory / "data"
        self.data.write_bytes(DATA)

    def run(self, *options: str, words: str = "") -> subprocess.CompletedProcess[str]:
        """Run it; `words` is what is typed."""
        command = (self.program, *options)
        return subprocess.run(command, input=words, capture_output=True, text=True, check=False)

    def make_keys(self, password: str = "") -> None:
        """Make the pair, with a password if there is one."""
        plain = () if password else ("-W",)
        words = f"{password}\n" * 2
        self.run("-G", *plain, "-p", str(self.public), "-s", str(self.secret), words=words)

    def sign(self, *options: str) -> bytes:
        """Give its signature of the data."""
        made = self.directory / "its.minisig"
        words = ("-S", "-s", str(self.secret), "-m", str(self.data), "-x", str(made), *options)
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return made.read_bytes()

    def verdict(self, signed: bytes) -> str:
        """Give the trusted comment that it prints of a signature of the data, if it takes it."""
        given = self.directory / "ours.minisig"
        given.write_bytes(signed)
        words = ("-V", "-Q", "-p", str(self.public), "-m", str(self.data), "-x", str(given))
        done = self.run(*words)
        return done.stdout if done.returncode == 0 else f"refused: {done.stderr}"


@pytest.fixture(name="minisign")
def _minisign(require: Callable[[str], str], tmp_path: Path) -> Minisign:
    return Minisign(require("minisign"), tmp_path)


@pytest.mark.parametrize("options", [(), ("-l",)], ids=["prehashed", "legacy"])
def test_a_signature_of_minisign_is_verified(minisign: Minisign, options: tuple[str, ...]) -> None:
    """What minisign signed, either way, is verified with the file or the text of its key."""
    minisign.make_keys()
    signed = minisign.sign("-t", "by minisign\tand nobody else", *options)
    line = minisign.public.read_text("utf-8").splitlines()[1]
    for key in (str(minisign.public), line, f" {line}\n"):
        assert verify(DATA, signed, read_public_key(key)) == "by minisign\tand nobody else"
    with pytest.raises(VerificationError):
        verify(DATA + b" ", signed, read_public_key(line))


@pytest.mark.parametrize("comment", ["", "web at noon", "größer\t→ 2", "x" * 4077])
def test_minisign_verifies_ours(minisign: Minisign, comment: str) -> None:
    """The program takes a signature by its key, and reads the trusted comment in it."""
    minisign.make_keys()
    key = read_secret_key(encode(str(minisign.secret)), no_password)
    signed = sign(DATA, key, comment=comment)
    assert minisign.verdict(signed) == f"{comment}\n"
    minisign.data.write_bytes(DATA + b" ")
    assert minisign.verdict(signed).startswith("refused")


def test_a_key_that_minisign_encrypted_is_opened_by_its_password(minisign: Minisign) -> None:
    """The password opens the key, another one is told to be wrong; minisign takes what it signs."""
    minisign.make_keys("let me in")
    path = encode(str(minisign.secret))
    key = read_secret_key(path, lambda: b"let me in")
    assert key.public == read_public_key(str(minisign.public))
    assert key.public.name in minisign.public.read_text("utf-8")
    assert minisign.verdict(sign(DATA, key, comment="opened")) == "opened\n"
    with pytest.raises(DocumentError, match="password does not fit") as caught:
        read_secret_key(path, lambda: b"let me out")
    assert caught.value.message.startswith(f"{path}: ")


# --- What is wrong is said in a line --------------------------------------------------------------


def says(error: MountcrError, *parts: str) -> None:
    """Hold an error to one line with these words in it, and a hint."""
    assert "\n" not in error.message
    assert error.hint
    for part in parts:
        assert part in error.message


def changed(line: int, content: bytes) -> bytes:
    """Give a signature with another line."""
    lines = signature().split(b"\n")
    lines[line - 1] = content
    return b"\n".join(lines)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "1 line(s) instead of 4"),
        (b"\x1f\x8b\x08" * 9, "1 line(s) instead of 4"),
        (signature() + b"\n", "5 line(s)"),
        (signature() + signature(), "8 line(s)"),
        (b"\n" * 20_000, "20000 bytes"),
        (changed(1, b"comment"), "line 1 does not begin with 'untrusted comment: '"),
        (changed(3, b"comment: "), "line 3 does not begin with 'trusted comment: '"),
        (changed(2, b"*"), "line 2 is not the base64 of 74 bytes"),
        (changed(2, signature().split(b"\n")[3]), "line 2 is not the base64 of 74 bytes"),
        (changed(4, b""), "line 4 is not the base64 of 64 bytes"),
        (changed(2, signature().split(b"\n")[1].replace(b"R", b"Q", 1)), "algorithm b'AD'"),
    ],
)
def test_a_file_that_is_no_signature_is_refused(content: bytes, part: str) -> None:
    """The line and what is wrong with it are named."""
    with pytest.raises(DocumentError) as caught:
        verify(DATA, content, PUBLIC)
    says(caught.value, "signature: ", part)
    assert caught.value.exit_status == 2


def test_a_signature_by_another_key_names_both() -> None:
    """The ids are those that minisign prints."""
    other = PublicKey(key_id=b"\xff" * 8, point=PUBLIC.point)
    with pytest.raises(VerificationError) as caught:
        verify(DATA, signature(), other)
    says(caught.value, keyfiles.NAME, "F" * 16)
    assert caught.value.exit_status == 5


def test_a_signature_by_a_key_that_took_the_id_of_another_is_refused() -> None:
    """The id alone is no proof."""
    forged = keyfiles.signature(b"\0" * 32, DATA, b"web at noon")
    with pytest.raises(VerificationError) as caught:
        verify(DATA, forged, PUBLIC)
    says(caught.value, keyfiles.NAME)


def test_the_comment_of_another_signature_is_refused() -> None:
    """A trusted comment is signed with the signature that it stands below."""
    lines = signature().split(b"\n")
    other = keyfiles.signature(SEED, DATA + b" ", b"web at night").split(b"\n")
    with pytest.raises(VerificationError) as caught:
        verify(DATA, b"\n".join((*lines[:2], *other[2:])), PUBLIC)
    says(caught.value, "trusted comment", keyfiles.NAME)


def test_a_comment_moves_no_cursor() -> None:
    """What is not printable in a comment that was signed is escaped."""
    assert verify(DATA, signature(b"a\x1b[2J\xff\xc2\x9bz"), PUBLIC) == r"a\x1b[2J\xff\x9bz"


def test_lines_may_end_as_on_windows() -> None:
    """Line ends that a mail program changed change no meaning, as minisign has it."""
    assert verify(DATA, signature().replace(b"\n", b"\r\n"), PUBLIC) == "web at noon"
    assert verify(DATA, signature().removesuffix(b"\n"), PUBLIC) == "web at noon"


@pytest.mark.parametrize("comment", ["a\nb", "a\r", "\x1b[2J", "\0", "x" * 4078, "ü" * 2039])
def test_a_comment_that_minisign_does_not_take_is_refused(comment: str, tmp_path: Path) -> None:
    """It has one line of printable characters, as long as minisign can write one."""
    key = secret_of(tmp_path)
    with pytest.raises(UsageError) as caught:
        sign(DATA, key, comment=comment)
    says(caught.value, "comment")


def secret_of(directory: Path) -> SecretKey:
    """Read a secret key that was written there."""
    return read_secret_key(keyfiles.write_secret(directory, keyfiles.plain_secret(SEED)))


PLAIN: Final = keyfiles.plain_secret(SEED)
ENCRYPTED: Final = keyfiles.encrypted_secret(SEED, b"open")


def with_bytes(packed: bytes, at: int, new: bytes) -> bytes:
    """Give the bytes of a key with others in one place."""
    return packed[:at] + new + packed[at + len(new) :]


@pytest.mark.parametrize(
    ("packed", "part"),
    [
        (PLAIN[:-1], "line 2 is not the base64 of 158 bytes"),
        (b"Ed" + keyfiles.KEY_ID + keyfiles.point(SEED), "line 2 is not the base64 of 158 bytes"),
        (with_bytes(PLAIN, 0, b"Rs"), "algorithm: b'Rs'"),
        (with_bytes(PLAIN, 2, b"Ar"), "key derivation: b'Ar'"),
        (with_bytes(PLAIN, 4, b"B3"), "checksum algorithm: b'B3'"),
        (with_bytes(PLAIN, 157, bytes([PLAIN[157] ^ 1])), "checksum: "),
        (
            with_bytes(keyfiles.plain_secret(SEED, checksum=keyfiles.NO_CHECKSUM), 62, bytes(32)),
            "two halves do not fit",
        ),
        (keyfiles.encrypted_secret(SEED, b"open", limits=(1 << 26, 1 << 30)), "opslimit: 67108864"),
        (keyfiles.encrypted_secret(SEED, b"open", limits=(0, 2**64 - 1)), "memlimit: 1844674407"),
        (keyfiles.encrypted_secret(SEED, b"shut"), "password does not fit"),
    ],
)
def test_a_file_that_is_no_secret_key_is_refused(packed: bytes, part: str, tmp_path: Path) -> None:
    """File and field are named, and no more memory is asked for than minisign does."""
    path = keyfiles.write_secret(tmp_path, packed)
    with pytest.raises(DocumentError) as caught:
        read_secret_key(path, lambda: b"open")
    says(caught.value, f"{path}: ", part)


def test_a_key_without_a_checksum_is_read(tmp_path: Path) -> None:
    """A minisign of 0.11 writes none where there is no password."""
    packed = keyfiles.plain_secret(SEED, checksum=keyfiles.NO_CHECKSUM)
    assert read_secret_key(keyfiles.write_secret(tmp_path, packed)).public == PUBLIC


def test_an_encrypted_key_needs_a_password(tmp_path: Path) -> None:
    """Nothing is tried without one."""
    path = keyfiles.write_secret(tmp_path, ENCRYPTED)
    with pytest.raises(DocumentError) as caught:
        read_secret_key(path)
    says(caught.value, f"{path}: ", "encrypted")


def test_a_text_of_a_key_does_not_tell_the_secret(tmp_path: Path) -> None:
    """What lands in a log names the key, and no more."""
    assert repr(secret_of(tmp_path)) == f"<SecretKey {keyfiles.NAME}>"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_secret_key_that_others_may_read_is_refused(mode: int, tmp_path: Path) -> None:
    """It is as ssh has it."""
    path = keyfiles.write_secret(tmp_path, PLAIN)
    os.chmod(path, mode)
    with pytest.raises(DocumentError) as caught:
        read_secret_key(path)
    says(caught.value, f"{path}: mode {mode:04o}")


@pytest.mark.requires("root")
def test_a_secret_key_of_another_user_is_read(tmp_path: Path) -> None:
    """Its mode is that user's business: a service may have it by its group."""
    path = keyfiles.write_secret(tmp_path, PLAIN)
    os.chmod(path, 0o640)
    os.chown(path, 12345, -1)
    assert read_secret_key(path).public == PUBLIC


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "1 line(s) instead of 2"),
        (keyfiles.text(PLAIN), "line 2 is not the base64 of 42 bytes"),
        (signature(), "4 line(s) instead of 2"),
        (keyfiles.text(b"Rs" + bytes(40)), "algorithm b'Rs'"),
        (keyfiles.public_line(SEED).encode(), "1 line(s)"),
        (b"x" * 20_000, "too long"),
    ],
)
def test_a_file_that_is_no_public_key_is_refused(content: bytes, part: str, tmp_path: Path) -> None:
    """The file is named, and the line."""
    path = tmp_path / "a key"
    path.write_bytes(content)
    with pytest.raises(DocumentError) as caught:
        read_public_key(str(path))
    says(caught.value, f"{encode(str(path))}: ", part)


def read_secret(path: str) -> SecretKey:
    """Read a secret key by an ordinary path."""
    return read_secret_key(encode(path))


@pytest.mark.parametrize("read", [read_public_key, read_secret])
def test_a_key_that_is_not_there_is_named(read: Callable[[str], object], tmp_path: Path) -> None:
    """A mistyped key or path is not found."""
    with pytest.raises(NotFoundError) as caught:
        read(str(tmp_path / "RWQ"))
    says(caught.value, f"{tmp_path}/RWQ")


# --- What is not there ----------------------------------------------------------------------------


def test_without_cryptography_a_signature_is_beyond_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The extra that has it is named; public keys are read all the same."""
    path = keyfiles.write_secret(tmp_path, PLAIN)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    attempts = (lambda: verify(DATA, signature_made, PUBLIC), lambda: read_secret_key(path))
    for attempt in attempts:
        with pytest.raises(CapabilityError) as caught:
            attempt()
        says(caught.value, "cryptography")
        assert "mountcr[sign]" in str(caught.value.hint)
        assert caught.value.exit_status == 6
    assert read_public_key(keyfiles.public_line(SEED)) == PUBLIC


signature_made: Final = signature()


def test_the_module_waits_with_cryptography() -> None:
    """A key that is only named costs no import."""
    program = "import sys, mountcr.bundle.signature; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"False\n"


def test_memory_that_is_not_there_is_an_error_of_a_line(tmp_path: Path) -> None:
    """A key that asks for the most that is allowed says so where there is less."""
    packed = keyfiles.encrypted_secret(SEED, b"open", limits=(1 << 25, 1 << 30))
    path = keyfiles.write_secret(tmp_path, packed)
    program = (
        "import resource, sys; from mountcr.errors import MountcrError\n"
        "from mountcr.bundle.signature import read_secret_key\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))\n"
        "try: read_secret_key(sys.argv[1], lambda: b'open')\n"
        "except MountcrError as error: print(error.message)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        f"{path}: the password of the secret key takes 1024 MiB of memory to check\n"
    )


# --- The password ---------------------------------------------------------------------------------


def test_the_password_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one is one too."""
    for word in ("let me in", ""):
        monkeypatch.setenv(VARIABLE, word)
        assert key_password() == word.encode()


ASK: Final = """
import sys; from mountcr.cli.password import key_password; from mountcr.errors import MountcrError
try: print("got", key_password())
except MountcrError as error: print("said", error.message)
"""


def without_variable() -> dict[str, str]:
    """Give the environment without a password."""
    return {name: value for name, value in os.environ.items() if name != VARIABLE}


def test_the_password_is_asked_for_on_the_terminal() -> None:
    """It is not shown there, and standard input is not touched."""
    ours, its = pty.openpty()
    # The first terminal that the leader of a session opens is the one that controls it.
    program = f"import os; os.open({os.ttyname(its)!r}, os.O_RDWR)\n{ASK}"
    with (
        open(its, "rb", buffering=0),
        open(ours, "r+b", buffering=0) as terminal,
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=without_variable(),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as asking,
    ):
        shown = b""
        while not shown.endswith(b"key: "):
            shown += terminal.read(100)
        terminal.write(b"let me in\n")
        said, _ = asking.communicate()
        while not shown.endswith(b"\n"):
            shown += terminal.read(100)
    assert (said, asking.returncode) == (b"got b'let me in'\n", 0)
    assert shown == b"Password of the secret key: \r\n"


def test_without_a_terminal_the_variable_is_named() -> None:
    """Nothing waits for a word that nobody can type."""
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=without_variable(),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("said the secret key is encrypted, and there is no terminal")
