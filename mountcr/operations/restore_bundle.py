# SPDX-License-Identifier: Apache-2.0
"""Restore a bundle in one go: see what is missing, import, restore; undone if one of them fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.operations.importing import import_bundle
from mountcr.operations.leftovers import recorded
from mountcr.operations.refusal import refuse
from mountcr.operations.restore import restore
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    from mountcr.engines import Roots
    from mountcr.model import Facts
    from mountcr.operations.importing import Check, ImportChoices, ImportResult
    from mountcr.operations.restore import RestoreResult
    from mountcr.planning.choices import Choices
    from mountcr.rootfs.batches import Progress

__all__ = ["restore_bundle"]


def restore_bundle(
    path: str,
    wanted: ImportChoices,
    choices: Choices,
    *,
    roots: Roots | None = None,
    check: Check = lambda _reader: None,
    stdio: str = "null",
    via: str = "criu",
    progress: Progress | None = None,
) -> tuple[ImportResult, RestoreResult]:
    """
    Import a bundle and restore it.

    What is missing is named, all at once, before anything is unpacked. Raises what `import_bundle`
    and `restore` do; nothing runs then, and nothing that was imported is left. The container runs
    on what was imported, which stays.
    """

    def ready(facts: Facts) -> None:
        refuse(make_plan(facts, choices), "the restore")

    with recorded("restore"):
        imported = import_bundle(
            path, wanted, roots=roots, check=check, ready=ready, progress=progress
        )
        restored = restore(imported.images, choices, stdio=stdio, via=via, progress=progress)
    return imported, restored
