from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path += [
    str(TESTS.parents[1] / "tests" / "bench"),
    *(str(TESTS / name) for name in ("queue", "tracking", "director", "orchestrator")),
]

from cluster import Cluster, running  # noqa: E402
from test_queued_tracking import mlflow as mlflow  # noqa: E402


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster of two grids with two workers each."""
    with running(tmp_path_factory.mktemp("cluster")) as found:
        yield found
