# SPDX-License-Identifier: Apache-2.0
"""The password of a secret key: from the environment, else from whoever sits at the terminal."""

from __future__ import annotations

import os
from typing import Final

from mountcr.errors import UsageError

__all__ = ["VARIABLE", "key_password"]

VARIABLE: Final = "MOUNTCR_KEY_PASSWORD"


def key_password() -> bytes:
    """
    Give the password in $MOUNTCR_KEY_PASSWORD, or ask for it on the controlling terminal.

    Raises UsageError where there is neither: standard input may be a bundle.
    """
    given = os.environb.get(VARIABLE.encode())
    if given is not None:
        return given
    import getpass

    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        raise UsageError(
            "the secret key is encrypted, and there is no terminal to ask for its password",
            hint=f"set {VARIABLE}, or make a key without a password: minisign -G -W",
        ) from None
    try:
        return os.fsencode(getpass.getpass("Password of the secret key: "))
    except EOFError:
        raise UsageError("no password of the secret key was given") from None
