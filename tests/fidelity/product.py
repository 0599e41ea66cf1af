# SPDX-License-Identifier: Apache-2.0
"""
The one place where the harness calls mountcr to rebuild a container on a storage driver.

What the product refuses by name raises `Refused`; everything else that it raises is a failure.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from mountcr.driver import get_driver
from mountcr.errors import CapabilityError, RefusedError, UsageError
from mountcr.execute import applied
from mountcr.kernel import syscalls
from mountcr.kernel.live import LiveKernel
from mountcr.observation.survey import survey
from mountcr.planning.conversion import convert

if TYPE_CHECKING:
    from collections.abc import Generator

    from mountcr.paths import KPath
    from mountcr.stack import Stack

__all__ = ["STATE", "Refused", "Unfinished", "isolate", "rebuild"]

STATE: Final = (b"/var/lib/mountcr", b"/run/mountcr")
"""Where the product keeps converted layers and assembles mounts."""


class Refused(Exception):  # noqa: N818  # it is an answer
    """The product refuses a conversion, by name."""


class Unfinished(Exception):  # noqa: N818  # it is no error of the conversion
    """The product has no such driver."""


def isolate(base: bytes) -> None:
    """
    Give the product a state of its own, in the mount namespace of the caller.

    It is on the file system of the containers, as `unionfs` tells hard links only then.
    """
    for directory in STATE:
        own = base + b"/" + directory.replace(b"/", b"-")
        os.mkdir(own)
        os.makedirs(directory, exist_ok=True)
        syscalls.mount(own, directory, b"", syscalls.MS_BIND)


@contextlib.contextmanager
def rebuild(stack: Stack, driver: str, at: KPath, upper: KPath) -> Generator[Stack]:
    """
    Rebuild a stack on another driver for a block of code, with its changes in a new directory.

    Gives the new stack, which is mounted at `at`; but for `aufs`, which no kernel here has.
    """
    try:
        get_driver(stack.driver)
        target = get_driver(driver)
    except UsageError as error:
        raise Unfinished(str(error)) from error
    try:
        converted, steps = convert(stack, target, upper, survey(stack, driver, upper))
        if driver != "aufs":
            steps += target.assemble(converted, at)
        with applied(steps, LiveKernel()) as undo:
            yield converted
            undo()
    except (RefusedError, CapabilityError) as error:
        raise Refused(str(error)) from error
