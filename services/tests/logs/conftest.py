"""Log servers, and what the other tests have to start whole grids."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from receiver import Receiver

sys.path.append(str(Path(__file__).parents[3] / "tests" / "bench"))


@pytest.fixture
def server() -> Iterator[Receiver]:
    """A log server that does not listen yet."""
    receiver = Receiver()
    yield receiver
    receiver.reading.set()
