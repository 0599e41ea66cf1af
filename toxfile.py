# SPDX-License-Identifier: Apache-2.0
"""
A plug-in that tox loads by its name: it finds the interpreters that pyenv has but has not on.

For each version that it has, pyenv puts a shim on PATH, which fails unless that version is
switched on. So the directories of the versions are searched too, after all else.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__: list[str] = []

_PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
_DIRECTORIES = sorted(str(path) for path in _PYENV.glob("versions/3.*/bin"))

os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *_DIRECTORIES])
