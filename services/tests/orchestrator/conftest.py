from __future__ import annotations

from collections.abc import Iterator

import pytest
from grid_double import Grid, PlainClient, running

from synergos import cli, logs


@pytest.fixture(scope="session")
def running_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    logs.configure(cli.parse(cli.parser("ttp"), []), "ttp")
    with running(tmp_path_factory.mktemp("orchestrator")) as grid:
        yield grid


@pytest.fixture
def grid(running_grid: Grid) -> Grid:
    running_grid.clear()
    return running_grid


@pytest.fixture
def client(grid: Grid) -> PlainClient:
    return PlainClient(grid.url)
