# SPDX-License-Identifier: Apache-2.0
"""The table of rules, of `table.toml`, where it is said what each means; read as JSON."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import msgspec

from mountcr.model import Severity
from mountcr.rules.versions import within

if TYPE_CHECKING:
    from mountcr.model import Host

__all__ = ["Rule", "table"]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule: `message` is a regular expression, the other texts are for people."""

    stage: str
    severity: Severity
    cure: str
    sentence: str
    message: str = ""
    since: str = ""
    until: str = ""
    kernel_since: str = ""
    kernel_until: str = ""

    def applies(self, host: Host) -> bool:
        """Tell whether the CRIU and the kernel of a host behave so; what is unknown may do."""
        criu = host.criu.version if host.criu else ""
        kernel = host.capabilities.kernel if host.capabilities else ""
        return within(criu, self.since, self.until) and within(
            kernel, self.kernel_since, self.kernel_until
        )


@functools.cache
def table() -> dict[str, Rule]:
    """Give every rule by its id."""
    with open(os.path.join(os.path.dirname(__file__), "table.json"), "rb") as file:
        return msgspec.json.decode(file.read(), type=dict[str, Rule])
