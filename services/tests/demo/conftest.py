"""A real grid on loopback addresses, one TTP and two workers, over the repository's examples."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "tests" / "bench"))

import loopback  # noqa: E402


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Grid]:
    """A running grid."""
    with loopback.grid(tmp_path_factory.mktemp("grid"), ROOT / "examples") as running:
        yield running
