"""The example data sets in the repository are exactly what their script writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "examples"


def contents(folder: Path) -> dict[str, bytes]:
    """Return path -> bytes of every data file below `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/**/*") if path.is_file()}


def test_the_script_writes_the_committed_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(EXAMPLES / "make.py"), str(tmp_path)], check=True, capture_output=True)
    written = contents(tmp_path)
    assert len(written) == 2 * (3 + 2 * 3 * 3)
    assert written == contents(EXAMPLES)
