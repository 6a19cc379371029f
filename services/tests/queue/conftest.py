from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from parties import Grids, Heard
from rabbit import Rabbit

from synergos.queue import Publisher, ResultConsumer


@pytest.fixture(scope="session")
def server() -> Iterator[Rabbit]:
    rabbit = Rabbit()
    rabbit.start()
    yield rabbit
    rabbit.kill()
    shutil.rmtree(rabbit.folder)


@pytest.fixture
def rabbit(server: Rabbit) -> Iterator[Rabbit]:
    """A broker with empty queues."""
    server.purge()
    yield server
    server.policy()


@pytest.fixture
def director(rabbit: Rabbit) -> Iterator[Publisher]:
    with Publisher(rabbit.address("director"), "director") as publisher:
        yield publisher


@pytest.fixture
def heard(rabbit: Rabbit) -> Iterator[Heard]:
    """What the Director hears."""
    heard = Heard()
    consumer = ResultConsumer(rabbit.address("director"), "director", heard.take)
    consumer.start()
    yield heard
    consumer.close()


@pytest.fixture
def grids(rabbit: Rabbit) -> Iterator[Grids]:
    grids = Grids(rabbit)
    yield grids
    for line in grids.closing:
        line.close()
