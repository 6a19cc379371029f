"""The output folder of a worker as a tree: `<collaboration>/<project>/…`."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

OPERATIONS = "operations.json"
PREPROCESSING = "preprocessing"
NEW, OLD = f".{PREPROCESSING}.new", f".{PREPROCESSING}.old"
# An experiment has a folder beside these.
RESERVED = frozenset({OPERATIONS, PREPROCESSING, NEW, OLD})


def produced(folder: Path) -> list[Path]:
    """Return the folders of all projects below `folder`: everything that polls and runs left."""
    marks = (OPERATIONS, PREPROCESSING)
    return sorted(path for path in folder.glob("*/*") if any((path / mark).exists() for mark in marks))


def reset(folder: Path) -> None:
    """Delete what `produced` names, and the folders of collaborations that are empty then."""
    for path in produced(folder):
        shutil.rmtree(path)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
