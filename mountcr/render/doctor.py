# SPDX-License-Identifier: Apache-2.0
"""What was found on a host, as text: verdicts first, then what they stand on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.render.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.hosts.records import Ability, DoctorDocument

__all__ = ["text_of"]


def text_of(found: DoctorDocument) -> str:
    """Give the text with a newline at its end."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: DoctorDocument) -> Iterator[str]:
    yield f"Linux {found.kernel} {found.machine}, CRIU {found.criu.version or 'none'}"
    yield ""
    table = Table(("", "DUMP", "RESTORE"))
    table.add("this host", found.dump.verdict, found.restore.verdict)
    for driver in found.drivers:
        table.add(driver.driver, driver.dump.verdict, driver.restore.verdict)
    yield from table.plain().splitlines()
    yield from _reasons(found)
    for title, checks in (("works", True), ("missing", False)):
        each = [check for check in found.checks if check.works is checks]
        if not each:
            continue
        yield ""
        yield title
        width = max(len(check.name) for check in each)
        for check in each:
            said = "; ".join(filter(None, (check.detail, check.hint, check.note)))
            yield f"  {check.name:<{width}}  {said}".rstrip()


def _reasons(found: DoctorDocument) -> Iterator[str]:
    """Say each reason once, for the first that it keeps from something."""
    said: set[tuple[str, str]] = set()
    abilities: list[tuple[str, Ability]] = [("dump", found.dump), ("restore", found.restore)]
    for driver in found.drivers:
        abilities += [(driver.driver, driver.dump), (driver.driver, driver.restore)]
    for name, ability in abilities:
        reason = ability.because, ability.hint
        if not ability.because or reason in said:
            continue
        said.add(reason)
        because = ability.because.removeprefix(f"{name}: ")
        yield f"{name}: {because}"
        if ability.hint:
            yield f"  hint: {ability.hint}"
