# SPDX-License-Identifier: Apache-2.0
"""What was found on a host, as text: verdicts and their reasons first, then what they stand on."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from mountcr.hosts.features import PROGRAMS
from mountcr.render.table import Table
from mountcr.render.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.hosts.records import Ability, Check, DoctorDocument

__all__ = ["text_of"]

_WIDTH: Final = 100
_MARGIN: Final = 10
"""Columns of the names of groups."""


def text_of(found: DoctorDocument) -> str:
    """Give the text with a newline at its end."""
    return "\n".join(map(printable, _lines(found))) + "\n"


def _lines(found: DoctorDocument) -> Iterator[str]:
    yield f"Linux {found.kernel} {found.machine}, CRIU {found.criu.version or 'none'}"
    yield ""
    table = Table(("", "DUMP", "RESTORE"))
    table.add("this host", found.dump.verdict, found.restore.verdict)
    for driver in found.drivers:
        table.add(driver.driver, driver.dump.verdict, driver.restore.verdict)
    yield from table.plain().splitlines()
    yield from _reasons(found)
    yield from _known(found)
    yield ""
    for title, names in _working(found).items():
        indent = f"{title:<{_MARGIN}}"
        yield from textwrap.wrap(
            ", ".join(names),
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=" " * _MARGIN,
            break_on_hyphens=False,
        )
    yield from _missing([each for each in found.checks if not each.works])


def _reasons(found: DoctorDocument) -> Iterator[str]:
    """Say each reason once, for the first that it keeps from something."""
    said: set[str] = set()
    abilities: list[tuple[str, Ability]] = [("dump", found.dump), ("restore", found.restore)]
    for driver in found.drivers:
        abilities += [(driver.driver, driver.dump), (driver.driver, driver.restore)]
    for name, ability in abilities:
        because = ability.because.removeprefix(f"{name}: ")
        if because and because not in said:
            said.add(because)
            yield f"{name}: {because}"
            if ability.hint:
                yield f"  hint: {ability.hint}"


def _known(found: DoctorDocument) -> Iterator[str]:
    for each in found.criu.known:
        outcome = ", yet it worked here" if each.contradicted else ""
        yield f"known: {each.sentence}{outcome} ({each.source})"
        if not each.contradicted:
            yield f"  hint: {each.cure}"


def _working(found: DoctorDocument) -> dict[str, list[str]]:
    """Group what works, each with its detail if it has one."""
    groups: dict[str, list[str]] = {}
    for check in found.checks:
        if check.works:
            title, name = _grouped(check)
            detail = "" if title == "programs" else check.detail
            groups.setdefault(title, []).append(f"{name} {detail}".strip())
    return groups


def _grouped(check: Check) -> tuple[str, str]:
    first, _, rest = check.name.partition(" ")
    if first in {"criu", "overlay"}:
        return first, rest or ("mounted" if first == "overlay" else "")
    return ("programs" if check.name in PROGRAMS else "host"), check.name


def _missing(checks: list[Check]) -> Iterator[str]:
    """Say what is missing, one line each: what is there instead or what helps, and the note."""
    if not checks:
        return
    yield ""
    width = max(len(check.name) for check in checks)
    for check in checks:
        said = "; ".join(filter(None, (check.detail, check.hint)))
        note = f" ({check.note})" if check.note else ""
        yield f"no {check.name:<{width}}  {said}{note}".rstrip()
