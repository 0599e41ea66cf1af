# SPDX-License-Identifier: Apache-2.0
"""
Where a container's files come from, and how to put them back.

    container = mountcr.find("web")
    facts = mountcr.observe(container)
    plan = mountcr.plan(facts)
    with mountcr.rebuild(plan, at="/run/web") as root:
        ...

The functions are loaded when they are first used, see `mountcr.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "MountcrError",
    "__version__",
    "containers",
    "convert",
    "dump",
    "export",
    "files",
    "find",
    "import_bundle",
    "observe",
    "plan",
    "rebuild",
    "restore",
    "verify",
]

if TYPE_CHECKING:
    from mountcr.api import (
        containers,
        convert,
        dump,
        export,
        files,
        find,
        import_bundle,
        observe,
        plan,
        rebuild,
        restore,
        verify,
    )
    from mountcr.errors import MountcrError


def __getattr__(name: str) -> object:
    if name == "MountcrError":
        from mountcr.errors import MountcrError

        return MountcrError
    if name in __all__:
        from mountcr import api

        return getattr(api, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
