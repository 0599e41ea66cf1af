# SPDX-License-Identifier: Apache-2.0
"""Two hosts compared, as an outline: the verdict, then what was found by how bad it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.model import Severity
from mountcr.planning.records import Verdict
from mountcr.render.findings import add_findings
from mountcr.render.outline import Outline
from mountcr.render.text import printable

if TYPE_CHECKING:
    from mountcr.hosts.compatibility import CompatDocument, HostSummary

__all__ = ["outline_compat"]

_VERDICTS: Final = {
    Verdict.OK: ("nothing that is known keeps containers from going there", "green"),
    Verdict.LOSSES: ("containers can go there, with losses", "yellow"),
    Verdict.REFUSED: ("containers cannot go there as they are", "red"),
}
_SECTIONS: Final = (
    ("refusals", Severity.REFUSAL, "red"),
    ("losses", Severity.LOSS, "yellow"),
    ("notes", Severity.NOTE, ""),
)


def outline_compat(found: CompatDocument) -> Outline:
    """Give the comparison in lines, the verdict first."""
    sentence, style = _VERDICTS[found.verdict]
    hosts = f"{_host(found.source)} to {_host(found.target)}"
    top = Outline(printable(f"{hosts}: {sentence}"), style)
    for title, severity, style in _SECTIONS:
        some = (each for each in found.findings if each.severity is severity)
        add_findings(top, title, some, style)
    return top


def _host(host: HostSummary) -> str:
    said = [
        f"Linux {host.kernel}" if host.kernel else "",
        f"CRIU {host.criu}" if host.criu else "",
    ]
    return f"{host.file} ({', '.join(filter(None, said)) or 'an unknown host'})"
