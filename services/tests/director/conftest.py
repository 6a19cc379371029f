from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path += [
    str(TESTS.parents[1] / "tests" / "bench"),
    *(str(TESTS / name) for name in ("queue", "tracking", "director")),
]

from cluster import Cluster, running  # noqa: E402

# Ends with the tests of this folder, whose ports others need: pytest knows no scope for that.
_RUNNING = ExitStack()


@pytest.hookimpl(trylast=True)  # after the fixtures of the last test
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    if nextitem is None or TESTS / "director" not in nextitem.path.parents:
        _RUNNING.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A running cluster of two grids with two workers each."""
    return _RUNNING.enter_context(running(tmp_path_factory.mktemp("cluster")))
